"""What ``diwa report`` reads of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_samples as samples

from diwa_bringup.report.evaluations import OFFLINE, ROS, TRUTH
from diwa_bringup.report.json_files import (
    CLASSIFIER,
    DREAM_VS_TRUTH,
    EVALUATION,
    POLICY,
    QUALITY,
    REWARD,
    WORLD_MODEL,
    WORLD_MODEL_EVALUATION,
)
from diwa_bringup.report.lineage import BASE, CHOSEN, METADATA
from diwa_bringup.report.run_folder import (
    CLASSIFIER_REPORT,
    PIPELINE,
    QUALITY_REPORTS,
    WORLD_MODEL_REPORT,
    Run,
    read_run,
)
from diwa_conventions.errors import UserError
from diwa_policy.evaluation.wilson import wilson

FILES = (
    OFFLINE, ROS, TRUTH, PIPELINE, CLASSIFIER_REPORT, *QUALITY_REPORTS.values(),
    f"{WORLD_MODEL_REPORT}/evaluation.json", "finetuned/trust.json", f"{BASE}/{METADATA}", f"{CHOSEN}/{METADATA}",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.whole_run(tmp_path_factory.mktemp("report") / "run")


def test_success_is_counted_anew_with_wilsons_interval(whole: Path) -> None:
    run = read_run(whole)
    assert run.offline and run.ros
    after = run.offline.after(run.chosen_hash)
    assert after and after.success == wilson(182, 200)
    assert run.offline.before.success == wilson(121, 200)
    assert run.ros.before.success == wilson(11, 20)


def test_after_is_the_policy_that_fine_tuning_chose(tmp_path: Path) -> None:
    content = samples.offline()
    content["policies"][1:] = reversed(content["policies"][1:])
    samples.write(tmp_path / OFFLINE, content)
    assert [one.iteration for one in _after(read_run(tmp_path))] == [samples.LAST]  # nobody says which it is
    samples.artefacts(tmp_path)
    assert [one.iteration for one in _after(read_run(tmp_path))] == [samples.CHOSEN]


def test_an_evaluation_of_other_policies_says_nothing_of_after(tmp_path: Path) -> None:
    samples.artefacts(tmp_path)
    samples.write(tmp_path / OFFLINE, samples.evaluation(samples.tried(0, "b" * 64, 1, 2), samples.tried(3, "x", 2, 2)))
    assert not list(_after(read_run(tmp_path)))


def _after(run: Run) -> list:
    assert run.offline
    return [one for one in [run.offline.after(run.chosen_hash)] if one]


def test_truth_of_every_checkpoint_goes_before_that_of_the_evaluated_policies(whole: Path, tmp_path: Path) -> None:
    run = read_run(whole)
    assert run.every_checkpoint_tried and run.truth[5].value == pytest.approx(0.75)
    samples.write(tmp_path / OFFLINE, samples.offline())
    run = read_run(tmp_path)
    assert not run.every_checkpoint_tried
    assert {at: round(rate.value, 3) for at, rate in run.truth.items()} == {0: 0.605, 30: 0.91, 31: 0.88}


def test_latencies_that_are_not_known_are_left_out(whole: Path) -> None:
    run = read_run(whole)
    assert run.ros and run.ros.latency
    assert run.ros.latency.stamp_to_action == (9.0, 9.5, 10.0, 30.0)
    assert run.ros.latency.jitter == pytest.approx((1 / 3, 2 / 3, 1 / 30), abs=1e-6)


def test_lineage_tells_what_was_made_from_what(whole: Path) -> None:
    artefacts = {one.name: one for one in read_run(whole).lineage}
    assert list(artefacts) == ["world model", "pre-trained policy", "reward classifier", "fine-tuned policy"]
    parents = {one.name: (one.hash[0], one.is_here) for one in artefacts["fine-tuned policy"].parents}
    assert parents == {
        "world model": ("w", True), "demonstrations": ("m", None), "pre-trained policy": ("b", True),
        "reward classifier": ("r", True),
    }  # fmt: skip
    assert [(one.name, one.is_here) for one in artefacts["world model"].parents] == [("data set", None)]


def test_an_artefact_made_with_another_world_model_is_told(tmp_path: Path) -> None:
    samples.artefacts(tmp_path)
    path = tmp_path / "world_model/world_model" / METADATA
    path.write_text(path.read_text().replace("w" * 64, "v" * 64))
    lineage = read_run(tmp_path).lineage
    assert [one.name for one in lineage if one.mismatches] == [
        "pre-trained policy", "reward classifier", "fine-tuned policy"
    ]  # fmt: skip


def test_quality_counts_the_marks_of_all_skills(whole: Path) -> None:
    play = read_run(whole).quality["play"]
    assert play and (play.successes, play.failures, play.episodes, play.recordings) == (31, 5, 1, 1)


def test_a_part_that_is_not_there_is_none(tmp_path: Path) -> None:
    samples.pipeline(tmp_path / PIPELINE)
    run = read_run(tmp_path)
    assert run.pipeline and run.pipeline.seconds == 330.0
    parts = (run.offline, run.ros, run.fine_tuning, run.world_model, run.classifier, *run.quality.values())
    assert parts == (None,) * len(parts)
    assert not run.lineage and not run.truth and not run.chosen_hash


@pytest.mark.parametrize("words", ["{", "[]", '{"format": "diwa-wrong", "version": 1}', "null"])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_named(whole: Path, name: str, words: str) -> None:
    path = whole / name
    sound = path.read_text(encoding="utf-8")
    try:
        path.write_text(words, encoding="utf-8")
        with pytest.raises(UserError) as error:
            read_run(whole)
    finally:
        path.write_text(sound, encoding="utf-8")
    assert str(path) in str(error.value) and "diwa " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (OFFLINE, lambda content: content["policies"][0].update(successes=300)),
        (OFFLINE, lambda content: content["policies"].clear()),
        (OFFLINE, lambda content: content["policies"][0].update(episodes=0, successes=0)),
        (CLASSIFIER_REPORT, lambda content: content["verdicts"][0].update(level="fine")),
        ("finetuned/trust.json", lambda content: content["verdict"].update(iteration=4)),
        ("finetuned/trust.json", lambda content: content.update(verdict=None)),
    ],
)
def test_numbers_that_cannot_be_are_refused(whole: Path, name: str, wrong) -> None:
    path = whole / name
    sound = path.read_text(encoding="utf-8")
    content = json.loads(sound)
    wrong(content)
    try:
        samples.write(path, content)
        with pytest.raises(UserError, match=path.name):
            read_run(whole)
    finally:
        path.write_text(sound, encoding="utf-8")


def test_a_folder_that_is_not_there_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder .*/nowhere; .* diwa pipeline"):
        read_run(tmp_path / "nowhere")


def test_a_folder_without_a_run_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds nothing of a run"):
        read_run(tmp_path)


def test_formats_are_those_that_the_stages_write() -> None:
    from diwa_bringup.report.page import DREAM
    from diwa_policy import artefacts, reward_report
    from diwa_policy.evaluation import comparison, dream_vs_truth
    from diwa_policy.finetune.dream_film import DREAM_FILM
    from diwa_worldmodel.artefact import WORLD_MODEL as TRAINED
    from diwa_worldmodel.dataset import report as quality
    from diwa_worldmodel.evaluation import report as world_model

    for expected, writer in (
        (EVALUATION, comparison), (DREAM_VS_TRUTH, dream_vs_truth), (WORLD_MODEL_EVALUATION, world_model),
        (QUALITY, quality), (REWARD, reward_report),
    ):  # fmt: skip
        assert expected[:2] == (writer.FORMAT, writer.VERSION)
    for expected, kind in ((WORLD_MODEL, TRAINED), (POLICY, artefacts.POLICY), (CLASSIFIER, artefacts.REWARD)):
        assert expected[:2] == (kind.format, kind.version)
    assert DREAM == DREAM_FILM
