"""Choosing a policy and promoting it, from signals alone."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_policy.finetune.selection import LIMITS, Bound, Judgement, TrustLimits, choose, judge
from diwa_policy.finetune.signals import CheckpointSignals, ReplaySignals, Trust, read_trust, write_trust

REPLAY = ReplaySignals(
    successes=50, failures=12, recall=0.9, recall_error=0.02, false_success=0.4, false_success_error=0.05,
    prior_entropy=40.0, entropy_spread=2.0, learned_from=False, classifier_learned_from=False,
)  # fmt: skip


def signals(iteration: int, returns: float, **other: float) -> CheckpointSignals:
    """A policy that stays near, with the same success and return in both sets."""
    success = min(returns / 10.0, 1.0)
    values = {"dreamed_success": success, "other_success": success, "dreamed_return": returns, "other_return": returns}
    one = CheckpointSignals(
        iteration=iteration, imagined_steps=8192 * iteration, return_error=0.3, gain_error=0.3, confidence=0.9,
        prior_entropy=40.0, entropy_excess=0.1, translation_distance=0.1, rotation_distance=0.1, gripper_flips=0.01,
        **values,
    )  # fmt: skip
    return replace(one, **other)


def trust(
    *checkpoints: CheckpointSignals, replay: ReplaySignals = REPLAY, bc: float = 0.05, **measures: float
) -> Trust:
    found = checkpoints or (signals(0, 6.0), signals(5, 8.0), signals(10, 9.0))
    usual = {"false_positives": 0.01, "dreamed_false_positives": 0.02, "false_alarms": 0.1, "held_out_failures": 9}
    return Trust("open-drawer", bc, 46, 256, replay, {**usual, **measures}, found)


def levels(judgement: Judgement) -> dict[str, str]:
    """The worst of each name."""
    return {check.check: check.level for check in reversed(judgement.checks)}


# Choosing


def test_the_highest_return_is_chosen():
    iteration, why = choose(trust())
    assert iteration == 10 and why == "iteration 10 dreams the highest return, 9.00"
    iteration, why = choose(trust(signals(0, 6.0), signals(5, 9.0), signals(10, 7.0)))
    assert iteration == 5 and why == "iteration 5 dreams the highest return, 9.00"


def test_of_those_within_an_error_of_the_highest_the_nearest_to_the_pretrained_policy_is_chosen():
    near = signals(10, 8.9, translation_distance=0.05, rotation_distance=0.06)
    found = trust(signals(0, 6.0), signals(5, 8.75), near, signals(15, 9.0), signals(20, 8.0, translation_distance=0.0))
    iteration, why = choose(found)
    assert iteration == 10
    assert why == (
        "iteration 10 acts most like the pre-trained policy of those whose dreamed return comes within 1 standard "
        "error of the highest: 8.90 against 9.00 at iteration 15"
    )
    assert choose(found, TrustLimits(within_errors=0.0))[0] == 15


@pytest.mark.parametrize(
    "drift",
    [{"entropy_excess": 9.0}, {"translation_distance": 2.0}, {"rotation_distance": 2.0}, {"gripper_flips": 0.9},
     {"other_success": 0.1}],
)  # fmt: skip
def test_a_policy_that_has_drifted_is_not_chosen_whatever_it_dreams(drift):
    iteration, why = choose(trust(signals(0, 6.0), signals(5, 8.0), signals(10, 9.0, **drift)))
    assert iteration == 5
    assert why.endswith("; 1 of 3 had drifted too far")


def test_where_all_have_drifted_the_pretrained_policy_is_left():
    found = trust(signals(0, 6.0, other_success=0.1), signals(5, 8.0, gripper_flips=0.9))
    iteration, why = choose(found)
    assert iteration == 0 and "no other is within bounds" in why
    assert not judge(found).promoted


# Promoting


def test_a_gain_with_sound_signals_is_promoted():
    judgement = judge(trust())
    assert judgement.promoted and judgement.iteration == 10
    assert set(levels(judgement).values()) == {"ok"}
    assert judgement.reasons == ("iteration 10 dreams the highest return, 9.00",)


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        (
            trust(replay=replace(REPLAY, false_success=0.95, recall=1.0)),
            "failures",
            "95% of the dreams along 12 failed",
        ),
        (
            trust(replay=replace(REPLAY, false_success=0.74, recall=0.72)),
            "discrimination",
            r"-2 points .\+- 5. more often .* at least 20 points",
        ),
        (trust(replay=replace(REPLAY, recall=0.2, false_success=0.0)), "successes", "20% of the dreams along 50"),
        (trust(signals(0, 9.8), signals(5, 12.0)), "room", "already dreams 98% success, nothing is left to learn"),
        (trust(false_positives=0.4), "classifier", "40.0% false positives on held-out frames"),
        (trust(false_alarms=0.7), "classifier", "in 70% of the 9 held-out failed attempts .wanted: at most 30%"),
        (trust(dreamed_false_positives=0.2), "classifier", "20.0% false positives on held-out dreams of frames"),
        (trust(signals(0, 6.0), signals(5, 6.1)), "gain", r"\+0.00 on the pre-trained"),
        (trust(signals(0, 6.0), signals(5, 9.0, other_return=6.2)), "gain", r"\+0.20 on the pre-trained"),
    ],
    ids=[
        "failures",
        "discrimination",
        "successes",
        "room",
        "classifier",
        "alarms",
        "classifier in dreams",
        "no gain",
        "gain by luck with the seeds",
    ],
)
def test_what_speaks_against_it_is_refused_and_told(found, check, words):
    judgement = judge(found)
    assert not judgement.promoted and levels(judgement)[check] == "bad"
    (reason,) = [one for one in judgement.reasons if one.startswith(f"{check}: ")]
    assert re.search(words, reason)


def test_too_few_recorded_failures_are_weak_not_bad():
    none = replace(REPLAY, failures=0, false_success=math.nan, false_success_error=math.nan)
    judgement = judge(trust(replay=none))
    assert judgement.promoted and levels(judgement)["failures"] == "warn"
    assert "discrimination" not in levels(judgement)
    assert any("keep those that fail while demonstrating" in reason for reason in judgement.reasons)


@pytest.mark.parametrize("error", [0.3, math.nan])
def test_too_few_attempts_to_tell_them_apart_do_not_refuse(error):
    alike = replace(REPLAY, recall=0.7, false_success=0.72, recall_error=error)
    judgement = judge(trust(replay=alike))
    assert judgement.promoted and levels(judgement)["discrimination"] == "warn"
    assert not judge(trust(replay=replace(alike, recall_error=0.02))).promoted


def test_a_classifier_that_was_not_measured_is_weak_and_few_failures_do_not_refuse():
    unknown = replace(trust(), classifier={})
    assert judge(unknown).promoted and levels(judge(unknown))["classifier"] == "warn"
    few = judge(trust(false_alarms=1.0, held_out_failures=1))
    assert few.promoted and levels(few)["classifier"] == "warn"


@pytest.mark.parametrize(
    ("learned", "words"),
    [
        ((False, False), "12 failed attempts succeed"),
        ((True, False), "12 failed attempts, which the world model was trained on, succeed"),
        ((False, True), "12 failed attempts, most of which the classifier was trained on, succeed"),
        ((True, True), "12 failed attempts, which world model and classifier were trained on, succeed"),
    ],
)
def test_who_was_trained_on_the_replayed_attempts_is_told(learned, words):
    replay = replace(REPLAY, learned_from=learned[0], classifier_learned_from=learned[1])
    (found,) = [check.sentence for check in judge(trust(replay=replay)).checks if check.check == "failures"]
    assert found.endswith(words)


def test_without_imitation_weak_signs_refuse():
    weak = replace(REPLAY, false_success=0.8, recall=1.0)
    assert judge(trust(replay=weak)).promoted
    judgement = judge(trust(replay=weak, bc=0.0))
    assert not judgement.promoted and levels(judgement)["imitation"] == "bad"
    assert any("fine_tuning.bc_coefficient is 0" in reason for reason in judgement.reasons)
    assert judge(trust(bc=0.0)).promoted, "with sound signs it needs no imitation"


def test_a_refusal_names_what_is_bad_alone_and_the_worst_stands_first():
    judgement = judge(trust(replay=replace(REPLAY, false_success=0.95, recall=0.9), false_positives=0.03))
    assert [reason.split(":")[0] for reason in judgement.reasons[1:]] == ["failures", "discrimination"]
    assert [check.level for check in judgement.checks][:3] == ["bad", "bad", "warn"]


def test_lines_for_the_end(tmp_path):
    assert judge(trust()).line(tmp_path).startswith(f"PROMOTED: {tmp_path}, iteration 10")
    refused = judge(trust(false_positives=0.4)).line(tmp_path)
    assert refused.startswith(f"REFUSED: {tmp_path}, iteration 10") and refused.endswith(
        "held-out frames (wanted: at most 2%)"
    )


def test_bounds_work_both_ways_and_nobody_knows_is_weak():
    high, low = Bound(0.5, 0.8), Bound(0.5, 0.2)
    assert [high.level(value) for value in (0.5, 0.51, 0.8, 0.81)] == ["ok", "warn", "warn", "bad"]
    assert [low.level(value) for value in (0.5, 0.49, 0.2, 0.19)] == ["ok", "warn", "warn", "bad"]
    assert high.level(math.nan) == low.level(math.nan) == "warn"


def test_every_bound_has_its_word():
    """A limit that no check reads would be a promise that nobody keeps."""
    for item in fields(TrustLimits):
        own = getattr(LIMITS, item.name)
        if isinstance(own, Bound):
            unmet = Bound(-2.0, -1.0) if own.bad >= own.warn else Bound(1e9, 1e8)
            assert not judge(trust(), replace(LIMITS, **{item.name: unmet})).promoted, item.name


@st.composite
def runs(draw: st.DrawFn) -> Trust:
    share, number = st.floats(0.0, 1.0), st.floats(-50.0, 50.0)
    values = {
        "returns": number, "dreamed_success": share, "other_success": share, "other_return": number,
        "return_error": st.floats(0.0, 5.0), "gain_error": st.floats(0.0, 5.0) | st.just(math.nan),
        "confidence": share, "entropy_excess": number,
        "translation_distance": st.floats(0.0, 2.0), "gripper_flips": share,
    }  # fmt: skip
    found = [
        signals(5 * number, **{name: draw(one) for name, one in values.items()})
        for number in range(draw(st.integers(1, 5)))
    ]
    replay = replace(REPLAY, failures=draw(st.integers(0, 20)), recall=draw(share), false_success=draw(share))
    return trust(*found, replay=replay, bc=draw(st.sampled_from([0.0, 0.05])))


@settings(max_examples=150, deadline=None)
@given(found=runs())
def test_any_run_gets_a_policy_of_its_own_and_a_refusal_a_reason(found):
    judgement = judge(found)
    assert judgement.iteration in [one.iteration for one in found.checkpoints]
    assert judgement.promoted == (len([check for check in judgement.checks if check.level == "bad"]) == 0)
    assert judgement.promoted or len(judgement.reasons) >= 2
    if judgement.promoted:
        assert judgement.iteration != 0, "the pre-trained policy has gained nothing"


# On disk


def test_signals_come_back_from_the_file_and_are_judged_alike(tmp_path):
    none = replace(REPLAY, failures=0, false_success=math.nan, false_success_error=math.nan)
    for found in (trust(), trust(replay=none)):
        write_trust(tmp_path / "trust.json", found, judge(found).to_json())
        again = read_trust(tmp_path / "trust.json")
        assert again.checkpoints == found.checkpoints and judge(again) == judge(found)
        assert math.isnan(again.replay.false_success) == math.isnan(found.replay.false_success)


@pytest.mark.parametrize("content", ["", "{}", '{"format": "other", "version": 1}', "[1]"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "trust.json"
    path.write_text(content)
    with pytest.raises(UserError, match="is not 'diwa-trust' version 2"):
        read_trust(path)
    with pytest.raises(UserError, match="cannot be read .*; diwa finetune makes it"):
        read_trust(tmp_path / "none.json")


def test_signals_of_another_version_are_refused(tmp_path):
    path = tmp_path / "trust.json"
    write_trust(path, trust())
    path.write_text(path.read_text().replace('"confidence"', '"boldness"'))
    with pytest.raises(UserError, match="boldness is missing or unknown|confidence is missing or unknown"):
        read_trust(path)
