"""The policy node as a real process; this test is arm, cameras, command guard and person."""

import numpy as np
import pytest
import rclpy
from diwa_msgs.action import RunSkill
from diwa_msgs.msg import GuardState, PolicyStatus
from policy_lab import Lab, end, start
from policy_samples import OTHER_SKILL, SKILL, saved_policy, saved_reward, small_world_model
from serving_lab import always, served

from diwa_conventions import topics
from diwa_worldmodel.artefact import load_world_model


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """World model, policy and a classifier that never sees success."""
    path = tmp_path_factory.mktemp("served")
    served(path)
    return path


@pytest.fixture(scope="module")
def process(folder):
    policy = start(folder)
    yield policy
    end(policy)


@pytest.fixture(scope="module")
def whole(process):
    lab = Lab()
    yield lab
    lab.disarming.destroy_node()
    lab.node.destroy_node()


@pytest.fixture
def lab(whole):
    whole.set_up()
    return whole


def test_arms_acts_at_every_step_and_disarms(lab):
    result = lab.run(time_limit_s=0.6)
    actions = lab.until(lambda: lab.seen[topics.ACTION], "actions")
    assert (result.success, result.reason, result.steps, result.seed) == (False, "time limit: 0.5 s", 4, 5)
    lab.until(lambda: lab.disarmed, "disarming")
    assert lab.disarmed == ["policy: time limit: 0.5 s"]
    assert [action.sequence for action in actions] == [1, 2, 3, 4]
    assert {action.source for action in actions} == {topics.POLICY_SOURCE}
    assert {action.header.frame_id for action in actions} == {topics.BASE_FRAME}
    assert {round(action.duration_s * 7.5, 9) for action in actions} == {1.0}
    assert {abs(action.gripper) for action in actions} == {1.0}
    assert not lab.seen[topics.SHADOW_ACTION]


def test_a_negative_seed_is_drawn_and_told(lab):
    drawn = lab.run(time_limit_s=0.2, seed=-1).seed
    assert drawn >= 0
    assert lab.seen[topics.POLICY_STATUS][-1].seed == drawn


def test_status_tells_step_frame_and_bounds(lab):
    lab.run(time_limit_s=0.5)
    told = [one for one in lab.seen[topics.POLICY_STATUS] if one.state == PolicyStatus.RUNNING]
    told = told[[one.step for one in told].index(0) :]  # the end of the run before may come late
    assert [one.step for one in told][:4] == [0, 1, 2, 3]
    stamps = [one.frame.sec + 1e-9 * one.frame.nanosec for one in told]
    assert min(np.diff(stamps)) == pytest.approx(1 / 7.5, abs=0.05)  # frames of a busy machine may come later
    assert told[0].skill == SKILL and told[0].success_threshold == 2.0
    assert 0.0 <= told[1].success_probability <= 1.0
    assert told[0].decision_s > 0.0 and told[0].latency_s > 0.0


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        ({"skill": OTHER_SKILL}, "the loaded policy is for 'push-left', not 'push-right'; load another policy"),
        ({"time_limit_s": 0.0}, "time_limit_s is 0; expected a number above 0"),
        ({"time_limit_s": float("nan")}, "time_limit_s is nan; expected a number above 0"),
    ],
)
def test_goals_that_cannot_be_pursued_are_refused_and_nobody_is_armed(lab, goal, reason):
    result = lab.run(**goal)
    assert (result.success, result.reason) == (False, reason)
    assert not lab.source and not lab.seen[topics.ACTION]


def test_a_second_goal_is_refused_while_one_runs(lab):
    first = lab.begin(time_limit_s=30.0)
    lab.running()
    assert lab.run().reason == f"{SKILL} is running; cancel it first"
    first.cancel_goal_async()
    assert lab.result(first).reason == "cancelled"
    lab.until(lambda: lab.disarmed, "disarming")


def test_cancelling_disarms(lab):
    goal = lab.begin(time_limit_s=30.0)
    lab.running()
    goal.cancel_goal_async()
    assert lab.result(goal).reason == "cancelled"
    lab.until(lambda: lab.disarmed == ["policy: cancelled"], "disarming")


def test_a_run_begins_once_the_request_that_ended_the_last_one_has_come(lab):
    """Else it would end this one: a cable was out, say."""
    lab.cable = False
    assert lab.run(time_limit_s=0.3).reason.startswith("time limit")
    goal = lab.begin(time_limit_s=30.0)
    before = lab.ticks
    lab.until(lambda: lab.ticks > before + 30, "half a second of states")
    assert lab.armed == 1 and not lab.disarmed
    lab.cable = True
    lab.running()
    assert lab.armed == 2 and len(lab.disarmed) == 1
    goal.cancel_goal_async()
    assert lab.result(goal).reason == "cancelled"
    lab.until(lambda: len(lab.disarmed) == 2, "disarming")


def test_a_request_that_never_comes_is_not_waited_for_long(lab):
    """The guard was killed and started anew, say."""
    lab.cable = False
    assert lab.run(time_limit_s=0.3).reason.startswith("time limit")
    assert lab.run(time_limit_s=0.3).reason.startswith("time limit")
    assert lab.armed == 2 and not lab.disarmed
    lab.cable = True
    lab.until(lambda: len(lab.disarmed) == 2, "disarming")


def test_a_guard_that_does_not_arm_ends_it_before_it_begins(lab):
    lab.arms = False
    assert lab.run().reason == "the command guard does not arm: a fault is latched"
    assert not lab.seen[topics.ACTION]


