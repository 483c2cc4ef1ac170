"""Dreams as a Gymnasium vector environment: held against Gymnasium's own vector environment of the same world."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from policy_samples import LATENT, SKILL, saved_reward, small_classifier
from torch import Tensor, nn

from diwa_conventions.errors import UserError
from diwa_policy.artefacts import LoadedReward
from diwa_policy.dream import DreamDiffusionMDP, DreamRules
from diwa_policy.dream_env import DreamVectorEnv
from diwa_policy.reward import Scores
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.rssm import State

STEP, GOAL, LENGTH, ENVS = 0.15, 0.4, 5, 3
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


class Line:
    """Stands in for the RSSM: h is the position, which dx moves."""

    deterministic, discrete = 1, 0

    def frozen(self, kind: torch.dtype) -> Line:
        return self

    def imagine_step(self, state: State, action: Tensor, uniforms: Tensor) -> tuple[State, Tensor]:
        return State(state.deterministic + STEP * action[:, :1], state.stochastic), torch.zeros(len(action), 1, 2)


class Goal(nn.Module):
    """Success is to be beyond GOAL."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))

    def forward(self, latents: Tensor) -> Scores:
        return Scores(10.0 * (latents[..., 0] - GOAL), latents)


class LineEnv(gymnasium.Env[Any, Any]):
    """The same world, one dream at a time: a reference written without the environment that is tested."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.position, self.steps = np.zeros(1, np.float32), 0
        return self.position.copy(), {}

    def step(self, action: Any) -> Any:
        self.position = self.position + np.float32(STEP) * action[:1]
        self.steps += 1
        success = bool(self.position[0] > GOAL)
        chance = 1.0 / (1.0 + np.exp(-10.0 * (self.position - np.float32(GOAL))))
        info = {"probability": chance.astype(np.float32), "prior_entropy": np.full(1, np.log(2.0), np.float32)}
        return self.position.copy(), float(success), success, self.steps >= LENGTH, info


def on_the_line(mode: AutoresetMode = AutoresetMode.NEXT_STEP, actions: int = 1) -> DreamVectorEnv:
    world: Any = SimpleNamespace(rssm=Line())
    classifier: Any = Goal()
    mdp = DreamDiffusionMDP(world, classifier, DreamRules(0.9, "threshold"), torch.Generator())
    return DreamVectorEnv(mdp, lambda count, generator: torch.zeros(count, 1), ENVS, 1, LENGTH, actions, mode)


def random_actions(count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-0.3, 1.0, (ENVS, 7)).astype(np.float32) for _ in range(count)]


def assert_same(found: Any, expected: Any) -> None:
    """Of nested dicts and arrays, also arrays of arrays and Nones."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert sorted(found) == sorted(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif expected.dtype == object:
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            assert one is None or np.allclose(one, other)
    else:
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_it_begins_and_ends_as_gymnasiums_own_vector_environment_does(mode: AutoresetMode) -> None:
    envs, reference = on_the_line(mode), SyncVectorEnv([LineEnv] * ENVS, autoreset_mode=mode)
    for found, expected in zip(envs.reset(seed=0), reference.reset(seed=0), strict=True):
        assert_same(found, expected)
    ends = []
    for actions in random_actions(40):
        found, expected = envs.step(actions), reference.step(actions)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
        ends.append((expected[2].any(), expected[3].any()))
    terminated, truncated = map(any, zip(*ends, strict=True))
    assert terminated and truncated  # both were seen
    assert envs.metadata["autoreset_mode"] is mode


def test_spaces_are_those_of_latents_and_actions() -> None:
    envs = on_the_line(actions=4)
    assert envs.single_action_space.shape == (28,)
    assert envs.action_space.shape == (ENVS, 28)
    assert envs.observation_space.shape == (ENVS, 1)
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space
    assert envs.step(envs.action_space.sample())[0] in envs.observation_space


def test_a_chunk_is_executed_in_one_step() -> None:
    envs = on_the_line(actions=4)
    envs.reset(seed=0)
    chunks = np.zeros((ENVS, 28), np.float32)
    chunks[:, [0, 7]] = 1.0
    observations, _, terminations, _, infos = envs.step(chunks)
    assert np.allclose(observations, 2 * STEP)
    assert infos["probability"].shape == (ENVS, 4)
    assert not terminations.any()


