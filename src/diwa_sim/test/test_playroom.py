"""The simulated world: what moves it, and what does not."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_conventions.actions import Pose
from diwa_sim.environment import PlayroomEnv
from diwa_sim.operator import demonstrate
from diwa_sim.playroom import HAND_DOWN, HOME_POSITION_M, MAX_LEAD_M, MAX_LEAD_RAD, Playroom, limit_lead
from diwa_sim.scene import ARM_DOF, build_model
from diwa_sim.tasks import draw_start

vectors = st.tuples(*[st.floats(-3.0, 3.0)] * 3).map(np.array)
poses = st.builds(lambda p, r: Pose(p, Rotation.from_rotvec(r).as_matrix()), vectors, vectors)


@pytest.fixture(scope="module")
def playroom() -> Playroom:
    return Playroom()


def begin(playroom: Playroom, seed: int = 0, task: str = "") -> None:
    playroom.reset(draw_start(np.random.default_rng(seed), task))


def test_nothing_changes_while_the_arm_holds_still(playroom):
    for seed in range(5):
        begin(playroom, seed)
        before, tool = playroom.scene_state(), playroom.tool_pose()
        for _ in range(90):
            playroom.advance(tool, 1.0)
        np.testing.assert_allclose(playroom.scene_state().vector(), before.vector(), atol=1e-3)
        assert playroom.tool_pose().distance_m(tool) < 1e-3


def test_the_hand_reaches_a_commanded_pose(playroom):
    begin(playroom)
    tilt = Rotation.from_rotvec([0.1, 0.05, 0.3]).as_matrix()
    target = Pose(HOME_POSITION_M + [0.08, -0.10, 0.05], tilt @ HAND_DOWN)
    for _ in range(60):
        playroom.advance(target, 1.0)
    assert playroom.tool_pose().distance_m(target) < 2e-3
    assert playroom.tool_pose().angle_rad(target) < 5e-3


def test_gripper_opens_at_zero_and_closes_below(playroom):
    begin(playroom)
    tool = playroom.tool_pose()
    for command, width_m in ((-1e-9, 0.0), (0.0, 0.08), (-1.0, 0.0), (1.0, 0.08)):
        for _ in range(30):
            playroom.advance(tool, command)
        assert playroom.gripper_width_m() == pytest.approx(width_m, abs=2e-3)


def test_time_goes_on_by_ticks_of_a_120th_of_a_second(playroom):
    begin(playroom)
    for _ in range(4):
        playroom.advance(playroom.tool_pose(), 1.0, ticks=30)
    assert playroom.time_s == pytest.approx(1.0)


@given(target=poses, measured=poses)
def test_a_target_never_leads_the_measured_pose_by_more_than_the_limit(target, measured):
    limited = limit_lead(target, measured)
    assert limited.distance_m(measured) <= MAX_LEAD_M + 1e-9
    assert limited.angle_rad(measured) <= MAX_LEAD_RAD + 1e-6


@given(measured=poses)
def test_a_target_within_the_lead_is_left_alone(measured):
    near = Pose(measured.position + [0.0, 0.05, 0.0], measured.rotation)
    assert limit_lead(near, measured) is near


PRESSED_AT_A_STOP = Pose(np.array([2.0, -3.0, -2.0]), Rotation.from_rotvec([2.0, -3.0, -3.0]).as_matrix())


@settings(max_examples=20, deadline=None)
@given(target=poses)
@example(target=PRESSED_AT_A_STOP)
def test_whatever_the_target_joints_are_sent_within_their_limits_and_stay_near_them(target):
    """The stops of the simulated joints give a little where the arm presses against the table."""
    playroom = _shared_playroom()
    begin(playroom)
    low, high = playroom.model.jnt_range[:, 0], playroom.model.jnt_range[:, 1]
    arm = [playroom.model.joint(f"arm/fr3_joint{i + 1}").id for i in range(ARM_DOF)]
    for _ in range(20):
        playroom.advance(target, -1.0)
        sent, joints = playroom.data.ctrl[:ARM_DOF], playroom.joint_state().position
        assert (sent >= low[arm]).all() and (sent <= high[arm]).all()
        assert np.isfinite(joints).all()
        assert (joints[:ARM_DOF] >= low[arm] - 0.1).all() and (joints[:ARM_DOF] <= high[arm] + 0.1).all()


def _shared_playroom(made=[]) -> Playroom:  # noqa: B006 (one world for all examples)
    if not made:
        made.append(Playroom())
    return made[0]


@pytest.mark.parametrize(
    ("task", "geoms", "quantity"),
    [
        ("open-drawer", ["drawer_handle", "drawer_stem_left", "drawer_stem_right"], "drawer_m"),
        ("move-slider-left", ["slider_post", "slider_stem"], "slider_m"),
        ("turn-on-lightbulb", ["switch_knob"], "switch_m"),
        ("turn-on-LED", ["button"], "led"),
    ],
)
def test_contact_does_the_work(task, geoms, quantity):
    """The same demonstration without contact on the handle changes nothing."""
    env = PlayroomEnv(images=False)
    assert list(demonstrate(env, task, 1.0, seed=3))[-1].success
    for name in geoms:
        env.playroom.model.geom(name).contype = 0
        env.playroom.model.geom(name).conaffinity = 0
    steps = list(demonstrate(env, task, 1.0, seed=3))
    assert not steps[-1].success
    assert getattr(env.scene_state(), quantity) == pytest.approx(_at_start(env, task, quantity), abs=2e-3)


def _at_start(env: PlayroomEnv, task: str, quantity: str) -> float:
    env.reset(seed=3, options={"task": task})
    return getattr(env.scene_state(), quantity)


def test_one_press_toggles_the_led_once(playroom):
    begin(playroom, task="turn-on-LED")
    above = Pose(np.array([0.635, -0.27, 0.24]), HAND_DOWN)
    down = Pose(np.array([0.635, -0.27, 0.177]), HAND_DOWN)
    states = []
    for target in (above, down, down, above, down, above):
        for _ in range(30):
            playroom.advance(target, -1.0)
            states.append(playroom.led)
    assert states[-1] is False
    assert sum(a != b for a, b in zip([False, *states], states, strict=False)) == 2


def test_physics_runs_at_a_whole_number_of_steps_per_tick(playroom):
    assert 1.0 / playroom.model.opt.timestep == pytest.approx(240.0)


def test_an_unknown_look_is_refused():
    with pytest.raises(ValueError, match="unknown look 'shiny'; known looks: clear, hard"):
        build_model("shiny")  # type: ignore[arg-type]
