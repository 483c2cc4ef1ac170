"""The protocol of trials, by example and by fault; nodes are stand-ins, and time is made up."""

import math

import pytest
from ros_evaluation_samples import FRAME_NS, FRAME_S, SUCCESS_FRAMES, TASK, lab, plan

from diwa_bringup.ros_evaluation.bounds import (
    ANSWER_S,
    ATTEMPTS,
    FRESH_FRAMES,
    GIVEN_UP,
    LOST_S,
    PAUSE_S,
    READY_STEPS,
    SETTLE_S,
    STARTUP_S,
)
from diwa_bringup.ros_evaluation.phase import Phase
from diwa_bringup.ros_evaluation.run_record import RunRecord
from diwa_bringup.ros_evaluation.seen import (
    Accepted,
    Cancel,
    Goal,
    GuardMode,
    GuardSeen,
    Load,
    PolicyMode,
    PolicySeen,
    Recover,
    Reset,
    SceneSeen,
)
from diwa_conventions.tasks import EPISODE_FRAMES
from diwa_policy.evaluation.trials import episode_seed

# As it should be


def test_policies_take_turns_at_every_start():
    trial = lab(plan(trials=3))
    trial.until_over()
    assert [(one.name, one.number) for one in trial.outcomes] == [
        (name, number) for number in range(3) for name in ("policy0", "policy1")
    ]
    assert [request.path for request in trial.asked(Load)] == ["/policies/0", "/policies/1"] * 3
    assert trial.protocol.why == ""


def test_starts_and_noise_are_those_of_the_offline_evaluation():
    trial = lab(plan(trials=2, policies=1, sets=2))
    trial.until_over()
    seeds = [episode_seed(0, 0), episode_seed(1, 0), episode_seed(0, 1), episode_seed(1, 1)]
    assert [(one.task, one.seed) for one in trial.asked(Reset)] == [(TASK, seed) for seed in seeds]
    assert [(one.skill, one.seed) for one in trial.asked(Goal)] == [(TASK, seed) for seed in seeds]
    assert [(one.set, one.seed) for one in trial.outcomes] == list(zip([0, 1, 0, 1], seeds, strict=True))


def test_success_by_the_oracle_ends_the_run():
    trial = lab(plan(trials=1, policies=1))
    trial.until_over()
    (one,) = trial.outcomes
    assert (one.counted, one.success, one.judge, one.reason) == (True, True, "oracle", "success")
    assert one.frames == pytest.approx(SUCCESS_FRAMES / 4, abs=2)
    assert one.seconds == pytest.approx(SUCCESS_FRAMES / 30, abs=0.2)
    assert len(trial.asked(Cancel)) == 1 and trial.goal is None


def test_without_success_a_trial_is_as_long_as_an_offline_episode():
    trial = lab(plan(trials=1, policies=1), "nothing")
    trial.until_over()
    (one,) = trial.outcomes
    assert (one.counted, one.success, one.reason) == (True, False, "time limit")
    assert one.frames == EPISODE_FRAMES // 4 and one.seconds == pytest.approx(12.0, abs=0.1)


def test_time_is_the_playrooms_own_on_a_slow_machine():
    trial = lab(plan(trials=1, policies=1), "nothing", scene_every=2)
    trial.until_over()
    (one,) = trial.outcomes
    assert one.reason == "time limit" and one.seconds == pytest.approx(12.0, abs=0.1)
    assert trial.now_s > 24.0
    (goal,) = trial.asked(Goal)
    assert goal.time_limit_s == pytest.approx(24.0)


def test_what_was_measured_is_told_with_each_trial():
    trial = lab(plan(trials=1, policies=1), "nothing")
    trial.until_over()
    (one,) = trial.outcomes
    assert len(one.stamp_to_action_ms) == pytest.approx(90, abs=2) and set(one.stamp_to_action_ms) == {12.0}
    assert one.decision_ms[:3] == (3.0, 4.0, 5.0)
    assert one.interval_ms[5] == pytest.approx(4 * FRAME_NS * 1e-6, abs=0.01)
    assert one.surprise == 2.0
    assert (one.probability, one.threshold, one.claimed) == (1.0, 0.5, True)