def test_observations_given_away_do_not_change_later() -> None:
    envs = on_the_line()
    first, _ = envs.reset(seed=0)
    kept = first.copy()
    for actions in random_actions(LENGTH + 2):
        second = envs.step(actions)[0]
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(ResetNeeded):
        on_the_line().step(random_actions(1)[0])


def test_dreams_that_never_begin_anew_are_refused() -> None:
    with pytest.raises(UserError, match="expected autoreset_mode NextStep or SameStep"):
        on_the_line(AutoresetMode.DISABLED)


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_wrappers_count_its_episodes(mode: AutoresetMode) -> None:
    envs = RecordEpisodeStatistics(on_the_line(mode))
    envs.reset(seed=0)
    for actions in random_actions(20):
        envs.step(np.minimum(actions, 0.0))
    assert set(envs.length_queue) == {LENGTH}
    assert set(envs.return_queue) == {0.0}


# With artefacts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reward(world_model: LoadedWorldModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedReward:
    return saved_reward(tmp_path_factory.mktemp("reward") / "reward", world_model.hash, small_classifier())


@pytest.fixture
def where(world_model: LoadedWorldModel, reward: LoadedReward, demonstrations_path: Path) -> dict[str, Any]:
    folders = {"world_model": world_model.folder, "reward": reward.folder, "demonstrations": demonstrations_path}
    return {**folders, "preset": "tiny", "settings": ["fine_tuning.decisions=3", "fine_tuning.reward=probability"]}


def make(where: dict[str, Any], **how: Any) -> Any:
    return gymnasium.make_vec("diwa_policy.dream_env:diwa_policy/Dream-v0", num_envs=4, **where, **how)


def rolled(envs: Any, seed: int, steps: int = 8) -> list[Any]:
    rng, results = np.random.default_rng(0), [envs.reset(seed=seed)]
    for _ in range(steps):
        results.append(envs.step(rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)))
    return results


def test_dreams_are_made_by_gymnasium(where: dict[str, Any]) -> None:
    envs = make(where)
    assert envs.observation_space.shape == (4, LATENT)
    assert envs.action_space.shape == (4, 28)
    steps = rolled(envs, 0)
    assert all(step[0] in envs.observation_space for step in steps)
    assert [bool(step[3].all()) for step in steps[1:]] == [False, False, True, False, False, False, True, False]


def test_single_actions_dream_as_long_as_chunks_of_them(where: dict[str, Any]) -> None:
    envs = make(where, chunked=False)
    assert envs.action_space.shape == (4, 7)
    steps = rolled(envs, 0, 12)
    assert [bool(step[3].any()) for step in steps[1:]] == [False] * 11 + [True]


def test_the_same_seed_dreams_the_same_and_another_seed_something_else(where: dict[str, Any]) -> None:
    one, same, other = (rolled(make(where), seed) for seed in (0, 0, 1))
    assert data_equivalence(one, same)
    assert not data_equivalence(one, other)


def test_a_reset_without_a_seed_goes_on_with_other_dreams(where: dict[str, Any]) -> None:
    envs = make(where)
    first = rolled(envs, 0)
    assert data_equivalence(rolled(envs, 0), first)
    assert not data_equivalence(rolled(envs, None), first)


def test_dreams_begin_at_recorded_latents(where: dict[str, Any], world_model: LoadedWorldModel) -> None:
    from diwa_policy.demonstrations import load_demonstrations

    recorded = torch.cat(
        [one.latents for one in load_demonstrations(world_model, where["demonstrations"], SKILL).attempts]
    )
    observations, _ = make(where).reset(seed=0)
    assert all((recorded == torch.tensor(one)).all(dim=1).any() for one in observations)


def test_an_uncertainty_penalty_is_refused(where: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="fine_tuning.uncertainty_penalty is 0.5; expected 0: .* diwa finetune alone"):
        make({**where, "settings": ["fine_tuning.uncertainty_penalty=0.5"]})


def test_a_classifier_of_another_world_model_is_refused(where: dict[str, Any], tmp_path: Path) -> None:
    other = saved_reward(tmp_path / "other", "ef" * 32)
    with pytest.raises(UserError, match="efefef"):
        make({**where, "reward": other.folder})
