"""``diwa inspect`` from a path to files, text and exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tyro
from bag_factory import items, write_bag
from quality_samples import add_recording, empty_data_set, noise_images

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.inspecting import Inspect

CALVIN = Path(__file__).parents[4] / "shared" / "data" / "calvin_slice"


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _noisy_bag(folder: Path) -> Path:
    """A bag with pictures that show something."""
    made = items(seconds=6.0)
    pictures = iter(noise_images(len(made), 5, size=24))
    for item in made:
        if "image" in item.values:
            item.values["image"] = next(pictures)
    return write_bag(folder, made)


def test_the_report_of_a_data_set_lies_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_recording(tmp_path / "play", "monday", 60)

    assert Inspect(tmp_path / "play").run() == 0

    assert "<h1>play</h1>" in (tmp_path / "play/quality/report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "play/quality/quality.json").read_text())["frames"] == 60
    said = capsys.readouterr().out
    assert said.startswith("play: 8 s usable of 8 s recorded, 60 frames")
    assert said.splitlines()[-1] == f"report: {tmp_path / 'play/quality/report.html'}"


def test_a_report_does_not_change_what_it_reports_on(tmp_path: Path) -> None:
    data_set = add_recording(tmp_path / "play", "monday", 60)
    before = data_set.hash()
    Inspect(tmp_path / "play").run()
    first = (tmp_path / "play/quality/quality.json").read_bytes()
    Inspect(tmp_path / "play").run()

    assert add_recording(tmp_path / "play", "tuesday", 20).frames == 80
    assert data_set.hash() == before
    assert (tmp_path / "play/quality/quality.json").read_bytes() == first


def test_a_bag_is_imported_for_the_time_being(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    bag = _noisy_bag(tmp_path / "monday")
    before = sorted(bag.iterdir())

    assert Inspect(bag).run() == 0

    numbers = json.loads((tmp_path / "quality_monday/quality.json").read_text())
    assert {topic["role"] for topic in numbers["topics"]} >= {"static_image", "gripper_image", "current_pose"}
    assert numbers["frames"] == pytest.approx(45, abs=2)
    assert numbers["skew"]["percentiles_ms"] is not None
    assert sorted(bag.iterdir()) == before
    assert list(temporary.iterdir()) == []


def test_lost_camera_frames_of_a_bag_become_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = items(seconds=10.0)
    images = [item for item in made if item.topic.name.startswith("static_camera")]
    lost = {id(item) for item in images[100:109:2]}
    bag = write_bag(tmp_path / "monday", [item for item in made if id(item) not in lost])

    Inspect(bag).run()

    assert "static camera dropped 1.7% of frames; above 1% training suffers" in capsys.readouterr().out


def test_out_chooses_the_folder(tmp_path: Path) -> None:
    add_recording(tmp_path / "play", "monday", 20)
    Inspect(tmp_path / "play", out=tmp_path / "a" / "b").run()

    assert (tmp_path / "a/b/report.html").exists()
    assert not (tmp_path / "play/quality").exists()


def test_bad_verdicts_fail_only_when_strict(tmp_path: Path) -> None:
    add_recording(tmp_path / "good", "monday", 60)
    add_recording(tmp_path / "covered", "monday", 60, static=np.zeros((60, 8, 8, 3), np.uint8))

    assert Inspect(tmp_path / "good", strict=True).run() == 0
    assert Inspect(tmp_path / "covered").run() == 0
    assert Inspect(tmp_path / "covered", strict=True).run() == 1


def test_an_empty_data_set_is_reported_as_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty_data_set(tmp_path / "empty")

    assert Inspect(tmp_path / "empty", strict=True).run() == 1
    assert "holds no frames; fill it with: diwa import" in capsys.readouterr().out


def test_of_several_bags_a_broken_one_is_a_fault_and_not_the_end(tmp_path: Path) -> None:
    _noisy_bag(tmp_path / "bags" / "good")
    (tmp_path / "bags" / "broken").mkdir()
    (tmp_path / "bags" / "broken" / "broken_0.mcap").write_bytes(b"")

    assert Inspect(tmp_path / "bags", strict=True).run() == 1

    verdicts = json.loads((tmp_path / "quality_bags/quality.json").read_text())["verdicts"]
    assert [one["sentence"] for one in verdicts if one["check"] == "recordings"][0].count("broken") >= 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no"),
        (lambda path: path.mkdir(), "holds no bag, CALVIN or LeRobot folder"),
        (lambda path: path.write_text("hello"), "is not an MCAP file"),
        (lambda path: path.mkdir() or (path / "bag_0.mcap").write_bytes(b""), "is empty: nothing was recorded"),
    ],
)
def test_what_cannot_be_inspected_is_said_in_one_line(tmp_path: Path, make: object, words: str) -> None:
    make(tmp_path / "it")  # type: ignore[operator]

    with pytest.raises(UserError, match=words) as error:
        Inspect(tmp_path / "it").run()
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("quality_*"))


def test_a_data_set_of_another_version_is_refused(tmp_path: Path) -> None:
    empty_data_set(tmp_path / "play")
    marker = tmp_path / "play" / "zarr.json"
    marker.write_text(marker.read_text().replace('"version": 1', '"version": 99'))

    with pytest.raises(UserError, match="version 99"):
        Inspect(tmp_path / "play").run()


@pytest.mark.parametrize("array", ["static", "proprio"])
def test_a_damaged_array_is_named_in_one_line(tmp_path: Path, array: str) -> None:
    recording = add_recording(tmp_path / "play", "monday", 60).recordings[0]
    (file,) = (
        file for file in (tmp_path / "play/recordings" / recording.id / array / "c").rglob("*") if file.is_file()
    )
    file.write_bytes(b"\0" * file.stat().st_size)

    with pytest.raises(UserError, match=f"{recording.id}: {array} cannot be read .* import its source again") as error:
        Inspect(tmp_path / "play").run()
    assert "\n" not in str(error.value)


def test_out_must_not_be_a_file(tmp_path: Path) -> None:
    add_recording(tmp_path / "play", "monday", 20)
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="is a file; expected a folder"):
        Inspect(tmp_path / "play", out=tmp_path / "file").run()


def test_the_command_line_takes_the_path_first() -> None:
    assert tyro.cli(Inspect, args=["play", "--out", "there", "--strict"]) == Inspect(Path("play"), Path("there"), True)


@pytest.mark.skipif(not CALVIN.is_dir(), reason="needs the CALVIN slice in shared/data")
def test_the_calvin_slice_has_a_report(tmp_path: Path) -> None:
    assert Inspect(CALVIN / "training", out=tmp_path / "out").run() == 0

    numbers = json.loads((tmp_path / "out/quality.json").read_text())
    assert numbers["frames"] > 100
    assert numbers["topics"] == []
    assert {skill["name"] for skill in numbers["skills"]} >= {"open-drawer"}