def test_a_guard_that_obeys_no_longer_ends_it(lab):
    goal = lab.begin(time_limit_s=30.0)
    lab.running()
    lab.source, lab.state = "", GuardState.FAULT
    assert lab.result(goal).reason == "the command guard does not obey any longer: as the test says"
    lab.until(lambda: lab.disarmed, "disarming")


def test_a_run_that_another_source_has_ended_does_not_disarm_that_source(lab):
    goal = lab.begin(time_limit_s=30.0)
    lab.running()
    lab.source = topics.TELEOP_SOURCE
    assert "does not obey any longer" in lab.result(goal).reason
    assert lab.run(time_limit_s=0.2).reason.startswith("time limit")  # the next one arms again, and disarms
    lab.until(lambda: lab.disarmed, "disarming")
    assert lab.disarmed == ["policy: time limit: 0.3 s"]


def test_a_refusal_to_arm_disarms_nobody(lab):
    lab.arms = False
    lab.run(time_limit_s=0.2)
    lab.arms = True
    lab.run(time_limit_s=0.2)
    lab.until(lambda: lab.disarmed, "disarming")
    assert lab.disarmed == ["policy: time limit: 0.3 s"]


def test_a_guard_that_holds_on_ends_it(lab):
    goal = lab.begin(time_limit_s=30.0)
    lab.running()
    lab.state = GuardState.HOLDING
    assert lab.result(goal).reason == "the command guard holds: as the test says"
    lab.until(lambda: lab.disarmed, "disarming")


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        (topics.STATIC_IMAGE, "static camera is silent for"),
        (topics.GRIPPER_IMAGE, "gripper camera: "),
        (topics.CURRENT_POSE, "pose: "),
        (topics.GUARD_STATE, "the command guard is silent"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_topic_that_falls_silent_ends_it_and_is_named(lab, topic, reason):
    def silenced() -> RunSkill.Result | None:
        """The end of a run; None where frames were lost before, as on a busy machine."""
        lab.silent = set()
        goal = lab.begin(time_limit_s=30.0)
        ended = goal.get_result_async()
        lab.until(lambda: lab.under_way(2) or ended.done(), "steps or the end")
        lab.silent = {topic}
        result = lab.until(lambda: ended.done() and ended.result(), "the end").result
        return None if result.reason.startswith("frames were lost") else result

    result = lab.until(silenced, "a run without lost frames")
    assert not result.success and reason in result.reason
    lab.until(lambda: lab.disarmed, "disarming")


def test_a_run_without_a_first_frame_says_what_never_came(lab):
    lab.silent = {topics.STATIC_IMAGE}
    assert "no frame for" in lab.run(time_limit_s=5.0).reason


def test_foreign_policies_are_refused_and_the_loaded_one_stays(lab, folder, tmp_path):
    foreign = small_world_model(tmp_path / "other", seed=1)
    saved_policy(tmp_path / "policy", foreign.hash)
    answer = lab.loaded(tmp_path / "policy")
    assert not answer.success and "is a policy on the latents of world model" in answer.message
    assert lab.loaded(tmp_path / "nowhere").success is False
    assert lab.run(time_limit_s=0.2).reason.startswith("time limit")


def test_another_skill_can_be_loaded_and_the_first_again(lab, folder, tmp_path):
    own = (folder / "policy", folder / "world_model", folder / "reward")
    other = small_world_model(tmp_path / "other", seed=1)
    saved_policy(tmp_path / "policy", other.hash, skill=OTHER_SKILL)
    answer = lab.loaded(tmp_path / "policy", tmp_path / "other")
    assert (answer.success, answer.skill) == (True, OTHER_SKILL)
    assert "there is no reward classifier" in answer.message
    assert lab.run(skill=OTHER_SKILL, time_limit_s=0.2).reason.startswith("time limit")
    assert lab.loaded(*own).skill == SKILL


def test_success_and_failure_follow_each_other_in_any_order(lab, folder, tmp_path):
    own = (folder / "policy", folder / "world_model", folder / "reward")
    saved_reward(tmp_path / "always", load_world_model(own[1]).hash, always())
    for reward, success in ((own[2], False), (tmp_path / "always", True), (own[2], False)):
        assert lab.loaded(*own[:2], reward).success
        result = lab.run(time_limit_s=0.4)
        assert result.success is success and result.reason.startswith("success" if success else "time limit")


def test_a_second_policy_node_stops_both_from_running(lab, folder):
    second = start(folder, name="policy_2")
    try:
        refused = lambda: "another policy node publishes /diwa/policy_status" in lab.run(time_limit_s=0.2).reason  # noqa: E731
        lab.until(refused, "the refusal")
    finally:
        end(second)
    lab.until(lambda: lab.run(time_limit_s=0.2).reason.startswith("time limit"), "its end")


def test_dry_run_shows_its_actions_where_nothing_obeys_them(process, lab, folder):
    end(process)
    shadow = start(folder, "dry_run:=true")
    try:
        result = lab.run(time_limit_s=0.4)
        shown = lab.until(lambda: lab.seen[topics.SHADOW_ACTION], "shadow actions")
        assert result.reason == "time limit: 0.4 s" and len(shown) == 3
        assert not lab.source and not lab.disarmed and not lab.seen[topics.ACTION]
    finally:
        end(shadow)


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        (["world_model:=''"], "no world model is named for"),
        (["inference:=tensorrt"], "parameter inference is 'tensorrt'; expected one of auto, onnx, torch"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_ends_the_node(folder, parameters, line):
    process = start(folder, *parameters)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert line in said and "Traceback" not in said
