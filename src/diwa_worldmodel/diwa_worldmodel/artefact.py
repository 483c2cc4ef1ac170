"""Artefacts: folders with safetensors weights, the resolved config, and what they were made from. Nothing is pickled.

    world_model/
      model.safetensors     all parameters and buffers, normalisation included
      config.yaml           resolved
      metadata.json         format, version, the weights' SHA-256, hash of the whole, lineage

    save_world_model(folder, model, config, metadata)
    loaded = load_world_model(folder)          # .model .config .metadata .hash
    check_data_set(data_set, loaded.config.model, loaded.metadata)

Every kind of artefact is written and read by :func:`save_artefact` and :func:`load_artefact`; what is special to the
world model stands below them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn

from diwa_conventions.errors import UserError
from diwa_worldmodel.config import ModelConfig, WorldModelConfig
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.recording_writer import software, sync, sync_folder
from diwa_worldmodel.dataset.records import lineage_hash
from diwa_worldmodel.dataset.store import CAMERAS, DataSet
from diwa_worldmodel.settings import from_mapping, read_yaml, to_mapping
from diwa_worldmodel.world_model import WorldModel

WEIGHTS, CONFIG, METADATA = "model.safetensors", "config.yaml", "metadata.json"
SOFTWARE = ("diwa_worldmodel", "torch", "safetensors", "numpy")

_PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
_ONLY_SAFETENSORS = "pickled weights are never read, for they can run code; only safetensors are"


@dataclass(frozen=True)
class Kind:
    """What sort of artefact a folder is."""

    format: str
    """The word in metadata.json."""
    version: int
    what: str
    """In messages: ``world model``."""
    command: str
    """What makes one."""


@dataclass(frozen=True)
class Artefact:
    """What :func:`load_artefact` read and checked."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    metadata: dict[str, Any]
    hash: str
    """Of weights, config and metadata: what other artefacts made from this one name as their origin."""


def save_artefact(
    folder: Path, kind: Kind, tensors: Mapping[str, Tensor], config: Mapping[str, Any], metadata: Mapping[str, Any]
) -> str:
    """Write a folder, whole or not at all; its hash. An artefact of the same kind in its place is replaced.

    ``config`` and ``metadata`` hold what YAML and JSON can. UserError if something else stands in the folder's place.
    """
    check_place(folder, kind)
    weights = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    config_text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    weights_hash = hashlib.sha256(weights).hexdigest()
    own_hash = _hash(kind.format, kind.version, weights_hash, config_text.encode(), metadata)
    head = {"format": kind.format, "version": kind.version, "hash": own_hash, "weights_sha256": weights_hash}
    with atomic_folder(folder) as new:
        (new / WEIGHTS).write_bytes(weights)
        (new / CONFIG).write_bytes(config_text.encode())
        text = json.dumps({**head, "metadata": dict(metadata)}, indent=2, allow_nan=False)
        (new / METADATA).write_bytes(text.encode())
    return own_hash


