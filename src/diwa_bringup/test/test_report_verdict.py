"""The line at the top of a run's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import report_samples as samples

from diwa_bringup.report.evaluations import OFFLINE, ROS
from diwa_bringup.report.run_folder import read_run
from diwa_bringup.report.verdict import RunVerdict, overlap, verdict
from diwa_policy.evaluation.wilson import Rate


def verdict_of(folder: Path, promoted: bool | None = True, **evaluations: Any) -> RunVerdict:
    samples.artefacts(folder)
    if promoted is not None:
        samples.trust(folder / "finetuned", promoted)
    for name, content in evaluations.items():
        samples.write(folder / {"offline": OFFLINE, "ros": ROS}[name], content)
    return verdict(read_run(folder))


def test_promoted_and_surely_better_is_good(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, offline=samples.offline())
    assert (found.level, found.headline) == ("ok", "promoted, and better: 60.5% -> 91.0% success")
    assert found.sentences == (
        "offline: 60.5% (53.6 to 67.0, 121 of 200) before, 91.0% (86.2 to 94.2, 182 of 200) after; "
        "difference +30.5 points (+22.0 to +38.0)",
        "promoted without the true environment: iteration 30 dreams best",
    )


def test_a_gain_whose_interval_holds_zero_is_not_sure(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, offline=samples.offline(121, 125, Rate(0.02, -0.05, 0.09)))
    assert (found.level, found.headline) == ("warn", "promoted, and not surely better: 60.5% -> 62.5% success")


def test_a_loss_is_bad(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, offline=samples.offline(182, 121, Rate(-0.3, -0.38, -0.22)))
    assert (found.level, found.headline) == ("bad", "promoted, and worse: 91.0% -> 60.5% success")


def test_refused_is_told_with_the_reason_however_good_it_is(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, promoted=False, offline=samples.offline())
    assert (found.level, found.headline) == ("bad", "refused, the pre-trained policy stays: 60.5% -> 91.0% success")
    assert found.sentences[-1] == "refused without the true environment: its dreamed return is +0.39"


def test_without_an_evaluation_nothing_is_claimed(tmp_path: Path) -> None:
    found = verdict_of(tmp_path)
    assert (found.level, found.headline) == ("warn", "promoted by its dreams, not tried yet")


def test_ros_alone_is_judged_by_independent_intervals(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, ros=samples.over_ros())
    assert (found.level, found.headline) == ("ok", "promoted, and better: 55.0% -> 90.0% success")
    # Newcombe 1998, method 10: 0.35 - hypot(0.201, 0.192) and 0.35 + hypot(0.072, 0.208)
    assert "difference +35.0 points (+7.2 to +57.0)" in found.sentences[0]


@pytest.mark.parametrize(
    ("successes", "words"),
    [
        ((11, 18), "offline and over ROS agree within their intervals, before and after"),
        ((1, 18), "offline and over ROS do not agree within their intervals: before"),
        ((2, 3), "offline and over ROS do not agree within their intervals: before, after"),
    ],
)
def test_offline_and_ros_are_held_against_each_other(tmp_path: Path, successes: tuple[int, int], words: str) -> None:
    found = verdict_of(tmp_path, offline=samples.offline(), ros=samples.over_ros(*successes))
    assert words in found.sentences


def test_what_trials_over_ros_tell_besides_is_told(tmp_path: Path) -> None:
    sentences = verdict_of(tmp_path, ros=samples.over_ros()).sentences
    assert sentences[1:3] == (
        "over ROS the classifier agrees with the oracle in 37 of 40 trials: 1 successes missed, 2 imagined",
        "1 attempt over ROS broken off and not counted; the last: frames are stale",
    )


def test_intervals_that_touch_overlap() -> None:
    assert overlap(Rate(0.1, 0.0, 0.2), Rate(0.3, 0.2, 0.4))
    assert not overlap(Rate(0.1, 0.0, 0.2), Rate(0.3, 0.21, 0.4))


def test_parts_that_do_not_belong_together_are_told(tmp_path: Path) -> None:
    samples.artefacts(tmp_path)
    path = tmp_path / "base/metadata.json"
    path.write_text(path.read_text().replace('"hash": "' + "b" * 64, '"hash": "' + "c" * 64))
    sentences = verdict(read_run(tmp_path)).sentences
    assert sentences == (
        "finetuned/policy was made with another pre-trained policy (bbbbbbbbbbbb) than that of this run",
    )
