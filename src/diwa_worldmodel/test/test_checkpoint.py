"""Checkpoints: whole or not there, the last two kept, what is damaged is passed over."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from world_model_samples import full_disk

from diwa_conventions.errors import UserError
from diwa_worldmodel.training.checkpoint import (
    Checkpoint,
    NotWrittenError,
    Origin,
    load_newest,
    save_checkpoint,
)

ORIGIN = Origin("a" * 64, {"model": {"kl_scale": 0.3, "cameras": ["static"]}, "training": {"steps": 5}})


def checkpoint(step: int, size: int = 8) -> Checkpoint:
    return Checkpoint(
        step, ORIGIN, {"weights/a": torch.full((size,), float(step)), "moments/step/a": torch.tensor(3.0)}
    )


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in folder.iterdir())


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    warnings: list[str] = []
    return load_newest(folder, warnings.append), warnings


def test_what_was_saved_comes_back(tmp_path):
    saved = checkpoint(7)
    save_checkpoint(tmp_path, saved)
    loaded, warnings = newest(tmp_path)
    assert loaded is not None and (loaded.step, loaded.origin, warnings) == (7, ORIGIN, [])
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in saved.tensors.items())


def test_new_run_has_no_checkpoint(tmp_path):
    assert newest(tmp_path / "checkpoints") == (None, [])


def test_last_two_are_kept(tmp_path):
    for step in (5, 90, 1_000_000, 1_000_100):
        save_checkpoint(tmp_path, checkpoint(step))
    assert steps_in(tmp_path) == [1_000_000, 1_000_100]


def test_damaged_checkpoint_of_a_later_step_gives_way(tmp_path):
    for step in (5, 9):
        save_checkpoint(tmp_path, checkpoint(step))
    (tmp_path / "step_000009" / "tensors.safetensors").unlink()
    save_checkpoint(tmp_path, checkpoint(7))
    assert steps_in(tmp_path) == [5, 7]


def test_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    save_checkpoint(tmp_path, checkpoint(5))
    (tmp_path / "step_000005" / "checkpoint.json").write_text("{")
    save_checkpoint(tmp_path, checkpoint(5))
    loaded, warnings = newest(tmp_path)
    assert loaded is not None and loaded.step == 5 and warnings == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "checkpoint.json").unlink(),
        lambda folder: (folder / "tensors.safetensors").unlink(),
        lambda folder: (folder / "checkpoint.json").write_text('{"format": "diwa-ch'),
        lambda folder: (folder / "checkpoint.json").write_text("[]"),
        lambda folder: (folder / "tensors.safetensors").write_bytes(b""),
    ],
)
def test_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    for step in (5, 9):
        save_checkpoint(tmp_path, checkpoint(step))
    damage(tmp_path / "step_000009")
    loaded, warnings = newest(tmp_path)
    assert loaded is not None and loaded.step == 5
    (line,) = warnings
    assert "step_000009" in line


@settings(max_examples=30, deadline=None)
@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_tensors_is_noticed(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("run")
    for step in (5, 9):
        save_checkpoint(folder, checkpoint(step))
    path = folder / "step_000009" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    loaded, warnings = newest(folder)
    assert loaded is not None and loaded.step == 5 and len(warnings) == 1


def test_run_without_a_sound_checkpoint_is_not_begun_anew_unasked(tmp_path):
    save_checkpoint(tmp_path, checkpoint(5))
    (tmp_path / "step_000005" / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint in .* can be read; remove the run's folder"):
        newest(tmp_path)


def test_other_version_is_refused_and_not_passed_over(tmp_path):
    for step in (5, 9):
        save_checkpoint(tmp_path, checkpoint(step))
    path = tmp_path / "step_000009" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(UserError, match="version 2; this software reads 'diwa-checkpoint' version 1"):
        newest(tmp_path)


def test_full_disk_leaves_the_old_one_and_nothing_partial(tmp_path):
    save_checkpoint(tmp_path, checkpoint(5))
    with full_disk(), pytest.raises(NotWrittenError, match="File too large"):
        save_checkpoint(tmp_path, checkpoint(9, size=10_000))
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]
    loaded, _ = newest(tmp_path)
    assert loaded is not None and loaded.step == 5


def test_what_a_killed_process_left_is_removed(tmp_path):
    save_checkpoint(tmp_path, checkpoint(5))
    (tmp_path / ".partial_000009").mkdir()
    (tmp_path / ".partial_000009" / "tensors.safetensors").write_bytes(b"half")
    loaded, warnings = newest(tmp_path)
    assert loaded is not None and loaded.step == 5 and warnings == []
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]


def test_differences_name_keys_and_both_values():
    other = Origin("b" * 64, {"model": {"kl_scale": 1.0, "cameras": ["static"]}, "training": {"steps": 5, "batch": 2}})
    assert ORIGIN.differences(other) == [
        "model.kl_scale 0.3, not 1.0",
        "training.batch None, not 2",
        "the data set aaaaaaaaaaaa, not bbbbbbbbbbbb",
    ]
    assert ORIGIN.differences(ORIGIN) == []