def test_without_a_classifier_nothing_is_claimed():
    record = RunRecord()
    record.policy(policy_seen(step=1, probability=math.nan, threshold=math.nan))
    assert record.outcome(plan(), plan().trials[0], 1, True, False, "time limit").claimed is None


def test_a_policy_that_is_loaded_already_is_not_loaded_again():
    trial = lab(plan(trials=2, policies=1), loaded="0" * 64, world_model="ab" * 32)
    trial.until_over()
    assert trial.asked(Load) == [] and len(trial.outcomes) == 2


def test_world_model_and_classifier_are_named_only_where_they_are_not_loaded_yet():
    trial = lab(plan(trials=1, reward="/reward"), loaded="0" * 64, world_model="ab" * 32)
    trial.until_over()
    assert [(one.world_model, one.reward) for one in trial.asked(Load)] == [("", "/reward"), ("", "")]
    other = lab(plan(trials=1, reward="/reward"), loaded="0" * 64, world_model="cd" * 32)
    other.until_over()
    assert [(one.world_model, one.reward) for one in other.asked(Load)] == [("/world_model", "/reward"), ("", "")]


def test_the_goal_waits_for_frames_of_the_new_episode():
    trial = lab(plan(trials=1, policies=1))
    trial.until(lambda: trial.protocol.phase is Phase.SETTLE)
    trial.cameras = False
    trial.frame(5)
    old_ns, new_ns = 10**17, trial.stamp_ns
    for _ in range(FRESH_FRAMES):
        trial.protocol.on_camera("static", new_ns)
        trial.protocol.on_camera("gripper", old_ns)
    trial.frame()
    assert trial.asked(Goal) == []
    for _ in range(FRESH_FRAMES):
        trial.protocol.on_camera("gripper", new_ns)
    trial.frame()
    assert len(trial.asked(Goal)) == 1


def policy_seen(**parts) -> PolicySeen:
    numbers = dict.fromkeys(("probability", "threshold", "surprise", "latency_s", "decision_s"), math.nan)
    whole = {"reason": "", "policy_hash": "", "world_model_hash": "", "dry_run": False, "frame_ns": 0, "step": 0}
    return PolicySeen(**{"mode": PolicyMode.RUNNING, **whole, **numbers, **parts})


def test_the_first_frame_is_no_success_and_surprise_counts_once_the_filter_is_ready():
    record = RunRecord()
    for step in range(READY_STEPS + 1):
        late = step == READY_STEPS
        record.policy(policy_seen(step=step, probability=0.9 if step == 0 else 0.2, surprise=3.0 if late else 50.0))
    one = record.outcome(plan(), plan().trials[0], 1, True, False, "time limit")
    assert (one.probability, one.surprise) == (0.2, 3.0)


def test_states_lost_on_the_way_count_and_time_in_which_nothing_was_simulated_does_not():
    record = RunRecord()
    record.policy(policy_seen(step=0))
    for stamp_ns in (0, FRAME_NS, 4 * FRAME_NS, 4 * FRAME_NS + 10**9):
        record.scene(SceneSeen(stamp_ns, 1, False))
    assert record.scene_frames == 1 + 3 + 1


def test_time_counts_from_the_first_frame_that_the_policy_saw():
    record = RunRecord()
    record.scene(SceneSeen(3 * FRAME_NS, 1, False))
    record.policy(policy_seen(step=0, frame_ns=FRAME_NS))
    assert record.scene_frames == 2


# Faults


@pytest.mark.parametrize("reason", ["the world model is surprised: 80 nat", "the policy's action is not finite"])
def test_a_run_that_the_policy_node_stops_for_the_policys_doing_is_a_failure(reason: str):
    trial = lab(plan(trials=1, policies=1), f"stopped: {reason}")
    trial.until_over()
    assert [(one.counted, one.success, one.reason) for one in trial.outcomes] == [(True, False, reason)]


def test_a_run_that_nodes_or_machine_broke_off_does_not_count_and_is_repeated():
    trial = lab(plan(trials=1, policies=1), "stopped: no frame for 0.41 s: static camera is silent", "success")
    trial.until_over()
    assert [(one.attempt, one.counted, one.success) for one in trial.outcomes] == [(1, False, False), (2, True, True)]
    assert {request.seed for request in trial.asked(Goal)} == {0}
    assert "does not count: no frame for 0.41 s" in trial.said


