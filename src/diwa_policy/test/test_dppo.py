from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_samples import LATENT, SKILL, saved_policy, small_policy, small_world_model
from room_samples import SQUARE_ROOM, pusher

from diwa_conventions.errors import UserError
from diwa_policy.artefacts import load_policy
from diwa_policy.config import FineTuningConfig
from diwa_policy.evaluation.environments import ENVIRONMENTS, EnvironmentOptions
from diwa_policy.evaluation.trial_pool import Job, TrialPool
from diwa_policy.evaluation.trials import Decisions, Episode, Trial, episode_seed
from diwa_policy.online.collector import to_rollout, training_seeds
from diwa_policy.online.config import load_dppo_config
from diwa_policy.online.dppo import Dppo
from diwa_policy.online.run import Outcome, dppo
from diwa_policy.online.training import HELD_OUT_SET, Evaluation
from diwa_policy.ppo import advantages, chain_log_probs
from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.training.metrics import read_metrics

CONFIG = FineTuningConfig(gamma=0.9, gae_lambda=0.8, fine_tuned_steps=2)
SMALL = (
    "online.environment_steps=100", "online.episodes=3", "online.evaluate_every=25", "online.evaluation_episodes=4",
    "fine_tuning.fine_tuned_steps=2", "fine_tuning.critic_mlp=[8]", "fine_tuning.epochs=1", "fine_tuning.batch=16",
    "fine_tuning.critic_warmup=0", "fine_tuning.actor_learning_rate=1e-3",
)  # fmt: skip


class Watcher:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def report(self, report) -> None:
        assert report.step <= report.total and report.eta_s >= 0.0

    def say(self, line: str) -> None:
        self.lines.append(line)

    warn = say


