"""Artefacts: whole or not at all, checked when they are read, refused with one line that says what to do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world_model_samples import IMAGE_SIZE, SCENE_STATE_NAMES, small_batch, small_config, small_data_set

from diwa_conventions.actions import ActionScale
from diwa_conventions.errors import UserError
from diwa_worldmodel import artefact
from diwa_worldmodel.artefact import (
    Kind,
    WorldModelMetadata,
    check_data_set,
    load_artefact,
    load_world_model,
    save_artefact,
    save_world_model,
)
from diwa_worldmodel.config import WorldModelConfig
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.store import create_data_set
from diwa_worldmodel.world_model import WorldModel

KIND = Kind("diwa-test", 3, "test artefact", "diwa make-test")
TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor([7, 8])}
METADATA = WorldModelMetadata(
    data_set_hashes=("ab" * 32,),
    data_set=DataSetConfig(image_size_px=IMAGE_SIZE),
    held_out=(("play0-000", 40, 40),),
    preset="tiny",
    steps=12,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def saved_model(folder: Path, config: WorldModelConfig | None = None) -> tuple[WorldModel, WorldModelConfig]:
    config = config or small_config()
    torch.manual_seed(0)
    model = WorldModel(config.model)
    model.proprio.fit(torch.arange(10.0), torch.arange(1.0, 11.0))
    save_world_model(folder, model, config, METADATA)
    return model, config


def error_of(folder: Path, kind: Kind = artefact.WORLD_MODEL) -> str:
    with pytest.raises(UserError) as caught:
        load_artefact(folder, kind) if kind is KIND else load_world_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(st.text(), json_values, max_size=4))
def test_any_metadata_comes_back_as_it_was(tmp_path: Path, metadata: dict[str, Any]) -> None:
    saved = save_artefact(tmp_path / "a", KIND, TENSORS, {"b": [1, 2]}, metadata)
    found = load_artefact(tmp_path / "a", KIND)
    assert found.metadata == metadata and found.config == {"b": [1, 2]} and found.hash == saved
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "metadata.json"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_noticed(tmp_path: Path, name: str, data: st.DataObject) -> None:
    metadata = {"scale": 0.08, "names": ["static"], "note": "as made"}
    folder, path = tmp_path / "a", tmp_path / "a" / name
    if not folder.exists():
        save_artefact(folder, KIND, TENSORS, {"depth": 4}, metadata)
    sound = path.read_bytes()
    at = data.draw(st.integers(0, len(sound) - 1))
    path.write_bytes(sound[:at] + bytes([sound[at] ^ data.draw(st.integers(1, 255))]) + sound[at + 1 :])
    try:
        found = load_artefact(folder, KIND)
        assert name == "metadata.json" and found.metadata == metadata  # only white space says the same as before
    except UserError:
        pass
    finally:
        path.write_bytes(sound)


def test_hash_tells_weights_config_and_metadata_apart(tmp_path: Path) -> None:
    plain = save_artefact(tmp_path / "a", KIND, TENSORS, {"b": 1}, {"c": 1})
    others = [
        save_artefact(tmp_path / "b", KIND, {**TENSORS, "count": torch.tensor([7, 9])}, {"b": 1}, {"c": 1}),
        save_artefact(tmp_path / "c", KIND, TENSORS, {"b": 2}, {"c": 1}),
        save_artefact(tmp_path / "d", KIND, TENSORS, {"b": 1}, {"c": 2}),
    ]
    assert len({plain, *others}) == 4
    assert save_artefact(tmp_path / "elsewhere", KIND, TENSORS, {"b": 1}, {"c": 1}) == plain


def test_loaded_world_model_computes_the_same(tmp_path: Path) -> None:
    model, config = saved_model(tmp_path / "world_model")
    before = torch.random.get_rng_state()
    loaded = load_world_model(tmp_path / "world_model")
    assert torch.equal(torch.random.get_rng_state(), before)
    batch, start = small_batch(config), model.rssm.initial(config.training.batch)
    with torch.no_grad():
        assert torch.equal(model(batch, start)[0].total, loaded.model(batch, start)[0].total)
    assert loaded.config == config and not loaded.model.training
    assert loaded.metadata == replace(
        METADATA, normalisation=loaded.metadata.normalisation, software=loaded.metadata.software
    )
    assert loaded.metadata.normalisation["proprio_mean"] == list(range(10))
    assert loaded.metadata.software["torch"] == torch.__version__


def test_nothing_in_the_folder_is_pickled(tmp_path: Path) -> None:
    saved_model(tmp_path / "world_model")
    assert sorted(os.listdir(tmp_path / "world_model")) == ["config.yaml", "metadata.json", "model.safetensors"]
    assert sorted(os.listdir(tmp_path)) == ["world_model"]


def test_saving_replaces_a_world_model_with_all_that_belonged_to_it(tmp_path: Path) -> None:
    saved_model(tmp_path / "world_model")
    (tmp_path / "world_model" / "evaluation").mkdir()
    saved_model(tmp_path / "world_model", small_config(deterministic=24))
    assert load_world_model(tmp_path / "world_model").config.model.deterministic == 24
    assert not (tmp_path / "world_model" / "evaluation").exists()


def test_saving_does_not_replace_anything_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"no world model \(found: thesis.tex\); choose another folder"):
        saved_model(tmp_path)
    save_artefact(tmp_path / "policy", KIND, TENSORS, {}, {})
    with pytest.raises(UserError, match="no world model"):
        saved_model(tmp_path / "policy")
    assert load_artefact(tmp_path / "policy", KIND).metadata == {}


def test_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, config = saved_model(tmp_path / "world_model")

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artefact, "sync_folder", full)
    with pytest.raises(OSError, match="No space"):
        saved_model(tmp_path / "world_model", small_config(deterministic=24))
    assert load_world_model(tmp_path / "world_model").config == config
    assert os.listdir(tmp_path) == ["world_model"]


def test_failure_of_the_last_step_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, config = saved_model(tmp_path / "world_model")
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if source.name.endswith(".new"):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(PermissionError):
        saved_model(tmp_path / "world_model", small_config(deterministic=24))
    assert load_world_model(tmp_path / "world_model").config == config
    assert os.listdir(tmp_path) == ["world_model"]


def test_one_that_was_moved_aside_when_the_process_was_killed_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config = saved_model(tmp_path / "world_model")
    os.rename(tmp_path / "world_model", tmp_path / ".world_model.old")
    (tmp_path / ".world_model.new").mkdir()
    with pytest.raises(ZeroDivisionError), artefact.atomic_folder(tmp_path / "world_model"):
        raise ZeroDivisionError
    assert load_world_model(tmp_path / "world_model").config == config
    assert os.listdir(tmp_path) == ["world_model"]


class TestRefused:
    def test_no_such_folder(self, tmp_path: Path) -> None:
        assert "there is no world model" in error_of(tmp_path / "none")
        assert "diwa train DATA_SET --out RUN" in error_of(tmp_path / "none")

    def test_foreign_folder_with_what_it_holds(self, tmp_path: Path) -> None:
        (tmp_path / "photo.jpg").touch()
        assert "is not a world model (found: photo.jpg)" in error_of(tmp_path)

    def test_run_folder_with_the_one_that_was_meant(self, tmp_path: Path) -> None:
        saved_model(tmp_path / "world_model")
        assert error_of(tmp_path).endswith(f"did you mean {tmp_path / 'world_model'}?")

    def test_run_folder_means_the_outcome_before_by_products(self, tmp_path: Path) -> None:
        for name in ("last", "world_model"):
            saved_model(tmp_path / name)
        assert error_of(tmp_path).endswith(f"did you mean {tmp_path / 'world_model'}?")

    def test_pickle_is_not_even_opened(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (os.mkdir, (str(tmp_path / "sprung"),))

        for name in ("model.pt", "weights"):  # known by its name or by its first bytes
            (tmp_path / name).write_bytes(pickle.dumps(Trap()))
            assert "only safetensors are" in error_of(tmp_path / name)
        assert "holds model.pt: pickled weights are never read" in error_of(tmp_path)
        assert not (tmp_path / "sprung").exists()

    def test_weights_file_instead_of_its_folder(self, tmp_path: Path) -> None:
        saved_model(tmp_path / "world_model")
        assert "expected the world model's folder" in error_of(tmp_path / "world_model" / "model.safetensors")

    @pytest.mark.parametrize(
        "change, found",
        [
            ({"format": "diwa-policy"}, "has format 'diwa-policy' version 1; expected a world model"),
            ({"version": 9}, "version 9; expected a world model: 'diwa-world-model' version 1"),
            ({"weights_sha256": None}, "has no 'weights_sha256'"),
            ({"hash": "0" * 64}, "was changed after it was made"),
        ],
    )  # fmt: skip
    def test_other_head(self, tmp_path: Path, change: dict[str, Any], found: str) -> None:
        saved_model(tmp_path / "a")
        path = tmp_path / "a" / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        assert found in error_of(tmp_path / "a")

    def test_metadata_that_is_no_json(self, tmp_path: Path) -> None:
        saved_model(tmp_path / "a")
        (tmp_path / "a" / "metadata.json").write_text("{")
        assert "metadata.json is not JSON" in error_of(tmp_path / "a")

    @pytest.mark.parametrize("name", ["model.safetensors", "config.yaml"])
    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        saved_model(tmp_path / "a")
        (tmp_path / "a" / name).unlink()
        assert f"has no {name}" in error_of(tmp_path / "a")

    def test_weights_cut_off(self, tmp_path: Path) -> None:
        saved_model(tmp_path / "a")
        path = tmp_path / "a" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-4])
        assert "is corrupted: its SHA-256" in error_of(tmp_path / "a")

    def test_weights_in_another_format(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(safetensors.torch, "save", lambda tensors: b"not safetensors at all")
        save_artefact(tmp_path / "a", KIND, TENSORS, {}, {})
        assert "is not in safetensors format" in error_of(tmp_path / "a", KIND)

    def _resaved(self, folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> str:
        """The error for a world model with a sound hash whose parts were made by others."""
        metadata = replace(METADATA, normalisation={}, software={}).to_json()
        save_artefact(folder, artefact.WORLD_MODEL, tensors, config, metadata)
        return error_of(folder)

    def test_tensors_that_do_not_fit_the_config(self, tmp_path: Path) -> None:
        model, _ = saved_model(tmp_path / "a")
        config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
        name, state = "rssm.prior_logits.bias", model.state_dict()
        without = {key: tensor for key, tensor in state.items() if key != name}
        assert f"tensor '{name}' is missing" in self._resaved(tmp_path / "b", without, config)
        more = {**state, "head.weight": torch.zeros(1)}
        assert "tensor 'head.weight' is not part of the model" in self._resaved(tmp_path / "c", more, config)
        wider = {**state, name: torch.zeros(17)}
        assert f"tensor '{name}' has shape (17,), its config expects (16,)" in self._resaved(
            tmp_path / "d", wider, config
        )

    def test_config_with_a_key_of_another_version(self, tmp_path: Path) -> None:
        model, _ = saved_model(tmp_path / "a")
        config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
        config["model"]["classses"] = config["model"].pop("classes")
        assert "'model.classses'; did you mean 'model.classes'?" in self._resaved(
            tmp_path / "b", model.state_dict(), config
        )

    def test_metadata_of_another_version(self, tmp_path: Path) -> None:
        model, config = saved_model(tmp_path / "a")
        plain = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
        save_artefact(tmp_path / "b", artefact.WORLD_MODEL, model.state_dict(), plain, {"steps": 3})
        assert "is of another version of this software" in error_of(tmp_path / "b")


class TestDataSet:
    def test_that_fits_is_taken(self, tmp_path: Path) -> None:
        data_set = small_data_set(tmp_path / "play", frames=24, episodes=2, scene_state=True)
        check_data_set(data_set, small_config().model, METADATA)
        hybrid = small_config(scene_state=len(SCENE_STATE_NAMES)).model
        check_data_set(data_set, hybrid, replace(METADATA, scene_state_names=SCENE_STATE_NAMES))

    def test_without_recordings_is_refused(self, tmp_path: Path) -> None:
        data_set = create_data_set(tmp_path / "play", DataSetConfig(image_size_px=IMAGE_SIZE))
        with pytest.raises(UserError, match="holds no recordings; fill it with: diwa import"):
            check_data_set(data_set, small_config().model)

    def test_of_another_image_size_is_refused(self, tmp_path: Path) -> None:
        data_set = small_data_set(tmp_path / "play", frames=24, episodes=2)
        with pytest.raises(
            UserError, match="images of 16 px, the world model expects 32 px: import with --image-size 32"
        ):
            check_data_set(data_set, small_config(image_size_px=32).model)

    def test_without_a_camera_is_refused(self, tmp_path: Path) -> None:
        data_set = small_data_set(tmp_path / "play", frames=24, episodes=2)
        with pytest.raises(UserError, match="cameras static, gripper, the world model expects static, wrist"):
            check_data_set(data_set, small_config(cameras=["static", "wrist"]).model)

    def test_with_other_scene_state_is_refused(self, tmp_path: Path) -> None:
        hybrid = small_config(scene_state=3).model
        plain = small_data_set(tmp_path / "plain", frames=24, episodes=2)
        with pytest.raises(UserError, match="has the scene state of nothing, the hybrid world model expects 3 numbers"):
            check_data_set(plain, hybrid)
        named = small_data_set(tmp_path / "named", frames=24, episodes=2, scene_state=True)
        expected = replace(METADATA, scene_state_names=("square_x", "square_y", "drawer"))
        with pytest.raises(UserError, match="square_x, square_y, lamp, the hybrid world model expects .*drawer"):
            check_data_set(named, hybrid, expected)

    def test_whose_recordings_differ_in_scene_state_is_refused_before_training(self, tmp_path: Path) -> None:
        data_set = small_data_set(tmp_path / "play", frames=24, episodes=2, scene_state=True)
        first, second = data_set.recordings
        second = replace(second, scene_state_names=("square_x", "square_y", "drawer"))
        mixed = replace(data_set, recordings=(first, second))
        with pytest.raises(UserError, match="square_y, drawer, .* has square_x, .*lamp: import them into data sets of"):
            check_data_set(mixed, small_config(scene_state=3).model)
        check_data_set(mixed, small_config().model)

    @pytest.mark.parametrize(
        "other, message",
        [
            ({"fit": "letterbox"}, "made square by 'crop', .* on 'letterbox': import with --fit letterbox"),
            (
                {"scale": ActionScale(0.1)},
                "scale.translation_m 0.08, .* with 0.1: import with --scale.translation-m 0.1",
            ),
            ({"scale": ActionScale(0.08, 0.3)}, "scale.rotation_rad 0.2, .* with 0.3: .* --scale.rotation-rad 0.3"),
        ],
    )
    def test_with_images_or_actions_of_another_meaning_is_refused(
        self, tmp_path: Path, other: dict[str, Any], message: str
    ) -> None:
        data_set = small_data_set(tmp_path / "play", frames=24, episodes=2)
        expected = replace(METADATA, data_set=replace(METADATA.data_set, **other))
        with pytest.raises(UserError, match=message):
            check_data_set(data_set, small_config().model, expected)
        check_data_set(data_set, small_config().model)  # before training there is nothing to differ from


def test_folder_can_be_moved(tmp_path: Path) -> None:
    saved_model(tmp_path / "a")
    before = load_world_model(tmp_path / "a").hash
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert load_world_model(tmp_path / "b").hash == before