def check_place(folder: Path, kind: Kind) -> None:
    """UserError if an artefact of this kind cannot be written as ``folder``: for before minutes are spent on it."""
    check_writable(folder.parent, f"the {kind.what}")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        found = json.loads((folder / METADATA).read_bytes())["format"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != kind.format:
        raise UserError(
            f"{folder} exists already and is no {kind.what} (found: {_content(folder)}); choose another folder"
        )


def check_writable(folder: Path, what: str) -> None:
    """UserError if no file can be made in the folder, or in what of its path is there."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"{what} cannot be written to {folder}: {there}: {error.strerror}; choose another folder with --out"
        ) from None


def load_artefact(folder: Path, kind: Kind) -> Artefact:
    """Weights on the CPU, config and metadata, their hashes checked. UserError for all that is no such artefact."""
    described = _read_metadata(folder, kind)
    weights, config_text = (_read(folder, name, kind) for name in (WEIGHTS, CONFIG))
    if hashlib.sha256(weights).hexdigest() != described["weights_sha256"]:
        raise UserError(f"{folder / WEIGHTS} is corrupted: its SHA-256 is not the one in {METADATA}; {_anew(kind)}")
    metadata = described["metadata"]
    expected = _hash(kind.format, kind.version, described["weights_sha256"], config_text, metadata)
    if described["hash"] != expected:
        raise UserError(f"{folder}: {CONFIG} or {METADATA} was changed after it was made; {_anew(kind)}")
    try:
        tensors = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is not in safetensors format ({error}); {_anew(kind)}") from None
    return Artefact(tensors, read_yaml(folder / CONFIG), metadata, described["hash"])


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy tensors into a module. UserError naming the first that is missing, unknown or of another shape."""
    own = module.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors or name not in own:
            found = "is missing" if name not in tensors else "is not part of the model that its config describes"
            raise UserError(f"{where}: tensor {name!r} {found}; weights and config do not belong together")
        if tensors[name].shape != own[name].shape:
            raise UserError(
                f"{where}: tensor {name!r} has shape {tuple(tensors[name].shape)}, its config expects "
                f"{tuple(own[name].shape)}; weights and config do not belong together"
            )
    module.load_state_dict(dict(tensors))


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``folder`` and what is there when the block ends well.

    Its files are forced to the disk first. After an exception nothing of it remains; what a killed process left
    (``.NAME.new``, ``.NAME.old``) the next one removes.
    """
    folder = Path(os.path.abspath(folder))
    new, old = (folder.parent / f".{folder.name}.{word}" for word in ("new", "old"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    _put_back(old, folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        sync_folder(new)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        sync(folder.parent)
    finally:
        _put_back(old, folder)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    """Undo the first of two renames if the second did not come."""
    if old.exists() and not folder.exists():
        os.rename(old, folder)


def _hash(form: str, version: int, weights_hash: str, config: bytes, metadata: Mapping[str, Any]) -> str:
    words = json.dumps(dict(metadata), sort_keys=True)
    return lineage_hash([form, str(version), weights_hash, hashlib.sha256(config).hexdigest(), words])


def _anew(kind: Kind) -> str:
    return f"copy it again from where it came, or make it anew with: {kind.command}"


def _read_metadata(folder: Path, kind: Kind) -> dict[str, Any]:
    """metadata.json with all its parts, of this format and version."""
    if not folder.is_dir():
        raise _no_folder(folder, kind)
    if not (folder / METADATA).exists():
        raise _no_artefact(folder, kind)
    described = _parse(folder, kind)
    if described.get("format") != kind.format or described.get("version") != kind.version:
        raise UserError(
            f"{folder} has format {described.get('format')!r} version {described.get('version')!r}; expected a "
            f"{kind.what}: {kind.format!r} version {kind.version}, as made by: {kind.command}"
        )
    for name, sort in {"hash": str, "weights_sha256": str, "metadata": dict}.items():
        if not isinstance(described.get(name), sort):
            raise UserError(f"{folder / METADATA} has no {name!r}; {_anew(kind)}")
    return described


def _parse(folder: Path, kind: Kind) -> dict[str, Any]:
    try:
        described = json.loads(_read(folder, METADATA, kind))
    except ValueError as error:
        raise UserError(f"{folder / METADATA} is not JSON ({error}); {_anew(kind)}") from None
    return described if isinstance(described, dict) else {}


def _read(folder: Path, name: str, kind: Kind) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{folder} has no {name} (found: {_content(folder)}); {_anew(kind)}") from None


def _no_folder(path: Path, kind: Kind) -> UserError:
    if not path.exists():
        return UserError(f"there is no {kind.what} {path}; make one with: {kind.command}")
    with open(path, "rb") as file:
        start = file.read(8)
    if path.suffix in _PICKLED or start.startswith(_PICKLE_STARTS):
        return UserError(f"{path}: {_ONLY_SAFETENSORS}; expected a folder made by: {kind.command}")
    return UserError(f"{path} is a file; expected the {kind.what}'s folder, which holds {WEIGHTS} and {METADATA}")


def _no_artefact(folder: Path, kind: Kind) -> UserError:
    below = [path.parent for path in sorted(folder.glob(f"*/{METADATA}"))]
    if below:
        own = folder / kind.what.replace(" ", "_")  # a run's outcome; others in its folder are by-products
        return UserError(f"{folder} is not a {kind.what}; did you mean {own if own in below else below[0]}?")
    pickled = next((path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLED), None)
    if pickled:
        return UserError(f"{folder} holds {pickled}: {_ONLY_SAFETENSORS}; expected a folder made by: {kind.command}")
    return UserError(
        f"{folder} is not a {kind.what} (found: {_content(folder)}); expected a folder made by: {kind.command}"
    )


def _content(path: Path) -> str:
    if not path.is_dir():
        return "a file"
    return ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"


WORLD_MODEL = Kind("diwa-world-model", 1, "world model", "diwa train DATA_SET --out RUN")


@dataclass(frozen=True)
class WorldModelMetadata:
    """What a world model was made from; the parts with defaults are filled in by :func:`save_world_model`."""

    data_set_hashes: tuple[str, ...]
    """Of the data sets it has learned from."""
    data_set: DataSetConfig
    """Image size, fit and action scale that frames and actions must have."""
    scene_state_names: tuple[str, ...] = ()
    """Columns that the hybrid variant reads; empty for vision only."""
    held_out: tuple[tuple[str, int, int], ...] = ()
    """Episodes it has not learned from: recording, first frame, frames."""
    preset: str = ""
    steps: int = 0
    """Gradient steps."""
    normalisation: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """``proprio_mean``, ``proprio_std``, and the same of ``scene_state``; the model has them in its weights."""
    software: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "data_set": self.data_set.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WorldModelMetadata:
        """Inverse of :meth:`to_json`. ValueError or TypeError for other keys and types."""
        known = dict(values)
        known["data_set"] = DataSetConfig.from_json(known["data_set"])
        known["held_out"] = tuple((str(name), int(start), int(length)) for name, start, length in known["held_out"])
        for name in ("data_set_hashes", "scene_state_names"):
            known[name] = tuple(known[name])
        missing = {item.name for item in fields(cls)} - set(known)
        if missing:
            raise ValueError(f"no {sorted(missing)[0]}")
        return cls(**known)


@dataclass(frozen=True)
class LoadedWorldModel:
    """A world model in evaluation mode, with all that its folder says about it."""

    model: WorldModel
    config: WorldModelConfig
    metadata: WorldModelMetadata
    hash: str
    """What policies, classifiers and latents made with this model name as their world model."""
    folder: Path


def save_world_model(folder: Path, model: WorldModel, config: WorldModelConfig, metadata: WorldModelMetadata) -> str:
    """Write the world model's folder, atomically; its hash. UserError if something else stands in its place."""
    numbers = {"proprio": model.proprio, "scene_state": model.scene_state}
    normalisation = {
        f"{name}_{part}": [float(value) for value in getattr(own, part)]
        for name, own in numbers.items()
        for part in ("mean", "std")
    }
    whole = replace(metadata, normalisation=normalisation, software=software(SOFTWARE))
    return save_artefact(folder, WORLD_MODEL, model.state_dict(), to_mapping(config), whole.to_json())


def load_world_model(folder: Path, device: torch.device | str = "cpu") -> LoadedWorldModel:
    """The world model in a folder, checked; the caller's random numbers are not touched. UserError in a line."""
    artefact = load_artefact(folder, WORLD_MODEL)
    try:
        config = from_mapping(WorldModelConfig, artefact.config)
        metadata = WorldModelMetadata.from_json(artefact.metadata)
    except (KeyError, TypeError, ValueError) as error:  # UserError is a ValueError
        line = str(error) if isinstance(error, UserError) else f"{METADATA}: {error}"
        raise UserError(f"{folder} is of another version of this software: {line}; {_anew(WORLD_MODEL)}") from None
    with torch.random.fork_rng(devices=[]):
        model = WorldModel(config.model)
    fill(model, artefact.tensors, folder)
    return LoadedWorldModel(model.to(device).eval(), config, metadata, artefact.hash, folder)


def check_data_set(data_set: DataSet, model: ModelConfig, metadata: WorldModelMetadata | None = None) -> None:
    """UserError if the model cannot read this data set, or, with ``metadata``, was trained on frames of another kind.

    Names what was found, what was expected, and what to do. Before training there is no ``metadata`` yet.
    """
    path, size = data_set.path, data_set.config.image_size_px
    if not data_set.recordings:
        raise UserError(f"{path} holds no recordings; fill it with: diwa import BAG --out {path}")
    if size != model.image_size_px:
        raise UserError(
            f"{path} has images of {size} px, the world model expects {model.image_size_px} px: import with "
            f"--image-size {model.image_size_px}, or train with --set model.image_size_px={size}"
        )
    missing = [name for name in model.cameras if name not in CAMERAS]
    if missing:
        raise UserError(
            f"{path} has the cameras {', '.join(CAMERAS)}, the world model expects {', '.join(model.cameras)}: train "
            f"one with --set model.cameras=[{','.join(CAMERAS)}]"
        )
    _check_scene_state(data_set, model, metadata)
    if metadata is not None:
        _check_meaning(data_set, metadata.data_set)


def _check_scene_state(data_set: DataSet, model: ModelConfig, metadata: WorldModelMetadata | None) -> None:
    if not model.scene_state:
        return
    first = data_set.recordings[0]
    expected = f"{model.scene_state} numbers" if metadata is None else ", ".join(metadata.scene_state_names)
    for recording in data_set.recordings:
        names = recording.scene_state_names
        if metadata is None and len(names) == model.scene_state and names != first.scene_state_names:
            raise UserError(
                f"{data_set.path}: recording {recording.id} has the scene state {', '.join(names)}, {first.id} has "
                f"{', '.join(first.scene_state_names) or 'none'}: import them into data sets of their own"
            )
        if len(names) != model.scene_state or (metadata is not None and names != metadata.scene_state_names):
            raise UserError(
                f"{data_set.path}: recording {recording.id} has the scene state {', '.join(names) or 'of nothing'}, "
                f"the hybrid world model expects {expected}: train one with --set model.scene_state={len(names)}"
            )


def _check_meaning(data_set: DataSet, expected: DataSetConfig) -> None:
    found = data_set.config
    if found.fit != expected.fit:
        raise UserError(
            f"{data_set.path} has images made square by {found.fit!r}, the world model was trained on "
            f"{expected.fit!r}: import with --fit {expected.fit}"
        )
    for name in ("translation_m", "rotation_rad"):
        own, other = getattr(found.scale, name), getattr(expected.scale, name)
        if own != other:
            raise UserError(
                f"{data_set.path} has actions with scale.{name} {own:g}, the world model was trained with {other:g}: "
                f"import with --scale.{name.replace('_', '-')} {other:g}"
            )
