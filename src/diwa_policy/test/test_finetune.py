"""``diwa finetune``: what a run leaves, how it goes on, what it refuses, and how it ends badly."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from policy_samples import (
    OTHER_SKILL,
    SKILL,
    saved_policy,
    saved_reward,
    small_demonstrations,
    small_policy,
    small_world_model,
    small_yaml,
)

from diwa_conventions.errors import UserError
from diwa_policy.artefacts import load_policy
from diwa_policy.config import FineTuningConfig
from diwa_policy.demonstrations import Attempt
from diwa_policy.finetune import loop
from diwa_policy.finetune import run as finetune_run
from diwa_policy.finetune.loop import iterations
from diwa_policy.finetune.run import Outcome, fine_tune
from diwa_policy.finetune.signals import read_trust
from diwa_policy.finetune.stage import FineTune, summary
from diwa_policy.finetune.starts import find_starts
from diwa_worldmodel.training.checkpoint import NotWrittenError, load_newest
from diwa_worldmodel.training.loop import Report
from diwa_worldmodel.training.metrics import read_metrics
from diwa_worldmodel.training.terminal import Terminal

ITERATIONS = 4
"""Of 8 dreams x 2 decisions x 4 actions."""
SMALL = {
    "fine_tuning": {"imagined_steps": 64 * ITERATIONS - 5, "trust_every": 2, "trust_dreams": 4, "replay_draws": 2}
}  # fmt: skip


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def report(self, report: Report) -> None:
        self.reports.append(report)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)


@dataclass(frozen=True)
class Made:
    """What runs are made from."""

    folder: Path
    world_model: Path
    demonstrations: Path
    hash: str


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    world_model = small_world_model(folder / "world_model")
    saved_policy(folder / "pretrained", world_model.hash)
    saved_reward(folder / "reward", world_model.hash)
    data_set = small_demonstrations(folder / "demonstrations", skills=(SKILL,))
    small_yaml(folder, SMALL)
    return Made(folder, world_model.folder, data_set.path, world_model.hash)


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options_for(made: Made, out: Path) -> FineTune:
    return FineTune(
        made.world_model, made.demonstrations, made.folder / "pretrained", made.folder / "reward", out,
        preset="tiny", config=made.folder / "small.yaml", device="cpu", threads=1,
    )  # fmt: skip


@pytest.fixture
def options(made, tmp_path) -> FineTune:
    return options_for(made, tmp_path / "run")


@pytest.fixture(scope="module")
def uninterrupted(made, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(options_for(made, out))
    return out


def run(options: FineTune, recorder: Recorder | None = None, stop: Callable[[], bool] = lambda: False) -> Outcome:
    return fine_tune(options, recorder or Recorder(), stop)


def stopped_after(options: FineTune, iteration: int, recorder: Recorder | None = None) -> Outcome:
    watching = recorder or Recorder()
    return run(options, watching, lambda: len(watching.reports) >= iteration)


def learned(out: Path) -> list[dict[str, float]]:
    """Its metrics, without what differs from run to run."""
    lines = read_metrics(out / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "ms_per_iteration"} for line in lines]


def assert_same_run(out: Path, other: Path) -> None:
    """Every number, all signals, all policies."""
    assert learned(out) == learned(other)
    assert (out / "trust.json").read_bytes() == (other / "trust.json").read_bytes()
    for name in ("policy", "last", *(f"checkpoints/iteration_{i:04d}" for i in (0, 2, 4))):
        assert load_policy(out / name).hash == load_policy(other / name).hash, name


# What a run leaves


def test_iterations_are_those_it_takes_to_dream_all_steps():
    config = FineTuningConfig(imagined_steps=1001, dreams=5, decisions=10)
    assert iterations(config, executed_actions=2) == 11
    assert iterations(replace(config, imagined_steps=1000), executed_actions=2) == 10


def test_run_leaves_a_policy_for_every_check_the_last_and_the_chosen_one(uninterrupted, made):
    found = sorted(path.name for path in (uninterrupted / "checkpoints").glob("iteration_*"))
    assert found == ["iteration_0000", "iteration_0002", "iteration_0004"]
    base, last = load_policy(made.folder / "pretrained"), load_policy(uninterrupted / "last")
    told = last.metadata
    assert (told.origin, told.iteration, told.imagined_steps, told.environment_steps) == ("dreams", 4, 256, 0)
    assert (told.skill, told.world_model_hash, told.base_hash) == (SKILL, made.hash, base.hash)
    assert told.promoted is None and told.fine_tuned_steps == 2
    assert last.config["fine_tuning"]["trust_every"] == 2
    assert last.config["policy"] == base.config["policy"], "the policy stays as it was pre-trained"


def test_policy_of_iteration_zero_acts_as_the_pretrained_one(uninterrupted, made):
    latents, noise = torch.randn(5, 32), torch.randn(5, 5, 28)
    base, first, last = (
        load_policy(path).policy.act(latents, noise)
        for path in (made.folder / "pretrained", uninterrupted / "checkpoints/iteration_0000", uninterrupted / "last")
    )
    assert torch.equal(base, first) and not torch.equal(base, last)


def test_the_average_of_the_actor_is_what_is_kept(uninterrupted):
    kept = load_newest(uninterrupted / "checkpoints", pytest.fail).tensors
    last = load_policy(uninterrupted / "last").policy.tuned.state_dict()
    assert all(torch.equal(kept[f"ppo/averaged/{name}"], weight) for name, weight in last.items())
    assert not all(torch.equal(kept[f"ppo/actor/weights/{name}"], weight) for name, weight in last.items())


def test_chosen_policy_carries_the_verdict_that_the_file_tells(uninterrupted):
    verdict = json.loads((uninterrupted / "trust.json").read_text())["verdict"]
    chosen = load_policy(uninterrupted / "policy")
    assert chosen.metadata.promoted is verdict["promoted"]
    assert chosen.metadata.iteration == verdict["iteration"] and chosen.metadata.reasons[0] == verdict["choice"]
    of_iteration = load_policy(uninterrupted / "checkpoints" / f"iteration_{verdict['iteration']:04d}")
    state, same = chosen.policy.state_dict(), of_iteration.policy.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)


def test_signals_and_metrics_of_all_iterations_are_kept(uninterrupted):
    trust = read_trust(uninterrupted / "trust.json")
    assert [one.iteration for one in trust.checkpoints] == [0, 2, 4]
    assert [one.imagined_steps for one in trust.checkpoints] == [0, 128, 256]
    assert (trust.skill, trust.dreams, trust.classifier) == (SKILL, 4, {"recall": 0.5})
    lines = learned(uninterrupted)
    assert [line["step"] for line in lines if "reward" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "dreamed_success" in line] == [0, 2, 4]
    assert list((uninterrupted / "tensorboard").iterdir())


def test_the_last_iteration_is_checked_whenever_it_comes(options):
    run(replace(options, set=("fine_tuning.trust_every=3",)))
    assert [one.iteration for one in read_trust(options.out / "trust.json").checkpoints] == [0, 3, 4]


def test_page_shows_the_verdict_and_needs_nothing_else(uninterrupted):
    page = (uninterrupted / "report.html").read_text()
    verdict = json.loads((uninterrupted / "trust.json").read_text())["verdict"]
    faults = [check["check"] for check in verdict["checks"] if check["level"] == "bad"]
    assert f'bad">refused: {", ".join(faults)}<' in page and not verdict["promoted"]
    assert f"Chosen: {verdict['choice']}." in page
    assert page.count("<svg") == 12 and "http-equiv" in page and "src=" not in page
    assert all(check["sentence"].split(" (")[0].replace("'", "&#39;") in page for check in verdict["checks"])


def test_summary_tells_table_verdict_and_next_command(options):
    outcome = run(options)
    lines = summary(options, outcome).splitlines()
    assert sum("<- chosen" in line for line in lines) == 1
    assert lines[-2] == f"next: diwa evaluate policy {options.out / 'policy'} --world-model {options.world_model} " + (
        f"--env playroom --task {SKILL}"
    )
    word = "PROMOTED" if outcome.judgement.promoted else "REFUSED"
    assert lines[-1].startswith(f"{word}: {options.out / 'policy'}")


def test_dreams_that_no_longer_gain_refuse_the_policy_in_its_folder(options):
    """Nothing is learned, so nothing is gained; the run ends well and says so."""
    outcome = run(replace(options, set=("fine_tuning.actor_learning_rate=0.0", "fine_tuning.imagined_steps=128")))
    assert not outcome.judgement.promoted
    metadata = load_policy(options.out / "policy").metadata
    assert metadata.promoted is False
    assert any(reason.startswith("gain: ") for reason in metadata.reasons)
    first, second = (line["reward"] for line in learned(options.out) if "reward" in line)
    assert first != second, "each iteration has its own dreams"


@pytest.mark.parametrize(
    "words",
    [("fine_tuning.reward=threshold",), ("fine_tuning.uncertainty_penalty=0.1",), ("fine_tuning.bc_coefficient=0",)],
    ids=["threshold", "uncertainty", "without imitation"],
)
def test_variants_run_to_the_end(options, words):
    outcome = run(replace(options, set=(*words, "fine_tuning.imagined_steps=128")))
    assert outcome.iteration == 2 and load_policy(options.out / "policy").metadata.iteration in (0, 2)


def test_an_untrained_world_model_without_imitation_is_refused(options):
    """It cannot tell failures from successes, and nothing holds the policy where it was."""
    outcome = run(replace(options, set=("fine_tuning.bc_coefficient=0",)))
    assert outcome.judgement is not None and not outcome.judgement.promoted
    assert "imitation" in outcome.judgement.faults
    metadata = load_policy(options.out / "policy").metadata
    assert metadata.promoted is False and any("bc_coefficient is 0" in reason for reason in metadata.reasons)


def test_gaussian_policy_is_fine_tuned(options, made, tmp_path):
    saved_policy(tmp_path / "gaussian", made.hash, small_policy("gaussian"))
    assert run(replace(options, policy=tmp_path / "gaussian")).iteration == ITERATIONS
    assert load_policy(options.out / "last").metadata.fine_tuned_steps == 1


def test_same_seed_same_run_and_another_seed_another(options, uninterrupted):
    run(options)
    assert_same_run(options.out, uninterrupted)
    other = replace(options, out=options.out.with_name("other"), set=("fine_tuning.seed=1",))
    run(other)
    assert learned(other.out)[1]["reward"] != learned(uninterrupted)[1]["reward"]


def test_precision_is_that_of_the_dreams_learned_from_and_not_of_the_checks(options, uninterrupted):
    run(replace(options, set=("fine_tuning.precision=bf16",)))
    own, other = (read_trust(out / "trust.json") for out in (options.out, uninterrupted))
    assert own.checkpoints[0] == other.checkpoints[0] and own.replay == other.replay
    assert learned(options.out)[1]["training_entropy"] != learned(uninterrupted)[1]["training_entropy"]


# Stopping and going on


@pytest.mark.parametrize("iteration", [0, 1, 2])
def test_run_that_was_stopped_goes_on_bit_for_bit(options, uninterrupted, iteration):
    first = stopped_after(options, iteration)
    assert (first.iteration, first.judgement) == (iteration, None)
    assert not (options.out / "policy").exists()
    recorder = Recorder()
    run(options, recorder)
    assert recorder.lines == ([f"going on from iteration {iteration} of {ITERATIONS}"] if iteration else [])
    assert_same_run(options.out, uninterrupted)


@pytest.mark.parametrize("minutes", [0.0, 5.0], ids=["from the last checkpoint", "without a checkpoint"])
def test_run_that_was_killed_goes_on_bit_for_bit(options, uninterrupted, minutes, monkeypatch):
    options = replace(options, checkpoint_minutes=minutes)
    monkeypatch.setattr(Recorder, "report", lambda self, report: report.step == 3 and _killed())
    with pytest.raises(KeyboardInterrupt):
        run(options)
    monkeypatch.undo()
    recorder = Recorder()
    run(options, recorder)
    assert bool(recorder.lines) == (minutes == 0.0)
    assert_same_run(options.out, uninterrupted)


def _killed() -> None:
    raise KeyboardInterrupt


def test_run_that_is_done_says_the_same_again(options, uninterrupted):
    first = run(options)
    assert run(options).judgement == first.judgement
    assert_same_run(options.out, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_at_a_checkpoint_and_say_how_to_go_on(options, uninterrupted, number, monkeypatch, capsys):
    monkeypatch.setattr(Terminal, "report", lambda self, report: report.step == 3 and signal.raise_signal(number))
    assert options.run() == 128 + number
    said = capsys.readouterr().out
    assert said == f"{options.out}: stopped at iteration 3 of {ITERATIONS}, which is saved; the same command goes on\n"
    assert options.run() == 0
    assert_same_run(options.out, uninterrupted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"set": ("fine_tuning.bc_coefficient=0.5",)}, r"was begun with fine_tuning.bc_coefficient 0.05, not 0.5"),
        ({"policy": "other"}, r"was begun with made_from.policy \w{12}, not \w{12}"),
        ({"demonstrations": "others"}, r"was begun with the data set \w{12}, not \w{12}"),
    ],
    ids=["config", "policy", "demonstrations"],
)
def test_run_is_not_continued_with_something_else(options, made, tmp_path, change, words):
    saved_policy(tmp_path / "other", made.hash, small_policy(seed=1))
    small_demonstrations(tmp_path / "others", skills=(SKILL,), seed=1)
    stopped_after(options, 1)
    paths = {name: tmp_path / value if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(UserError, match=words):
        run(replace(options, **paths))


def test_folder_of_something_else_is_refused(options):
    options.out.mkdir()
    (options.out / "photo.png").touch()
    with pytest.raises(UserError, match="is not a fine-tuning run .found: photo.png.; choose a new folder with --out"):
        run(options)


# What does not belong together


def test_policy_of_another_world_model_is_refused(options, tmp_path):
    saved_policy(tmp_path / "other", "ee" * 32)
    with pytest.raises(UserError, match="is a policy on the latents of world model eeeeeeeeeeee, but"):
        run(replace(options, policy=tmp_path / "other"))


def test_classifier_of_another_skill_is_refused(options, made, tmp_path):
    saved_reward(tmp_path / "other", made.hash, skill=OTHER_SKILL)
    with pytest.raises(UserError, match=f"is a policy for '{SKILL}', .* a reward classifier for '{OTHER_SKILL}'"):
        run(replace(options, reward=tmp_path / "other"))


def test_demonstrations_without_the_policys_task_are_refused(options, made, tmp_path):
    saved_policy(tmp_path / "other", made.hash, skill=OTHER_SKILL)
    saved_reward(tmp_path / "reward", made.hash, skill=OTHER_SKILL)
    with pytest.raises(UserError, match=OTHER_SKILL):
        run(replace(options, policy=tmp_path / "other", reward=tmp_path / "reward"))


def test_policy_with_another_chunk_than_asked_for_is_refused_naming_the_key(options):
    with pytest.raises(UserError, match="policy.planned_actions is 8, but .* was made with 4: leave it out, or make"):
        run(replace(options, set=("policy.planned_actions=8",)))
    assert not options.out.exists()


def test_fine_tuned_policy_is_not_fine_tuned_again(options, uninterrupted):
    with pytest.raises(UserError, match="is fine-tuned already .iteration .*; name the pre-trained policy"):
        run(replace(options, policy=uninterrupted / "last"))


@pytest.mark.parametrize("change", [{"checkpoint_minutes": -1.0}, {"threads": -1}])
def test_numbers_out_of_range_are_refused(options, change):
    with pytest.raises(UserError, match="expected a number"):
        replace(options, **change).run()


# Ending badly


def poisoned(iteration: int, poison: Callable[[object], object]) -> Callable[..., object]:
    """roll_out whose result is poisoned in this iteration."""
    count = 0

    def roll_out(*arguments: object) -> object:
        nonlocal count
        count += 1
        found = whole(*arguments)
        return poison(found) if count == iteration else found

    whole = loop.roll_out
    return roll_out


def test_a_loss_that_is_no_number_ends_the_run_and_the_checkpoint_before_is_kept(options, uninterrupted, monkeypatch):
    nan = poisoned(3, lambda rollout: rollout._replace(reward=rollout.reward * torch.nan))
    monkeypatch.setattr(loop, "roll_out", nan)
    options = replace(options, checkpoint_minutes=0.0)
    words = "^iteration 3: reward, .*critic_loss.* not finite; the checkpoint of iteration 2 is kept; fine-tune into"
    with pytest.raises(UserError, match=words):
        run(options)
    kept = load_newest(options.out / "checkpoints", pytest.fail)
    assert kept.step == 2
    assert all(tensor.isfinite().all() for name, tensor in kept.tensors.items() if name.startswith("ppo/"))
    monkeypatch.undo()
    run(options)
    assert_same_run(options.out, uninterrupted)


def test_a_reward_that_is_no_number_is_told_with_its_iteration(options, monkeypatch):
    def refuse(rollout: object) -> object:
        raise UserError("the reward of dream 0 is nan")

    monkeypatch.setattr(loop, "roll_out", poisoned(2, refuse))
    with pytest.raises(UserError, match="^iteration 2: the reward of dream 0 is nan; there is no checkpoint"):
        run(options)


def test_full_disk_costs_a_warning_and_at_the_end_an_error_that_says_what_to_do(options, monkeypatch):
    def full(*arguments: object) -> None:
        raise NotWrittenError("No space left on device")

    monkeypatch.setattr(loop, "save_state", full)
    recorder = Recorder()
    with pytest.raises(
        UserError, match="iteration 4 could not be written .*No space left.*give the same command again"
    ):
        run(replace(options, checkpoint_minutes=0.0), recorder)
    assert len(recorder.warnings) == ITERATIONS and "tries again" in recorder.warnings[0]


def test_checks_begin_at_attempts_that_training_does_not_begin_at(options, monkeypatch):
    begun = list[list[Attempt]]()

    def noted(attempts, warmup_steps):
        begun.append(attempts)
        return find_starts(attempts, warmup_steps)

    monkeypatch.setattr(finetune_run, "find_starts", noted)
    run(options)
    checked, learned = ({id(one) for one in attempts} for attempts in begun)
    assert checked and learned and not checked & learned
    assert read_trust(options.out / "trust.json").starts == len(checked)


def test_another_preset_than_the_policys_is_told(options):
    recorder = Recorder()
    run(replace(options, preset="paper", set=("fine_tuning.dreams=8", "fine_tuning.decisions=2")), recorder)
    assert any("was pre-trained with --preset tiny, and is fine-tuned with paper" in line for line in recorder.warnings)