def test_a_trial_that_is_always_broken_off_is_given_up_and_the_next_one_is_had():
    trial = lab(plan(trials=2, policies=1), *["stopped: frames were lost"] * ATTEMPTS)
    trial.until_over()
    assert [one.counted for one in trial.outcomes] == [False] * ATTEMPTS + [True]
    assert trial.outcomes[-1].number == 1 and trial.protocol.why == ""


def test_a_trial_is_given_up_like_others_though_its_last_attempt_did_not_begin():
    broken = ["stopped: frames were lost"] * (ATTEMPTS - 1) + ["not begun: the command guard does not arm"]
    trial = lab(plan(trials=2, policies=1), *broken)
    trial.until_over()
    assert trial.protocol.why == "" and [one.number for one in trial.outcomes if one.counted] == [1]


def test_before_each_further_attempt_there_is_a_longer_pause():
    trial = lab(plan(trials=1, policies=1), "refused", "refused", "success")
    ended_s = []
    for count in (1, 2):
        trial.until(lambda count=count: len(trial.outcomes) == count)
        ended_s.append(trial.now_s)
    trial.until(lambda: len(trial.asked(Goal)) == 3)
    assert ended_s[1] - ended_s[0] >= PAUSE_S and trial.now_s - ended_s[1] >= 2 * PAUSE_S


def test_several_trials_given_up_in_a_row_end_it():
    trial = lab(plan(trials=5, policies=1), *["stopped: frames were lost"] * ATTEMPTS * GIVEN_UP)
    trial.until_over()
    assert len(trial.outcomes) == ATTEMPTS * GIVEN_UP
    assert trial.protocol.why.startswith(f"trial {GIVEN_UP}/5 of policy0 could not be had in {ATTEMPTS} attempts")
    assert trial.protocol.why.endswith(": frames were lost")


def test_a_goal_that_is_refused_is_sent_again_and_not_for_ever():
    trial = lab(plan(trials=1, policies=1), "refused", "success")
    trial.until_over()
    assert [one.counted for one in trial.outcomes] == [False, True]
    assert trial.outcomes[0].reason == "the policy node refused the goal and says: busy"
    other = lab(plan(trials=1, policies=1), *["refused"] * ATTEMPTS)
    other.until_over()
    assert "trial 1/1 of policy0 could not be had in" in other.protocol.why


def test_a_run_that_never_began_says_why():
    trial = lab(plan(trials=1, policies=1), *["not begun: the command guard does not arm: no current_pose"] * ATTEMPTS)
    trial.until_over()
    assert trial.protocol.why.endswith("the command guard does not arm: no current_pose")
    assert not any(one.counted for one in trial.outcomes)


def test_a_policy_node_that_vanishes_in_a_run_is_waited_for():
    trial = lab(plan(trials=1, policies=1), "vanishes", "success")
    trial.until(lambda: not trial.here)
    trial.until(lambda: bool(trial.outcomes))
    assert not trial.outcomes[0].counted and "silent for more than" in trial.outcomes[0].reason
    trial.frame(60)
    assert len(trial.asked(Goal)) == 1
    trial.here = True
    trial.until_over()
    assert trial.outcomes[-1].success


def test_a_policy_node_that_does_not_come_back_ends_it_with_its_name():
    trial = lab(plan(trials=1, policies=1), "vanishes")
    trial.until_over()
    assert trial.protocol.why.startswith(f"waited {LOST_S:g} s for action run_skill")


def test_nodes_that_never_come_end_it_with_their_names():
    trial = lab(plan(), here=False)
    trial.until_over()
    assert trial.protocol.why.startswith(f"waited {STARTUP_S:g} s for action run_skill")
    assert trial.now_s < STARTUP_S + 1.0


