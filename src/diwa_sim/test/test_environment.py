"""The Gymnasium face of the playroom."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diwa_conventions.actions import ActionScale, integrate
from diwa_conventions.images import area_resize
from diwa_conventions.tasks import EPISODE_FRAMES
from diwa_sim.environment import PlayroomConfig, PlayroomEnv, Workspace, make_vector_env

STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def blind() -> PlayroomEnv:
    """Without images: fast."""
    return PlayroomEnv(images=False)


def test_gymnasium_makes_it_and_its_checker_accepts_it():
    env = gymnasium.make("diwa_sim/Playroom-v0", task="open-drawer", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_the_same_seed_and_actions_give_the_same_episode_to_the_bit():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (5, 7))
    episodes = []
    for _ in range(2):
        env = PlayroomEnv(task="close-drawer")
        first, _ = env.reset(seed=11)
        episodes.append([first, *(env.step(action)[0] for action in actions)])
        env.close()
    for one, other in zip(*episodes, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_reset_forgets_the_episode_before(blind):
    first, _ = blind.reset(seed=5)
    for _ in range(5):
        blind.step(np.array([1.0, -1.0, -1.0, 0.5, 0.5, 0.5, -1.0]))
    again, _ = blind.reset(seed=5)
    np.testing.assert_array_equal(first["proprio"], again["proprio"])
    np.testing.assert_array_equal(first["scene_state"], again["scene_state"])


def test_other_seeds_start_elsewhere(blind):
    states = [blind.reset(seed=seed)[0]["scene_state"] for seed in range(3)]
    assert not np.array_equal(states[0], states[1])
    assert not np.array_equal(states[1], states[2])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 0, np.nan, 0, 0, 0, 1], r"action\[2\] is nan"),
        ([0, 0, 0, 0, -np.inf, 0, 1], r"action\[4\] is -inf"),
        ([0, 1.5, 0, 0, 0, 0, 1], r"action\[1\] is 1.5; expected a number in \[-1, 1\]"),
        ([0, 0, 0, 0, 0, 0, -2], r"action\[6\] is -2"),
        ([0, 0, 0], r"action has shape \(3,\); expected \(7,\)"),
    ],
)
def test_a_bad_action_is_refused_with_its_index_and_moves_nothing(blind, action, message):
    blind.reset(seed=0)
    before = blind.playroom.data.qpos.copy()
    with pytest.raises(ValueError, match=message):
        blind.step(action)
    np.testing.assert_array_equal(blind.playroom.data.qpos, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"taks": "open-drawer"}, "unknown playroom setting 'taks'; known settings: camera_size_px"),
        ({"task": "open-door"}, "unknown task 'open-door'"),
        ({"look": "shiny"}, "unknown look 'shiny'"),
        ({"image_size_px": 4}, "image_size_px is 4; expected 8 to camera_size_px=200"),
        ({"camera_size_px": 4000}, "camera size is 4000 px; expected 8 to 640"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0"),
        ({"max_episode_steps": float("nan")}, "max_episode_steps is nan; expected int"),
        ({"image_size_px": "64"}, "image_size_px is '64'; expected int"),
        ({"task": 3}, "task is 3; expected str"),
        ({"scale": None}, "scale is None; expected ActionScale"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        PlayroomEnv(**settings)


def test_bad_scales_boxes_and_options_are_refused(blind):
    with pytest.raises(ValueError, match="translation_m is 0.0"):
        ActionScale(translation_m=0.0)
    with pytest.raises(ValueError, match="expected low below high"):
        Workspace(low_m=(0.3, 0.0, 0.5), high_m=(0.8, 0.4, 0.5))
    with pytest.raises(ValueError, match="translation_m is 'x'"):
        ActionScale(translation_m="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"workspace low_m is \(0, 0\); expected three finite numbers"):
        Workspace(low_m=(0, 0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown reset option 'sed'"):
        blind.reset(options={"sed": 3})
    with pytest.raises(ValueError, match="seed is -1"):
        blind.reset(seed=-1)


def test_a_refused_reset_leaves_the_episode_as_it_was(blind):
    blind.reset(seed=0)
    with pytest.raises(ValueError, match="unknown task 'fly'"):
        blind.reset(options={"task": "fly"})
    assert blind.task == ""
    blind.step(STILL)


def test_stepping_before_the_first_reset_says_so():
    with pytest.raises(RuntimeError, match="call reset"):
        PlayroomEnv(images=False).step(STILL)


def test_a_full_action_commands_eight_centimetres_or_a_fifth_of_a_radian(blind):
    blind.reset(seed=1)
    before = blind.target
    _, _, _, _, info = blind.step([0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(blind.target.position - before.position, [0.0, 0.08, 0.0], atol=1e-9)
    assert blind.target.angle_rad(before) == pytest.approx(0.2, abs=1e-6)
    np.testing.assert_allclose(info["executed_action"], [0, 1, 0, 0, 0, 1, 1], atol=1e-6)


def test_the_caller_s_action_is_not_written_to(blind):
    blind.reset(seed=1)
    action = np.array([0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3])
    blind.step(action)
    assert action[6] == 0.3


@pytest.mark.parametrize("seed", range(3))
def test_the_executed_action_is_always_one_that_can_be_executed_again(blind, seed):
    """Wild actions drive the arm into the furniture, where the commanded pose has to wait for it."""
    blind.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        action = rng.choice([-1.0, 1.0], 7)
        before = blind.target
        *_, info = blind.step(action)
        executed = info["executed_action"]
        assert np.abs(executed).max() <= 1.0
        again = integrate(before, executed, blind.config.scale)
        assert again.distance_m(blind.target) < 1e-9
        assert again.angle_rad(blind.target) < 1e-6


def test_an_action_that_turns_about_all_axes_is_executed_as_it_is(blind):
    blind.reset(seed=1)
    *_, info = blind.step([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(info["executed_action"], [0, 0, 0, 1, 1, 1, 1], atol=1e-9)


def test_the_executed_action_has_the_gripper_quantised(blind):
    blind.reset(seed=1)
    for command, executed in ((0.0, 1.0), (0.3, 1.0), (-0.01, -1.0)):
        *_, info = blind.step([0, 0, 0, 0, 0, 0, command])
        assert info["executed_action"][6] == executed


def test_the_commanded_pose_stays_in_the_workspace_and_the_executed_action_tells(blind):
    blind.reset(seed=2)
    box = blind.config.workspace
    for _ in range(15):
        *_, info = blind.step([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
        assert (blind.target.position <= np.array(box.high_m) + 1e-12).all()
    assert blind.target.position[2] == pytest.approx(box.high_m[2])
    assert info["executed_action"][2] == pytest.approx(0.0, abs=1e-9)


def test_a_workspace_bound_of_exactly_zero_works():
    env = PlayroomEnv(images=False, workspace=Workspace(low_m=(0.28, 0.0, 0.02), high_m=(0.8, 0.42, 0.55)))
    env.reset(seed=0)
    for _ in range(6):
        env.step([0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        assert env.target.position[1] >= 0.0
    assert env.target.position[1] == 0.0


def test_an_episode_is_truncated_after_twelve_seconds(blind):
    blind.reset(seed=0)
    ends = [blind.step(STILL)[3] for _ in range(EPISODE_FRAMES // 4)]
    assert ends == [False] * 89 + [True]


def test_images_are_what_the_camera_renders_shrunk_by_area():
    env = PlayroomEnv(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    rendered = env.render()
    assert rendered is not None
    assert rendered.shape == (200, 400, 3)
    np.testing.assert_array_equal(observation["static"], area_resize(rendered[:, :200], 64))
    np.testing.assert_array_equal(observation["gripper"], area_resize(rendered[:, 200:], 64))
    env.close()


def test_every_observation_lies_in_its_space(blind):
    observation, _ = blind.reset(seed=3)
    assert blind.observation_space.contains(observation)
    assert set(blind.observation_space.spaces) == {"proprio", "scene_state"}
    assert PlayroomEnv(image_size_px=32).observation_space["static"].shape == (32, 32, 3)


def test_proprioception_is_position_two_rotation_columns_and_width(blind):
    observation, _ = blind.reset(seed=3)
    pose = blind.playroom.tool_pose()
    proprio = observation["proprio"]
    np.testing.assert_allclose(proprio[:3], pose.position, atol=1e-6)
    np.testing.assert_allclose(proprio[3:9].reshape(2, 3).T, pose.rotation[:, :2], atol=1e-6)
    assert proprio[9] == pytest.approx(0.08, abs=1e-3)


def test_environments_in_processes_equal_single_ones():
    config = PlayroomConfig(task="open-drawer", camera_size_px=32, image_size_px=32)
    action = np.array([0.5, 0.2, -0.5, 0.0, 0.0, 0.3, -1.0], dtype=np.float32)
    vector = make_vector_env(2, config)
    try:
        vector.reset(seed=[4, 5])
        seen, *_ = vector.step(np.stack([action, action]))
    finally:
        vector.close()
    for i, seed in enumerate((4, 5)):
        env = PlayroomEnv(config)
        env.reset(seed=seed)
        alone, *_ = env.step(action)
        for key, value in alone.items():
            np.testing.assert_array_equal(seen[key][i], value)


def test_no_environments_is_an_error():
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_vector_env(0)
