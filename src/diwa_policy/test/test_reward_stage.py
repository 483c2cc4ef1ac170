"""``diwa reward`` from options to artefact and report."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_samples import SKILL, small_demonstrations, small_world_model, small_yaml

from diwa_conventions.errors import UserError
from diwa_policy import reward_run
from diwa_policy.artefacts import check_lineage, load_reward
from diwa_policy.demonstrations import Attempt, load_demonstrations, split_attempts
from diwa_policy.reward import RewardClassifier
from diwa_policy.reward_measures import frames_to_measure, measure
from diwa_policy.reward_stage import Reward
from diwa_policy.reward_training import fit_probabilities, together, train_classifier
from diwa_worldmodel.artefact import LoadedWorldModel


def options(world_model: LoadedWorldModel, data: Path, folder: Path, **over: object) -> Reward:
    words = {"task": SKILL, "out": folder / "reward", "preset": "tiny", "config": small_yaml(folder), **over}
    return Reward(world_model.folder, data, **words)


@pytest.fixture(scope="module")
def made(world_model: LoadedWorldModel, demonstrations_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Reward:
    stage = options(world_model, demonstrations_path, tmp_path_factory.mktemp("reward"))
    assert stage.run() == 0
    return stage


def test_the_classifier_says_what_it_was_made_from(
    made: Reward, world_model: LoadedWorldModel, demonstrations_path: Path
) -> None:
    loaded = load_reward(made.out)
    check_lineage(world_model, loaded)
    demonstrations = load_demonstrations(world_model, demonstrations_path, SKILL)
    assert loaded.metadata.skill == SKILL
    assert loaded.metadata.data_set_hash == demonstrations.data_set_hash
    assert sum(loaded.metadata.attempts) == len(demonstrations.attempts)
    assert loaded.config["reward"]["dreamed_steps"] == 2


def test_its_threshold_and_measures_are_those_of_the_report(made: Reward) -> None:
    loaded, content = load_reward(made.out), json.loads((made.out / "reward.json").read_text())
    assert float(loaded.classifier.threshold) == pytest.approx(content["threshold"])
    assert loaded.metadata.measures["recall"] == content["seen"]["recall"]
    assert loaded.metadata.measures["dreamed_false_positives"] == content["dreamed"]["false_positives"]
    assert (content["learned"], content["held_out"]) == loaded.metadata.attempts
    assert "<svg" in (made.out / "report.html").read_text()


def test_it_learns_from_some_attempts_and_is_fitted_and_measured_on_the_others(
    world_model: LoadedWorldModel, demonstrations_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, given = options(world_model, demonstrations_path, tmp_path), {}

    def train(attempts: Sequence[Attempt], *words: Any) -> RewardClassifier:
        given["learned"], given["trained"] = attempts, train_classifier(attempts, *words)
        return copy.deepcopy(given["trained"])

    def judge(trained: RewardClassifier, attempts: Sequence[Attempt], *words: Any) -> Any:
        given["held_out"] = attempts
        return measure(trained, attempts, *words)

    monkeypatch.setattr(reward_run, "train_classifier", train)
    monkeypatch.setattr(reward_run, "measure", judge)
    stage.run()
    config = stage.resolved().reward
    tried = load_demonstrations(world_model, demonstrations_path, SKILL).attempts
    for name, part in zip(("learned", "held_out"), split_attempts(tried, 0.25, config.seed), strict=True):
        assert len(given[name]) == len(part)
        assert all(torch.equal(a.latents, b.latents) for a, b in zip(given[name], part, strict=True))
    expected = given["trained"]
    before = expected.probability(tried[0].latents)
    fit_probabilities(expected, together(frames_to_measure(given["held_out"], config, world_model.model.rssm)))
    found = load_reward(stage.out).classifier.probability(tried[0].latents)
    assert torch.equal(found, expected.probability(tried[0].latents)) and not torch.allclose(found, before)


def test_the_loss_of_every_epoch_is_kept(made: Reward) -> None:
    lines = [json.loads(line) for line in (made.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_the_same_command_makes_the_same_classifier(
    made: Reward, world_model: LoadedWorldModel, demonstrations_path: Path, tmp_path: Path
) -> None:
    again = options(world_model, demonstrations_path, tmp_path)
    again.run()
    one, other = (load_reward(stage.out) for stage in (made, again))
    weights = other.classifier.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.classifier.state_dict().items())
    assert one.hash == other.hash


def test_what_is_printed_ends_with_the_next_command(
    made: Reward, world_model: LoadedWorldModel, demonstrations_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.run()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{SKILL}: learned from 6 attempts")
    assert any(line[:4] in ("BAD ", "WARN", "ok  ") for line in lines)
    assert lines[-2] == f"report: {made.out / 'report.html'}"
    assert lines[-1] == (
        f"next: diwa finetune {world_model.folder} {demonstrations_path} --policy POLICY --reward {made.out} --out RUN "
        "--preset tiny"
    )


def test_strict_ends_with_1_if_a_verdict_is_bad(
    world_model: LoadedWorldModel, demonstrations_path: Path, tmp_path: Path
) -> None:
    # One epoch at a rate of nearly nothing: it cannot tell success from anything.
    untaught = ("reward.epochs=1", "reward.learning_rate=1e-9")
    stage = options(world_model, demonstrations_path, tmp_path, strict=True, set=untaught)
    assert stage.run() == 1
    assert json.loads((stage.out / "reward.json").read_text())["overall"]["level"] == "bad"


def test_the_command_can_be_typed_again(made: Reward) -> None:
    words = made.command().split()
    assert words[:2] == ["diwa", "reward"]
    assert words[words.index("--task") + 1] == SKILL
    assert "--preset tiny" in made.command()


def test_an_unknown_task_is_named(world_model: LoadedWorldModel, demonstrations_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="push-lfet.*did you mean 'push-left'"):
        options(world_model, demonstrations_path, tmp_path, task="push-lfet").run()


def test_a_task_without_a_success_is_refused(world_model: LoadedWorldModel, tmp_path: Path) -> None:
    data = small_demonstrations(tmp_path / "failed", successes=0, failures=3)
    with pytest.raises(UserError, match="none of the 3 attempts at 'push-left' .* succeeded"):
        options(world_model, data.path, tmp_path).run()


def test_a_single_success_is_too_few_to_hold_one_out(world_model: LoadedWorldModel, tmp_path: Path) -> None:
    data = small_demonstrations(tmp_path / "one", successes=1, failures=3)
    with pytest.raises(UserError, match="only 1 attempt .* succeeded, of which reward.held_out_share 0.25 leaves none"):
        options(world_model, data.path, tmp_path).run()


def test_successes_that_are_all_success_are_refused(world_model: LoadedWorldModel, tmp_path: Path) -> None:
    data = small_demonstrations(tmp_path / "successes", successes=6, failures=0)
    with pytest.raises(UserError, match="no negatives: all attempts at 'push-left' .* that are learned from"):
        options(world_model, data.path, tmp_path, set=("reward.margin_frames=100",)).run()


def test_demonstrations_of_other_images_are_refused(demonstrations_path: Path, tmp_path: Path) -> None:
    other = small_world_model(tmp_path / "other", image_size_px=32)
    with pytest.raises(UserError, match="16 px"):
        options(other, demonstrations_path, tmp_path).run()


def test_nothing_is_written_where_something_else_stands(
    world_model: LoadedWorldModel, demonstrations_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="no reward classifier"):
        options(world_model, demonstrations_path, tmp_path).run()
    assert [path.name for path in (tmp_path / "reward").iterdir()] == ["thesis.txt"]