@pytest.fixture(autouse=True)
def square_room(monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS, "square", SQUARE_ROOM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    world_model = small_world_model(folder / "world_model")
    saved_policy(folder / "base", world_model.hash, pusher(-0.4))
    saved_policy(folder / "good", world_model.hash, pusher(-0.7))
    return folder


@pytest.fixture
def options(folder, tmp_path):
    here = EnvironmentOptions("square", workers=1)
    return Dppo(
        folder / "world_model", folder / "base", tmp_path / "run", preset="tiny", set=SMALL, environment=here
    )  # fmt: skip


def run(options: Dppo, stop=lambda: False):
    return dppo(options, Watcher(), stop)


def episode(decisions: int, terminated: bool, seed: int) -> Episode:
    """Three frames a decision, of which the last pays if it ended in success."""
    draw = np.random.default_rng(seed).standard_normal
    reward = np.zeros((decisions, 3), np.float32)
    reward[-1, 1] = terminated
    parts = [draw((decisions, *shape)).astype(np.float32) for shape in ((LATENT,), (3, 28), (LATENT,))]
    taken = Decisions(parts[0], parts[1], reward, parts[2])
    return Episode(seed, terminated, terminated, 3 * decisions, None, None, taken)


@pytest.fixture
def collected():
    """An episode that was cut off after four decisions, and one that succeeded in the second."""
    policy = small_policy(fine_tuned_steps=2)
    episodes = [episode(4, False, 1), episode(2, True, 2)]
    return policy, episodes, to_rollout(policy, episodes, CONFIG, torch.Generator().manual_seed(0))


def test_a_column_of_the_rollout_is_an_episode(collected):
    _, episodes, rollout = collected
    assert rollout.valid.T.tolist() == [[True] * 4, [True, True, False, False]]
    assert rollout.terminated.T.tolist() == [[False] * 4, [False, True, False, False]]
    assert rollout.ended.T.tolist() == [[False, False, False, True], [False, True, True, True]]
    for name in ("latents", "chains", "last_latents"):
        for column, one in enumerate(episodes):
            own = getattr(one.decisions, name)
            np.testing.assert_array_equal(getattr(rollout, name)[: len(own), column], own)


def test_reward_is_discounted_within_the_chunk(collected):
    """As in dreams: the second of three frames after a third of a decision."""
    rollout = collected[2]
    assert rollout.reward.sum() == rollout.reward[1, 1] == pytest.approx(0.9 ** (1 / 3))


def test_likelihoods_are_those_of_the_policy_that_acted(collected):
    policy, episodes, rollout = collected
    for column, one in enumerate(episodes):
        latents, chains = (torch.from_numpy(part) for part in (one.decisions.latents, one.decisions.chains))
        own = chain_log_probs(policy, latents, chains, CONFIG.log_prob_std)
        torch.testing.assert_close(rollout.log_probs[: len(own), column], own)


def test_imitation_starts_where_the_chain_did(collected):
    rollout = collected[2]
    assert torch.equal(rollout.imitated[:, :, 0], rollout.chains[:, :, 0])
    assert not torch.equal(rollout.imitated[:, :, 1], rollout.chains[:, :, 1])


def test_an_episode_that_was_cut_off_is_worth_what_its_own_last_latent_is(collected):
    """Brute force over each episode, the value of a latent being its first number."""
    _, episodes, rollout = collected
    values, after = rollout.latents[..., 0], rollout.last_latents[..., 0]
    found = advantages(rollout.reward, values, after, rollout.terminated, rollout.ended, 0.9, 0.8)
    for column, one in enumerate(episodes):
        count = len(one.decisions.latents)
        own, behind = values[:count, column], after[:count, column].clone()
        behind[-1] *= not one.terminated
        delta = rollout.reward[:count, column] + 0.9 * behind - own
        for start in range(count):
            brute = sum((0.9 * 0.8) ** n * float(delta[start + n]) for n in range(count - start))
            assert float(found[start, column]) == pytest.approx(brute, abs=1e-5)


def test_training_never_sees_an_evaluations_start():
    seeds = training_seeds(0, 1, 1000)
    assert min(seeds) > episode_seed(HELD_OUT_SET, 999_999)
    assert len(set(seeds)) == 1000
    assert not set(seeds) & set(training_seeds(0, 2, 1000))
    assert seeds == training_seeds(0, 1, 1000)


def test_steps_of_the_environment_are_counted_and_those_of_evaluations_are_not(options, folder):
    outcome = run(options)
    assert outcome.end == "finished"
    assert [one.iteration for one in outcome.evaluations][0] == 0
    assert outcome.evaluations[0].environment_steps == 0
    lines = read_metrics(options.out / "metrics.jsonl")
    trained = [line for line in lines if "training_success" in line]
    assert trained[-1]["environment_steps"] == outcome.environment_steps
    world = options.environment.world(load_world_model(folder / "world_model"), SKILL)
    with TrialPool(world, 1) as pool:
        base = load_policy(options.policy).policy
        jobs = [Job(0, Trial(seed, 0.1)) for seed in training_seeds(0, 1, 3)]
        frames = [one.frames for _, one in pool.run([base], jobs)]
    assert trained[0]["environment_steps"] == sum(frames)


def test_it_is_evaluated_every_so_many_steps_and_at_the_end(options):
    outcome = run(options)
    steps = [one.environment_steps for one in outcome.evaluations]
    assert len(steps) > 2 and steps[-1] == outcome.environment_steps >= 100
    assert all(25 <= later - former for former, later in zip(steps[:-1], steps[1:-1], strict=False))
    assert all(one.episodes == 4 for one in outcome.evaluations)


def test_policies_say_what_they_have_learned_from(options):
    outcome = run(options)
    base = load_policy(options.policy)
    for evaluation in outcome.evaluations:
        loaded = load_policy(options.out / "checkpoints" / f"iteration_{evaluation.iteration:04d}")
        metadata = loaded.metadata
        assert (metadata.origin, metadata.base_hash, metadata.imagined_steps) == ("environment", base.hash, 0)
        assert metadata.environment_steps == evaluation.environment_steps
    last = load_policy(options.out / "policy").policy
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), loaded.policy.parameters(), strict=True))
    frozen = zip(last.pretrained.parameters(), base.policy.pretrained.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in frozen)
    changed = zip(last.tuned.parameters(), base.policy.pretrained.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in changed)


def test_it_stops_as_soon_as_the_success_asked_for_is_reached(options, folder):
    outcome = run(replace(options, policy=folder / "good", until_success=0.9))
    assert (outcome.end, outcome.environment_steps, len(outcome.evaluations)) == ("matched", 0, 1)
    content = json.loads((options.out / "dppo.json").read_text())
    assert (content["steps_to_match"], content["until_success"]) == (0, 0.9)
    assert content["evaluations"][0]["success"]["value"] == 1.0