def test_a_goal_that_is_taken_too_late_is_not_waited_for():
    trial = lab(plan(trials=1, policies=1))
    trial.until(lambda: trial.protocol.phase is Phase.SETTLE)
    begin, trial._begin = trial._begin, lambda request: None  # type: ignore[method-assign]
    trial.until(lambda: bool(trial.outcomes))
    (late,) = trial.asked(Goal)
    assert trial.outcomes[0].reason == f"no answer of the policy node within {ANSWER_S:g} s"
    assert not trial.protocol.waits_for_answer(late.ticket)
    trial._begin = begin  # type: ignore[method-assign]
    trial.protocol.answered(late.ticket, Accepted(True))
    assert trial.protocol.phase is not Phase.RUN
    trial.until_over()
    assert trial.outcomes[-1].success


def test_success_that_was_seen_counts_though_no_result_comes():
    trial = lab(plan(trials=1, policies=1), "deaf")
    trial.until(lambda: trial.frames > 40 and trial.run == "deaf")
    trial.success = True
    trial.until(lambda: bool(trial.outcomes))
    assert trial.outcomes[0].success and trial.outcomes[0].counted
    trial.until_over()


def test_cameras_that_deliver_nothing_new_are_named():
    trial = lab(plan(trials=1, policies=1), cameras=False)
    trial.until(lambda: bool(trial.outcomes))
    said = f"no fresh frames of the static and the gripper camera within {SETTLE_S:g} s of the reset"
    assert trial.outcomes[0].reason == said


@pytest.mark.parametrize(
    ("service", "words"), [("load", "does not load policy0: foreign"), ("reset", "does not reset: foreign")]
)
def test_what_will_not_change_by_itself_ends_it(service: str, words: str):
    trial = lab(plan(), refuses={service: "foreign"})
    trial.until_over()
    assert words in trial.protocol.why and trial.outcomes == []


def test_the_guards_fault_breaks_the_attempt_off_and_the_guard_is_asked_to_recover():
    trial = lab(plan(trials=1, policies=1), "guard fault", "success")
    trial.until_over()
    assert [(one.counted, one.success) for one in trial.outcomes] == [(False, False), (True, True)]
    assert trial.outcomes[0].reason == "fault of the command guard: the arm does not follow"
    assert len(trial.asked(Cancel)) == 2 and len(trial.asked(Recover)) == 1


def test_a_policy_that_always_ends_in_the_guards_fault_fails():
    trial = lab(plan(trials=1, policies=1), *["guard fault"] * ATTEMPTS)
    trial.until_over()
    assert [one.counted for one in trial.outcomes] == [False] * (ATTEMPTS - 1) + [True]
    assert not trial.outcomes[-1].success


def test_a_guard_that_does_not_recover_ends_it():
    trial = lab(plan(trials=1, policies=1), "guard fault", recovers=False)
    trial.until_over()
    assert trial.protocol.why == "the command guard has stopped: the arm does not follow; recovery: it stays"


def test_a_reset_by_somebody_else_breaks_the_attempt_off():
    trial = lab(plan(trials=1, policies=1))
    trial.until(lambda: trial.frames > 30 and trial.goal is not None)
    trial.episode += 1
    trial.until_over()
    assert [(one.counted, one.reason) for one in trial.outcomes][0] == (False, "somebody else reset the playroom")
    assert trial.outcomes[-1].success


def test_a_dry_run_moves_nothing_and_is_no_trial():
    trial = lab(plan(), dry_run=True, loaded="0" * 64)
    trial.until_over()
    assert "dry_run:=true" in trial.protocol.why and trial.outcomes == []


@pytest.mark.parametrize("frames", [2, 60])
def test_what_is_under_way_at_an_interruption_is_told_and_does_not_count(frames: int):
    trial = lab(plan(trials=1, policies=1), "nothing")
    trial.until(lambda: trial.goal is not None)
    trial.frame(frames)
    trial.protocol.interrupt()
    (one,) = trial.protocol.outcomes
    assert (one.counted, one.reason) == (False, "interrupted") and trial.protocol.over


# A person resets the scene and says what was a success


def real(*runs: str, **parts):
    """A lab whose nodes are there, at the first prompt."""
    trial = lab(plan("real", trials=3, policies=1), *runs, **parts)
    trial.until(lambda: trial.protocol.phase is Phase.PLACE)
    trial.frame()
    return trial


