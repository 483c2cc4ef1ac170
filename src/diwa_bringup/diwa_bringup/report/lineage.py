"""What was made from what: the learned artefacts of a run, by their hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diwa_bringup.report.json_files import CLASSIFIER, POLICY, WORLD_MODEL, Content, Format, read_json

SHOWN_DIGITS = 12
METADATA = "metadata.json"
WORLD_MODEL_FOLDER, BASE, REWARD, CHOSEN = "world_model/world_model", "base", "reward", "finetuned/policy"


@dataclass(frozen=True)
class Parent:
    """What an artefact says that it was made from."""

    name: str
    hash: str
    is_here: bool | None
    """Whether it is the one in this run; None where nobody can tell."""

    @property
    def short(self) -> str:
        return self.hash[:SHOWN_DIGITS]


@dataclass(frozen=True)
class Artefact:
    """A folder with weights."""

    name: str
    folder: str
    """In the run."""
    hash: str
    words: str
    """What it is, in a few."""
    parents: tuple[Parent, ...]
    software: Mapping[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        return self.hash[:SHOWN_DIGITS]

    @property
    def mismatches(self) -> tuple[Parent, ...]:
        """Parents that are others than those of this run."""
        return tuple(one for one in self.parents if one.is_here is False)


def read_lineage(run: Path) -> tuple[Artefact, ...]:
    """The artefacts that are there, in the order in which they are made."""
    hashes: dict[str, str] = {}
    found = []
    for name, folder, kind in (
        ("world model", WORLD_MODEL_FOLDER, WORLD_MODEL),
        ("pre-trained policy", BASE, POLICY),
        ("reward classifier", REWARD, CLASSIFIER),
        ("fine-tuned policy", CHOSEN, POLICY),
    ):
        one = _read(run, name, folder, kind, hashes)
        if one:
            hashes[name] = one.hash
            found.append(one)
    return tuple(found)


def _read(run: Path, name: str, folder: str, kind: Format, hashes: Mapping[str, str]) -> Artefact | None:
    def parse(content: Content) -> Artefact:
        metadata: Content = content["metadata"]
        parents = tuple(Parent(*one, _is_here(*one, hashes)) for one in _parents(metadata))
        software = {str(library): str(version) for library, version in metadata["software"].items()}
        return Artefact(name, folder, str(content["hash"]), _words(kind, metadata), parents, software)

    return read_json(run / folder / METADATA, kind, parse)


def _parents(metadata: Content) -> Iterator[tuple[str, str]]:
    """Names and hashes, as the metadata have them."""
    for one in metadata.get("data_set_hashes", ()):
        yield "data set", str(one)
    for key, name in (
        ("world_model_hash", "world model"),
        ("data_set_hash", "demonstrations"),
        ("base_hash", "pre-trained policy"),
        ("reward_hash", "reward classifier"),
    ):
        if metadata.get(key):
            yield name, str(metadata[key])


def _is_here(name: str, found: str, hashes: Mapping[str, str]) -> bool | None:
    """None for data sets: their folders do not tell their hashes."""
    return None if name not in hashes else hashes[name] == found


def _words(kind: Format, metadata: Content) -> str:
    preset = f"preset {metadata['preset']}, " if metadata["preset"] else ""
    if kind is WORLD_MODEL:
        return f"{preset}{int(metadata['steps']):,} steps"
    if kind is CLASSIFIER:
        learned, held_out = metadata["attempts"]
        return f"{preset}{learned} attempts, {held_out} held out"
    if metadata["origin"] == "pretrained":
        return f"{preset}{metadata['demonstrations']} demonstrations"
    return f"{preset}iteration {metadata['iteration']}, {int(metadata['imagined_steps']):,} dreamed steps"
