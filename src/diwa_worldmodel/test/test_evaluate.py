"""``diwa evaluate world-model`` as a whole: what it writes, what it refuses, what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from world_model_samples import SCENE_STATE_NAMES, small_config, small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.artefact import WorldModelMetadata, save_world_model
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.store import DataSet
from diwa_worldmodel.dataset.verdicts import Verdict
from diwa_worldmodel.evaluation.charts import HEIGHT, line_chart
from diwa_worldmodel.evaluation.evaluate import EvaluateWorldModel
from diwa_worldmodel.evaluation.play import choose_held_out, rest_of
from diwa_worldmodel.evaluation.report import to_html
from diwa_worldmodel.evaluation.verdicts import overall, ranges
from diwa_worldmodel.training.split import split_episodes
from diwa_worldmodel.world_model import WorldModel

FEW: dict[str, Any] = {"horizon": 30, "starts": 12, "probe_frames": 200}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return small_data_set(tmp_path_factory.mktemp("data") / "play", frames=360, scene_state=True)


def _world_model(folder: Path, data_set: DataSet, held_out: bool = True, **model: Any) -> Path:
    """An untrained one, as ``diwa train`` would leave it."""
    config = small_config(**model)
    torch.manual_seed(0)
    entries = split_episodes(data_set, 0.3, seed=0).held_out_to_json(data_set) if held_out else []
    save_world_model(
        folder,
        WorldModel(config.model),
        config,
        WorldModelMetadata(
            data_set_hashes=(data_set.hash(),),
            data_set=data_set.config,
            scene_state_names=SCENE_STATE_NAMES if config.model.scene_state else (),
            held_out=tuple((str(name), int(start), int(length)) for name, start, length in entries),
            preset="tiny",
            steps=7,
        ),
    )
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, data_set: DataSet) -> Path:
    folder = _world_model(tmp_path_factory.mktemp("models") / "run" / "world_model", data_set)
    assert EvaluateWorldModel(folder, data_set.path, **FEW).run() == 0
    return folder / "evaluation"


class Page(HTMLParser):
    """Sources of pictures and films, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [(tag, str(value)) for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_it_writes_page_numbers_strips_and_films(evaluated: Path) -> None:
    names = {path.name for path in evaluated.iterdir()}
    films = {f"film_{word}.mp4" for word in ("good", "median", "worst")}
    strips = {f"strip_{word}.png" for word in ("good", "median", "worst")}
    assert names == {"report.html", "evaluation.json", *films, *strips}


def test_numbers_stand_under_stable_keys(evaluated: Path, data_set: DataSet) -> None:
    content = json.loads((evaluated / "evaluation.json").read_text())
    assert (content["format"], content["version"]) == ("diwa-world-model-evaluation", 1)
    assert content["world_model"]["name"] == "run"
    assert len(content["world_model"]["hash"]) == 64
    assert content["data"]["hash"] == data_set.hash()
    assert content["settings"] == {
        "context": 2, "horizon": 30, "starts": 12, "probe_frames": 200, "sound_frames": 10_000, "seed": 0
    }  # fmt: skip
    assert content["starts"] == 12
    assert len(content["open_loop"]["static"]["mse"]["whole"]["open_loop"]["mean"]) == 30
    assert {"last_frame", "mean_frame", "reconstruction_held"} < set(content["open_loop"]["gripper"]["not_better_at"])
    assert len(content["probes"]["square_x"]["error"]["open_loop"]["mean"]) == 30
    assert content["probes"]["lamp"]["kind"] == "two-valued"
    assert len(content["kl"]["kl"]["mean"]) == 32
    assert len(content["uncertainty"]["prior_entropy"]["dreamed"]) == 30
    bounds = content["surprise"]
    assert bounds["quantile"] == 0.999
    assert bounds["one_step"]["bound"] > 0
    assert set(bounds["mean"]["detections"]) >= {"none", "cameras swapped", "static camera frozen"}


def test_the_page_needs_nothing_else(evaluated: Path) -> None:
    page = Page((evaluated / "report.html").read_text())
    assert page.sources
    assert all(source.startswith(("data:image/", "data:video/mp4")) for _, source in page.sources)
    assert sum(tag == "video" for tag, _ in page.sources) == 3
    text = " ".join(" ".join(page.words).split())
    assert "Measured on 2 held-out episodes of play, 120 frames" in text
    assert "diwa evaluate world-model" in text
    assert "nan" not in text.lower().split()


def test_the_text_ends_with_the_overall_verdict(
    tmp_path: Path, data_set: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _world_model(tmp_path / "model", data_set)
    code = EvaluateWorldModel(folder, data_set.path, out=tmp_path / "out", strict=True, **FEW).run()
    lines = capsys.readouterr().out.splitlines()
    assert code == 1  # it was never trained
    assert lines[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert lines[-2].startswith("model: not to be dreamed in")
    assert any(line.startswith("BAD   ") for line in lines)


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path, data_set: DataSet, evaluated: Path) -> None:
    stage = EvaluateWorldModel(evaluated.parent, data_set.path, out=tmp_path, **FEW)
    stage.run()
    first, again = (json.loads((folder / "evaluation.json").read_text()) for folder in (evaluated, tmp_path))
    for content in (first, again):
        for name in ("date", "seconds", "command"):
            content.pop(name)
    assert first == again
    replace(stage, seed=1).run()
    other = json.loads((tmp_path / "evaluation.json").read_text())
    assert other["open_loop"] != first["open_loop"]
    assert other["settings"]["seed"] == 1


@pytest.mark.parametrize(
    "model", [{"cameras": ["gripper"]}, {"scene_state": 3}, {"action_chunk": 2}], ids=["one camera", "hybrid", "chunks"]
)
def test_variants_are_measured_too(tmp_path: Path, data_set: DataSet, model: dict[str, Any]) -> None:
    folder = _world_model(tmp_path / "model", data_set, **model)
    stage = EvaluateWorldModel(folder, data_set.path, **{**FEW, "horizon": 20})
    assert stage.run() == 0
    content = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert set(content["open_loop"]) == set(model.get("cameras", ["static", "gripper"]))
    assert content["step_s"] == pytest.approx(model.get("action_chunk", 1) / 7.5)


def test_without_scene_state_the_probes_read_proprioception(tmp_path: Path) -> None:
    data_set = small_data_set(tmp_path / "play")
    folder = _world_model(tmp_path / "model", data_set)
    EvaluateWorldModel(folder, data_set.path, **FEW).run()
    content = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert set(content["probes"]) == {"training_frames", "position", "rotation", "gripper_width"}


def test_play_that_was_learned_from_is_no_test(tmp_path: Path, data_set: DataSet) -> None:
    loaded = WorldModelMetadata((data_set.hash(),), data_set.config)
    held_out, about, warning = choose_held_out(loaded, data_set)
    assert warning is not None and warning.level == "bad"
    assert "training episode" in about
    assert 0 < len(held_out) < len(data_set.episodes)


def test_another_data_set_is_named_as_such(tmp_path: Path, data_set: DataSet) -> None:
    metadata = WorldModelMetadata(("another",), data_set.config, held_out=(("monday", 0, 50),))
    held_out, about, warning = choose_held_out(metadata, data_set)
    assert warning is not None and warning.level == "warn"
    assert "play, another data set" in about
    assert not set(held_out) & set(rest_of(data_set.episodes, held_out))


def test_what_is_not_held_out_is_left_for_probes() -> None:
    episodes = [Episode(0, 50), Episode(50, 100), Episode(150, 20)]
    assert rest_of(episodes, [Episode(50, 100)]) == (Episode(0, 50), Episode(150, 20))
    assert rest_of(episodes, [Episode(120, 30)]) == (Episode(0, 50), Episode(50, 70), Episode(150, 20))


def test_dreams_longer_than_the_play_are_refused_with_what_would_fit(tmp_path: Path, data_set: DataSet) -> None:
    folder = _world_model(tmp_path / "model", data_set)
    with pytest.raises(UserError, match=r"80 steps after 2 frames needs 82 .* has 60: choose --horizon 58 or less"):
        EvaluateWorldModel(folder, data_set.path, horizon=80).run()
    assert not (folder / "evaluation").exists()


def test_dreams_are_as_long_as_the_play_allows_where_nobody_says(tmp_path: Path, data_set: DataSet) -> None:
    folder = _world_model(tmp_path / "model", data_set)
    evaluation = EvaluateWorldModel(folder, data_set.path, starts=12, probe_frames=200).evaluate()
    assert evaluation.settings.horizon == 58


@pytest.mark.parametrize(
    ("option", "value"),
    [("horizon", 0), ("starts", 0), ("context", 0), ("probe_frames", 1), ("seed", -1)],
    ids=lambda one: str(one),
)
def test_options_out_of_range_are_named(tmp_path: Path, option: str, value: int) -> None:
    options: dict[str, Any] = {option: value}
    stage = EvaluateWorldModel(tmp_path, tmp_path, **options)
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} is {value}; expected"):
        stage.run()


@pytest.mark.parametrize("out", ["/proc/report", "{folder}/config.yaml/report"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, data_set: DataSet, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _world_model(tmp_path / "model", data_set)
    monkeypatch.setattr(EvaluateWorldModel, "evaluate", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(UserError, match="cannot be written to .*report: .*; choose another folder with --out"):
        EvaluateWorldModel(folder, data_set.path, out=Path(out.format(folder=folder)), **FEW).run()


def test_play_that_is_held_out_as_a_whole_leaves_nothing_to_fit_probes_to(tmp_path: Path) -> None:
    data_set = small_data_set(tmp_path / "play", frames=60, episodes=1, recordings=1)
    metadata = WorldModelMetadata((data_set.hash(),), data_set.config, held_out=((data_set.recordings[0].id, 0, 60),))
    config = small_config()
    save_world_model(tmp_path / "model", WorldModel(config.model), config, metadata)
    with pytest.raises(UserError, match="only held-out episodes, and probes are fitted to others; name the data set"):
        EvaluateWorldModel(tmp_path / "model", data_set.path, **FEW).run()


def test_a_data_set_of_another_kind_is_refused(tmp_path: Path, data_set: DataSet) -> None:
    folder = _world_model(tmp_path / "model", data_set, image_size_px=32)
    with pytest.raises(UserError, match="images of 16 px, the world model expects 32 px"):
        EvaluateWorldModel(folder, data_set.path, **FEW).run()


def test_a_corrupted_world_model_is_refused(tmp_path: Path, data_set: DataSet) -> None:
    folder = _world_model(tmp_path / "model", data_set)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="corrupted"):
        EvaluateWorldModel(folder, data_set.path, **FEW).run()


def test_a_report_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, data_set: DataSet, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _world_model(tmp_path / "model", data_set)
    stage = EvaluateWorldModel(folder, data_set.path, **FEW)
    stage.run()
    before = {path.name: path.read_bytes() for path in (folder / "evaluation").iterdir()}

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diwa_worldmodel.evaluation.report.to_html", full)
    with pytest.raises(OSError, match="No space left"):
        replace(stage, seed=1).run()
    assert {path.name: path.read_bytes() for path in (folder / "evaluation").iterdir()} == before


def test_words_from_outside_are_escaped(data_set: DataSet, evaluated: Path) -> None:
    evaluation = EvaluateWorldModel(evaluated.parent, data_set.path, **FEW).evaluate()
    hostile = "<script>alert(1)</script>"
    named = replace(evaluation.origin, world_model={**evaluation.origin.world_model, "name": hostile})
    html = to_html(replace(evaluation, origin=named), [])
    assert hostile not in html
    assert "&lt;script&gt;" in html


def test_charts_stay_in_their_box_and_leave_out_what_is_unknown() -> None:
    chart = line_chart("errors", "step", {"open_loop": np.array([0.0, 5.0, np.nan, 10.0])})
    points = [tuple(map(float, point.split(","))) for point in chart.lines[0].points.split()]
    assert len(points) == 3
    assert points[0] == (0.0, HEIGHT)
    assert all(0 <= x <= 100 and 0 <= y <= HEIGHT for x, y in points)


def test_ranges_are_written_short() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "steps 1-3, 7, 9-10"
    assert ranges([4]) == "step 4"


def test_the_worst_verdict_decides() -> None:
    verdicts = [Verdict("a", "ok", ""), Verdict("b", "warn", ""), Verdict("c", "bad", "")]
    assert overall(verdicts).level == "bad"
    assert overall(verdicts[:2]).sentence == "usable, with 1 warning"
    assert overall(verdicts[:1]).level == "ok"
