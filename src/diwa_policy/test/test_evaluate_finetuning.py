from __future__ import annotations

import json
import math
import signal
from dataclasses import replace

import cv2
import pytest
from policy_samples import SKILL, saved_policy, small_world_model
from room_samples import SQUARE_ROOM, pusher

from diwa_conventions.errors import UserError
from diwa_policy.evaluation.environments import ENVIRONMENTS, Environment, EnvironmentOptions
from diwa_policy.evaluation.evaluate_finetuning import EvaluateFineTuning
from diwa_policy.finetune.loop import checkpoint_folder
from diwa_policy.finetune.signals import CheckpointSignals, ReplaySignals, Trust, write_trust

SPEEDS = {0: -0.4, 10: -0.7, 20: 0.5}
"""Of each iteration's pusher: too slow, fast, and the wrong way."""
DREAMED = {0: 0.4, 10: 0.7, 20: 0.9}


def signals(iteration: int, dreamed: float) -> CheckpointSignals:
    return CheckpointSignals(
        iteration, 100 * iteration, dreamed, dreamed, dreamed, dreamed, 0.02, 0.02, dreamed, 1.0, 0.1, 0.05, 0.1, 0.0
    )


@pytest.fixture(autouse=True)
def square_room(monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS, "square", SQUARE_ROOM)


@pytest.fixture(scope="module")
def world_model(tmp_path_factory):
    return small_world_model(tmp_path_factory.mktemp("made") / "world_model")


@pytest.fixture
def run_folder(world_model, tmp_path):
    """A run that dreams ever higher success, and at last pushes the wrong way."""
    run = tmp_path / "run"
    for iteration, speed in SPEEDS.items():
        policy = pusher(speed, fine_tuned_steps=1)
        saved_policy(checkpoint_folder(run, iteration), world_model.hash, policy, origin="dreams", iteration=iteration)
    replay = ReplaySignals(20, 10, 0.9, 0.05, 0.3, 0.05, 1.0, 0.2, False, False)
    checkpoints = tuple(signals(iteration, dreamed) for iteration, dreamed in DREAMED.items())
    write_trust(run / "trust.json", Trust(SKILL, 0.05, 46, 256, replay, {}, checkpoints))
    return run


@pytest.fixture
def options(run_folder, world_model):
    here = EnvironmentOptions("square", workers=1)
    return EvaluateFineTuning(run_folder, world_model.folder, episodes=12, environment=here)


def test_dream_and_truth_stand_side_by_side(options, run_folder):
    compared = options.compare()
    assert [one.signals.iteration for one in compared.checkpoints] == [0, 10, 20]
    base, good, last = (one.tried.success.value for one in compared.checkpoints)
    assert 0.0 < base < 1.0 and good == 1.0 and last == 0.0
    assert [one.optimism for one in compared.checkpoints] == pytest.approx([0.4 - base, -0.3, 0.9])
    content = json.loads((run_folder / "evaluation" / "dream_vs_truth.json").read_text())
    assert [one["signals"]["dreamed_success"] for one in content["checkpoints"]] == [0.4, 0.7, 0.9]
    assert [one["truth"]["success"]["value"] for one in content["checkpoints"]] == [base, 1.0, 0.0]


def test_regret_is_what_the_choice_has_cost_against_the_best(options, run_folder):
    """Dreams alone chose the last one."""
    options.compare()
    content = json.loads((run_folder / "evaluation" / "dream_vs_truth.json").read_text())
    assert {name: content[name]["iteration"] for name in ("chosen", "last", "best")} == {
        "chosen": 20, "last": 20, "best": 10,
    }  # fmt: skip
    assert content["chosen"]["regret"]["value"] == 1.0
    assert content["chosen"]["regret"]["low"] > 0.5
    assert content["best"]["regret"] is None
    base = content["checkpoints"][0]["truth"]["success"]["value"]
    assert content["best"]["gain"]["value"] == pytest.approx(1.0 - base)


def test_nothing_is_compared_with_itself(options):
    """Dreams chose the one to begin with, which is also the best in truth."""
    compared = options.compare()
    base = compared.checkpoints[0]
    alone = replace(compared, judgement=replace(compared.judgement, iteration=0), checkpoints=(base,))
    chosen = json.loads(alone.to_json())["chosen"]
    assert (chosen["iteration"], chosen["gain"], chosen["regret"]) == (0, None, None)
    assert "in truth, is the pre-trained policy itself; is the best itself\n" in alone.to_text()


def test_of_equally_good_ones_the_earliest_is_the_best(options, run_folder, world_model):
    saved_policy(checkpoint_folder(run_folder, 20), world_model.hash, pusher(-0.75, fine_tuned_steps=1))
    named = options.compare().named()
    assert (named["best"].signals.iteration, named["last"].signals.iteration) == (10, 20)


def test_table_is_printed_and_kept(options, run_folder, capsys):
    assert options.run() == 0
    shown = capsys.readouterr().out
    text = (run_folder / "evaluation" / "dream_vs_truth.txt").read_text()
    assert text in shown
    (row,) = (line for line in text.splitlines() if line.split()[:1] == ["20"])
    assert row.split()[1:3] == ["90.0", "0.0"] and row.endswith("chosen, last")
    assert "chosen (iteration 20, " in text and "0.0% in truth" in text
    assert "the best, iteration 10, is +100.0" in text
    assert "known in hindsight alone" in text


def test_plot_is_a_picture(options, run_folder):
    options.compare()
    assert cv2.imread(str(run_folder / "evaluation" / "dream_vs_truth.png")).shape == (768, 900, 3)


def test_signals_that_nobody_knows_are_left_out_of_json(options, run_folder):
    unknown = replace(signals(0, 0.4), entropy_excess=math.nan)
    compared = options.compare()
    first = compared.checkpoints[0]._replace(signals=unknown)
    content = replace(compared, checkpoints=(first, *compared.checkpoints[1:])).to_json()
    assert json.loads(content)["checkpoints"][0]["signals"]["entropy_excess"] is None


def test_ctrl_c_keeps_what_is_done(options, run_folder, capsys, monkeypatch):
    """It comes at the second start: the first one was tried by all, the second by one."""
    interrupted = Environment("room_samples:diwa_test/Interrupted-v0", SQUARE_ROOM.tasks)
    monkeypatch.setitem(ENVIRONMENTS, "square", interrupted)
    assert options.run() == 130
    assert "interrupted: the numbers are of 4 of 36 episodes" in capsys.readouterr().out
    assert json.loads((run_folder / "evaluation" / "dream_vs_truth.json").read_text())["interrupted"]


def test_nothing_is_written_before_every_checkpoint_was_tried(options, run_folder):
    assert options.compare([signal.SIGINT]) is None
    assert not (run_folder / "evaluation").exists()


def test_a_run_of_another_world_model_is_refused(options, tmp_path):
    other = small_world_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="on the latents of world model"):
        replace(options, world_model=other.folder).compare()


def test_a_folder_that_is_no_run_is_refused(options, tmp_path):
    with pytest.raises(UserError, match=r"trust.json cannot be read .* diwa finetune makes it"):
        replace(options, fine_tuning=tmp_path).compare()


def test_a_run_without_a_checkpoint_is_refused(options, run_folder):
    replay = ReplaySignals(20, 10, 0.9, 0.05, 0.3, 0.05, 1.0, 0.2, False, False)
    write_trust(run_folder / "trust.json", Trust(SKILL, 0.05, 46, 256, replay, {}, ()))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        options.compare()


def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="--episodes is 0"):
        replace(options, episodes=0).compare()