def had(trial, verdict: str) -> None:
    """One trial, judged by that word."""
    trial.until(lambda: trial.protocol.phase is Phase.PLACE)
    trial.protocol.on_line("")
    trial.until(lambda: trial.protocol.phase is Phase.JUDGE)
    trial.protocol.on_line(verdict)
    trial.frame()


def test_a_person_is_asked_to_reset_and_to_judge():
    trial = real("stopped: time limit: 12.0 s", "stopped: success: the classifier gives 0.93", "stopped: time limit")
    assert "reset the scene for trial 1/3 of policy0 (start 1), then Enter; q ends" in trial.said
    trial.frame(300)
    assert trial.asked(Goal) == [] and trial.asked(Reset) == []
    for verdict in ("n", "y", "y"):
        had(trial, verdict)
    trial.until_over()
    assert [(one.success, one.judge) for one in trial.outcomes] == [
        (False, "person"),
        (True, "person"),
        (True, "person"),
    ]
    assert trial.asked(Goal)[0].time_limit_s == pytest.approx(12.0)
    assert "trial 2/3 of policy0 ended (success: the classifier gives 0.93); success? y, n, a: repeat it" in trial.said


def test_an_attempt_that_the_person_breaks_off_is_repeated_with_the_same_start():
    trial = real(*["stopped: time limit"] * 4)
    had(trial, "a")
    had(trial, "y")
    assert [(one.number, one.counted, one.attempt) for one in trial.outcomes] == [(0, False, 1), (0, True, 2)]
    assert trial.said.count("(start 1)") == 2


def test_a_word_that_is_none_is_asked_again():
    trial = real("stopped: time limit")
    had(trial, "perhaps")
    assert trial.protocol.phase is Phase.JUDGE and "y: success, n: failure" in trial.said
    trial.protocol.on_line("Yes")
    assert trial.outcomes == [] and trial.protocol.outcomes[0].success


@pytest.mark.parametrize("word", ["q", None])
def test_a_person_who_leaves_ends_it_and_what_was_done_stays(word: str | None):
    trial = real("stopped: time limit")
    had(trial, "y")
    trial.until(lambda: trial.protocol.phase is Phase.PLACE)
    trial.protocol.on_line(word)
    assert trial.protocol.over and trial.protocol.why == "ended by the person at the terminal"
    assert [one.success for one in trial.outcomes] == [True]


def test_leaving_at_the_verdict_does_not_count_the_trial():
    trial = real("stopped: time limit")
    had(trial, "q")
    assert trial.protocol.over and [one.counted for one in trial.outcomes] == [False]


def test_enter_stops_a_run():
    trial = real("nothing")
    trial.protocol.on_line("")
    trial.until(lambda: trial.frames > 20 and trial.goal is not None)
    trial.protocol.on_line("")
    trial.until(lambda: trial.protocol.phase is Phase.JUDGE)
    trial.frame()
    assert len(trial.asked(Cancel)) == 1 and "stopped by the person at the terminal" in trial.said


def test_after_a_fault_the_person_is_told_how_to_recover_and_waited_for():
    trial = real("guard fault", "stopped: time limit")
    had(trial, "a")
    trial.frame(600)
    assert "the command guard has stopped: the arm does not follow; mend that, then: diwa guard recover" in trial.said
    assert trial.protocol.phase is Phase.RECOVER and trial.asked(Recover) == []
    trial.guard = GuardSeen(GuardMode.DISARMED, "", "recovered")
    had(trial, "y")
    assert trial.outcomes[-1].success


def test_a_deployment_that_is_gone_is_waited_for_with_a_word_now_and_then():
    trial = lab(plan("real"), here=False)
    trial.frame(round(200.0 / FRAME_S))
    assert not trial.protocol.over and trial.said.count("waiting for action run_skill") > 10


def test_a_guard_that_is_armed_for_somebody_else_is_waited_for():
    trial = lab(plan("real"), guard=GuardSeen(GuardMode.ARMED, "teleop", "teleop is armed"))
    trial.frame(600)
    assert "armed for teleop (diwa guard disarm)" in trial.said and trial.asked(Goal) == []
