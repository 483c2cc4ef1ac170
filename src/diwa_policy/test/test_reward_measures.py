"""Precision, recall, calibration, threshold and alarms, and the words that are said about them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from policy_samples import small_classifier, small_config
from torch import Tensor

from diwa_policy.demonstrations import Attempt, split_attempts
from diwa_policy.reward_measures import (
    Alarms,
    RewardMeasures,
    calibrate,
    choose_threshold,
    count_alarms,
    detect,
    fitted,
    frames_to_measure,
    measure,
)
from diwa_policy.reward_report import RewardReport, judge, to_html, to_json, to_text, write_report
from diwa_policy.reward_training import frame_labels
from diwa_worldmodel.artefact import LoadedWorldModel

CONFIG = small_config({"reward": {"positive_frames": 1, "margin_frames": 1, "dreamed_steps": 2}}).reward


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def attempt(frames: int, success: bool, seed: int = 0) -> Attempt:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(4, (frames, 4), generator=generator)
    latents = torch.cat(
        [torch.randn(frames, 16, generator=generator), torch.nn.functional.one_hot(classes, 4).float().flatten(1)], 1
    )
    zeros = torch.zeros(frames)
    return Attempt(latents, torch.rand(frames, 7, generator=generator), zeros, zeros, torch.arange(frames), success)


def measured(world_model: LoadedWorldModel, successes: int = 6, failures: int = 2) -> RewardMeasures:
    held_out = [attempt(8, number < successes, number) for number in range(successes + failures)]
    return measure(small_classifier(), held_out, CONFIG, world_model.model.rssm)[1]


@pytest.fixture(scope="module")
def flawless(world_model: LoadedWorldModel) -> RewardMeasures:
    """Nothing could be better."""
    labels = tensor(*[0.0] * 90, *[1.0] * 10)
    found, even = detect(labels, labels, 0.5), calibrate(labels, labels)
    return replace(
        measured(world_model), seen=found, dreamed=found, seen_calibration=even, dreamed_calibration=even,
        alarms=Alarms(5, 0, 10, 0, 10),
    )  # fmt: skip


def report(measures: RewardMeasures, **over: object) -> RewardReport:
    made = RewardReport("open-drawer", "world_model", "demos", "diwa reward ...", 50, 12, 2.5, measures)
    return replace(made, **over)


# Numbers -------------------------------------------------------------------------------------------------------------


def test_precision_recall_and_false_positives_are_counted_above_the_threshold() -> None:
    found = detect(tensor(0.9, 0.6, 0.5, 0.2, 0.8, 0.1), tensor(1, 1, 1, 0, 0, 0), 0.5)
    assert (found.frames, found.positives) == (6, 3)
    assert found.precision == pytest.approx(2 / 3)  # 0.9, 0.6 of 0.9, 0.6, 0.8
    assert found.recall == pytest.approx(2 / 3)  # 0.5 is not above
    assert found.false_positives == pytest.approx(1 / 3)
    assert found.false_reward == pytest.approx((0.2 + 0.8 + 0.1) / 3)


def test_precision_of_nothing_taken_for_success_is_unknown() -> None:
    found = detect(tensor(0.1, 0.2), tensor(1, 0), 0.5)
    assert math.isnan(found.precision)
    assert found.recall == 0.0


def test_the_threshold_has_the_largest_f1() -> None:
    probability, labels = torch.rand(200, generator=torch.Generator().manual_seed(0)), torch.zeros(200)
    labels[probability + 0.3 * torch.rand(200, generator=torch.Generator().manual_seed(1)) > 0.9] = 1.0
    chosen = choose_threshold(probability, labels)

    def f1(threshold: float) -> float:
        found = detect(probability, labels, threshold)
        return 2.0 * found.precision * found.recall / (found.precision + found.recall)

    assert f1(chosen) == pytest.approx(max(f1(number / 100) for number in range(1, 90)))


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken() -> None:
    assert choose_threshold(tensor(0.1, 0.95), tensor(0, 1)) == 0.5
    assert choose_threshold(tensor(0.1, 0.705, 0.95), tensor(0, 0, 1)) == 0.71
    assert choose_threshold(tensor(0.1, 0.405, 0.95), tensor(0, 1, 1)) == 0.4


def test_calibration_holds_mean_probabilities_against_shares() -> None:
    found = calibrate(tensor(0.02, 0.04, 0.92, 0.96, 1.0), tensor(0, 0, 1, 0, 1))
    assert found.count == (2, 0, 0, 0, 0, 0, 0, 0, 0, 3)
    assert (found.expected[0], found.true[0]) == (pytest.approx(0.03), 0.0)
    assert (found.expected[9], found.true[9]) == (pytest.approx(0.96), pytest.approx(2 / 3))
    assert found.error == pytest.approx((2 * 0.03 + 3 * (0.96 - 2 / 3)) / 5)


def test_calibration_of_true_chances_has_a_small_error() -> None:
    probability = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    labels = (torch.rand(20_000, generator=torch.Generator().manual_seed(1)) < probability).float()
    assert calibrate(probability, labels).error < 0.02
    assert calibrate(probability.square(), labels).error > 0.1


def test_alarms_are_counted_by_attempt() -> None:
    tried = [attempt(4, True), attempt(4, True), attempt(4, False), attempt(4, False)]
    probabilities = [tensor(0, 0, 0.9, 0.9), tensor(0.9, 0, 0, 0), tensor(0, 0.9, 0, 0), tensor(0, 0, 0, 0)]
    # The third frame of a success is the one of which nobody can tell.
    assert count_alarms(tried, probabilities, 0.5, CONFIG) == Alarms(2, 1, successes=2, early=1, recognised=1)


def test_dreamed_frames_are_measured_by_the_number_of_steps(world_model: LoadedWorldModel) -> None:
    found = measured(world_model)
    # 6 successes of 8 frames, the last but one left out, and 2 failures: dreams of a step end in one less each
    assert (found.seen.frames, found.seen.positives) == (6 * 7 + 2 * 8, 6)
    assert [one.frames for one in found.dreamed_by_step] == [6 * (7 - n) + 2 * (8 - n) for n in range(1, 6)] + [
        6 * 1 + 2 * 2,
        6 * 1 + 2 * 1,
    ]
    assert [one.positives for one in found.dreamed_by_step] == [6] * 7
    assert found.dreamed.frames == sum(one.frames for one in found.dreamed_by_step)


def test_the_traces_are_the_successes_seen_least_and_the_failures_most_like_success(
    world_model: LoadedWorldModel,
) -> None:
    traces = measured(world_model, 6, 4).traces
    assert [trace.success for trace in traces] == [True] * 3 + [False] * 3
    ends, peaks = [trace.probability[-1] for trace in traces[:3]], [max(trace.probability) for trace in traces[3:]]
    assert ends == sorted(ends)
    assert peaks == sorted(peaks, reverse=True)


def test_the_classifier_is_fitted_to_all_that_was_held_out(world_model: LoadedWorldModel) -> None:
    held_out, rssm = [attempt(8, number < 4, number) for number in range(6)], world_model.model.rssm
    found, measures = measure(small_classifier(), held_out, CONFIG, rssm)
    expected = fitted(small_classifier(), frames_to_measure(held_out, CONFIG, rssm))
    assert torch.equal(found.probability(held_out[0].latents), expected.probability(held_out[0].latents))
    assert float(found.threshold) == float(expected.threshold) == pytest.approx(measures.threshold)


@pytest.mark.parametrize("successes", [1, 2, 5])
def test_each_half_is_measured_as_fitted_to_the_other_unless_there_is_one_success(
    world_model: LoadedWorldModel, successes: int
) -> None:
    held_out, rssm = [attempt(8, number < successes, number) for number in range(successes + 4)], world_model.model.rssm
    _, measures = measure(small_classifier(), held_out, CONFIG, rssm)
    one, other = split_attempts(held_out, 0.5, CONFIG.seed)
    pairs = [(one, other), (other, one)] if successes > 1 else [(held_out, held_out)]
    taken, positives, alarms = 0, 0, 0
    for fit, judged in pairs:
        own = fitted(small_classifier(), frames_to_measure(fit, CONFIG, rssm))
        for tried in judged:
            above, labels = own.probability(tried.latents) > own.threshold, frame_labels(tried, CONFIG)
            taken += int((above & (labels >= 0)).sum())
            positives += int((above & (labels == 1)).sum())
            alarms += not tried.success and bool(above.any())
    assert measures.seen.recall == pytest.approx(positives / successes)
    assert measures.seen.precision == pytest.approx(positives / taken)
    assert (measures.alarms.false_alarms, measures.alarms.failures) == (alarms, 4)
    assert measures.alarms.successes == measures.seen.positives == successes


def test_measuring_twice_gives_the_same(world_model: LoadedWorldModel) -> None:
    assert measured(world_model).to_json() == measured(world_model).to_json()


def test_scalars_are_finite_and_leave_out_what_is_not_known(world_model: LoadedWorldModel) -> None:
    scalars = measured(world_model, failures=0).scalars()
    assert all(math.isfinite(value) for value in scalars.values())
    assert "false_alarms" not in scalars
    assert {"threshold", "recall", "false_positives", "dreamed_false_positives"} <= set(scalars)


# Words ---------------------------------------------------------------------------------------------------------------


def levels(measures: RewardMeasures) -> dict[str, str]:
    return {verdict.check: verdict.level for verdict in judge(measures)}


def test_a_flawless_classifier_passes_every_check(flawless: RewardMeasures) -> None:
    assert set(levels(flawless).values()) == {"ok"}
    assert report(flawless).overall.sentence == "good: all 10 checks passed"


@pytest.mark.parametrize(
    ("name", "value", "check", "level"),
    [
        ("recall", 0.8, "recall", "ok"),
        ("recall", 0.7, "recall", "warn"),
        ("recall", 0.4, "recall", "bad"),
        ("precision", 0.5, "precision", "warn"),
        ("precision", 0.1, "precision", "bad"),
        ("false_positives", 0.02, "false positives", "ok"),
        ("false_positives", 0.03, "false positives", "warn"),
        ("false_positives", 0.06, "false positives", "bad"),
        ("false_reward", 0.06, "false reward", "bad"),
    ],
)
def test_bad_shares_of_held_out_frames_are_said(
    flawless: RewardMeasures, name: str, value: float, check: str, level: str
) -> None:
    changed = replace(flawless, seen=replace(flawless.seen, **{name: value}))
    assert levels(changed)[check] == level
    assert report(changed).overall.level == level


def test_false_positives_name_the_numbers_and_what_helps(flawless: RewardMeasures) -> None:
    changed = replace(flawless, seen=replace(flawless.seen, false_positives=0.06))
    words = judge(changed)[0].sentence
    assert words == (
        "6.00% of 90 other held-out frames are taken for success; up to 2% is wanted, fine-tuning seeks them out: keep "
        "failed attempts and near misses and learn from them"
    )
    assert report(changed).overall.sentence == "not to be dreamed for: 1 fault, 0 warnings"


def test_nothing_recognised_is_bad_and_says_nothing_of_precision(flawless: RewardMeasures) -> None:
    blind = detect(torch.zeros(10), tensor(*[0.0] * 9, 1.0), 0.5)
    found = levels(replace(flawless, seen=blind))
    assert found["recall"] == "bad"
    assert "precision" not in found


def test_failed_attempts_that_are_taken_for_success_raise_the_alarm(flawless: RewardMeasures) -> None:
    assert levels(replace(flawless, alarms=Alarms(10, 3, 10, 0, 10)))["false alarms"] == "ok"
    assert levels(replace(flawless, alarms=Alarms(10, 4, 10, 0, 10)))["false alarms"] == "warn"
    assert levels(replace(flawless, alarms=Alarms(10, 7, 10, 0, 10)))["false alarms"] == "bad"


def test_without_failed_attempts_nobody_knows(flawless: RewardMeasures) -> None:
    verdict = next(
        one for one in judge(replace(flawless, alarms=Alarms(0, 0, 10, 0, 10))) if one.check == "false alarms"
    )
    assert verdict.level == "warn"
    assert verdict.sentence.startswith("no failed attempt was held out")


def test_few_successes_are_called_rough(flawless: RewardMeasures) -> None:
    verdict = next(one for one in judge(replace(flawless, alarms=Alarms(5, 0, 1, 0, 1))) if one.check == "amount")
    assert verdict.sentence == (
        "only 1 successful attempt held out, all shares are rough and flatter, for threshold and calibration were "
        "chosen on it: demonstrate more"
    )
    verdict = next(one for one in judge(replace(flawless, alarms=Alarms(5, 0, 2, 0, 2))) if one.check == "amount")
    assert verdict.sentence == "only 2 successful attempts held out, all shares are rough: demonstrate more"


def test_what_cannot_be_measured_is_a_warning_not_a_pass(flawless: RewardMeasures) -> None:
    blank = replace(flawless, dreamed=replace(flawless.dreamed, recall=math.nan, false_positives=math.nan))
    found = {one.check: one for one in judge(blank)}
    for check in ("dreamed recall", "dreamed false positives"):
        assert found[check].level == "warn" and found[check].sentence.startswith("cannot be measured")
    assert "nan" not in to_text(report(blank))


@pytest.mark.parametrize(("successes", "words"), [(1, "of a single success, which flatters"), (2, "of the other half")])
def test_the_page_says_what_threshold_was_measured_with(
    world_model: LoadedWorldModel, successes: int, words: str
) -> None:
    assert words in to_html(report(measured(world_model, successes)))


def test_the_text_tells_the_threshold_and_ends_with_the_overall_verdict(flawless: RewardMeasures) -> None:
    lines = to_text(report(replace(flawless, threshold=0.4))).splitlines()
    assert lines[0] == (
        "open-drawer: learned from 50 attempts in 2.5 s, measured on 12 held out; success from probability 0.40 on "
        "(largest F1 there)"
    )
    assert lines[-1] == "open-drawer: good: all 10 checks passed"


def test_json_holds_every_number(world_model: LoadedWorldModel) -> None:
    measures = measured(world_model, failures=0)
    content = json.loads(to_json(report(measures)))
    assert (content["format"], content["version"]) == ("diwa-reward-report", 1)
    assert content["seen"]["recall"] == measures.seen.recall
    assert content["seen_calibration"]["count"] == list(measures.seen_calibration.count)
    assert len(content["dreamed_by_step"]) == len(measures.dreamed_by_step)
    assert content["alarms"]["failures"] == 0


def test_the_page_needs_nothing_else_and_obeys_no_name(world_model: LoadedWorldModel) -> None:
    html = to_html(report(measured(world_model, failures=0), skill="<script>x</script>"))
    assert html.count("<svg") == 5
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "nan" not in html


def test_the_report_is_written_over_an_old_one(world_model: LoadedWorldModel, tmp_path) -> None:
    measures = measured(world_model)
    write_report(report(measures), tmp_path)
    page = write_report(report(measures, skill="second"), tmp_path)
    assert "second" in page.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "reward.json"]