def test_success_that_is_not_reached_is_not_claimed(options):
    outcome = run(replace(options, until_success=1.0))
    assert outcome.end == "finished" and outcome.matched is None
    assert json.loads((options.out / "dppo.json").read_text())["steps_to_match"] is None
    assert "100% was not reached" in outcome.summary(replace(options, until_success=1.0))


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(options, tmp_path):
    whole, parts = options, replace(options, out=tmp_path / "parts")
    uninterrupted = run(whole)
    looks = iter(range(1000))

    def amid_an_iteration() -> bool:
        return (parts.out / "checkpoints" / "step_000002").exists() and next(looks) > 1

    stopped = run(parts, amid_an_iteration)
    assert stopped.end == "stopped"
    before = json.loads((parts.out / "dppo.json").read_text())["environment_steps"]
    assert f"stopped after {before} environment steps" in stopped.summary(parts)
    assert 0 < before < uninterrupted.environment_steps
    watcher = Watcher()
    resumed = dppo(parts, watcher, lambda: False)
    assert watcher.lines[0] == f"going on behind {before} environment steps"
    assert (resumed.environment_steps, resumed.evaluations) == (
        uninterrupted.environment_steps, uninterrupted.evaluations,
    )  # fmt: skip
    one, other = (load_policy(path / "policy").policy.state_dict() for path in (whole.out, parts.out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [read_metrics(path / "metrics.jsonl") for path in (whole.out, parts.out)]
    told = [[{**line, "ms_per_iteration": 0} for line in part] for part in lines]
    assert told[0] == told[1]


def test_a_run_that_is_done_says_so_again(options):
    outcome = run(options)
    assert run(options) == outcome


def test_a_changed_config_is_refused_and_named(options):
    run(options)
    with pytest.raises(UserError, match=r"online.episodes 3, not 5"):
        run(replace(options, set=(*SMALL, "online.episodes=5")))


def test_summary_says_what_it_took(options, folder, capsys):
    good = replace(options, policy=folder / "good", until_success=0.5)
    assert good.run() == 0
    shown = capsys.readouterr().out
    assert f"{options.out}: 100.0% success (95%: 51.0 to 100.0) after 0 environment steps" in shown
    assert "the evaluation's own are not counted" in shown
    assert "50% took 0 environment steps" in shown
    assert f"next: diwa evaluate policy {folder / 'good'} {options.out / 'policy'} --world-model" in shown


def test_summary_says_after_how_many_steps_the_success_was_measured(options):
    evaluations = (Evaluation(0, 0, 1, 4), Evaluation(2, 60, 3, 4))
    shown = Outcome("stopped", 90, evaluations, None).summary(options)
    assert f"{options.out}: 25.0% -> 75.0% success" in shown
    assert "after 60 environment steps; those of the 2 evaluations are not counted" in shown
    assert "stopped after 90 environment steps" in shown


def test_the_next_command_can_be_typed_as_it_is(options, tmp_path):
    harder = replace(options, out=tmp_path / "my run", environment=EnvironmentOptions(env_set=("look=hard",)))
    shown = Outcome("finished", 90, (), None).summary(harder)
    assert f"{options.policy} '{tmp_path / 'my run' / 'policy'}' --world-model" in shown
    assert shown.endswith("--env-set look=hard")


def test_dppo_has_no_behaviour_cloning_unless_it_is_asked_for():
    assert load_dppo_config("tiny").fine_tuning.bc_coefficient == 0.0
    assert load_dppo_config("tiny").fine_tuning.actor_learning_rate == 5e-4
    asked = load_dppo_config("tiny", {"fine_tuning": {"bc_coefficient": 0.1}})
    assert asked.fine_tuning.bc_coefficient == 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"fine_tuning": {"dreams": 5}}, "fine_tuning.dreams is about dreams"),
        ({"online": {"episods": 5}}, "unknown setting 'online.episods'; did you mean 'online.episodes'"),
        ({"online": {"episodes": 0}}, "online.episodes is 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        load_dppo_config("tiny", words)


def test_an_environment_that_cannot_be_made_is_refused_before_anything_is_written(options):
    with pytest.raises(UserError, match="refuses its settings"):
        run(replace(options, environment=replace(options.environment, env_set=("gravity=2",))))
    assert not options.out.exists()


def test_policies_that_do_not_belong_are_refused(options, folder, tmp_path):
    with pytest.raises(UserError, match="on the latents of world model"):
        run(replace(options, world_model=small_world_model(tmp_path / "other", seed=1).folder))
    hash_of_model = load_policy(options.policy).metadata.world_model_hash
    saved_policy(tmp_path / "tuned", hash_of_model, small_policy(fine_tuned_steps=2), base_hash="ab" * 32)
    with pytest.raises(UserError, match="is fine-tuned already"):
        run(replace(options, policy=tmp_path / "tuned"))
    assert not options.out.exists()
