from __future__ import annotations

import csv
import json
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from policy_samples import OTHER_SKILL, SKILL, saved_policy, saved_reward, small_world_model
from rich.console import Console
from room_samples import SQUARE_ROOM, pusher

from diwa_conventions.errors import UserError
from diwa_policy.artefacts import PolicyMetadata, load_policy
from diwa_policy.evaluation.comparison import warning
from diwa_policy.evaluation.environments import ENVIRONMENTS, Environment, EnvironmentOptions
from diwa_policy.evaluation.evaluate_policy import EvaluatePolicy, command
from diwa_policy.evaluation.shared_starts import Starts
from diwa_policy.evaluation.trial_films import Film, contact_sheet
from diwa_policy.evaluation.wilson import paired_difference, wilson

HERE = EnvironmentOptions("square", workers=1)


@pytest.fixture(autouse=True)
def square_room(monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS, "square", SQUARE_ROOM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A world model; slow and fast pushers, of which the slow one comes too late from distant starts."""
    folder = tmp_path_factory.mktemp("made")
    world_model = small_world_model(folder / "world_model")
    saved_policy(folder / "slow", world_model.hash, pusher(-0.4))
    saved_policy(
        folder / "fast", world_model.hash, pusher(-0.7), origin="dreams", promoted=False, reasons=("it dreams",)
    )
    saved_reward(folder / "reward", world_model.hash)
    return folder


@pytest.fixture
def options(folder, tmp_path):
    policies = (folder / "slow", folder / "fast")
    return EvaluatePolicy(
        policies, folder / "world_model", episodes=6, seeds=2, films=1, out=tmp_path / "out", environment=HERE
    )


def rows(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_policy_is_tried_from_the_same_starts(options):
    options.compare()
    lines = rows(options.out / "episodes.csv")
    seeds = [[line["seed"] for line in lines if line["policy"] == str(policy)] for policy in options.policies]
    assert seeds[0] == seeds[1]
    assert sorted(map(int, seeds[0])) == [*range(6), *range(1_000_000, 1_000_006)]
    assert {line["set"] for line in lines} == {"0", "1"}


def test_numbers_are_those_of_the_episodes(options):
    options.compare()
    content = json.loads((options.out / "evaluation.json").read_text())
    lines = rows(options.out / "episodes.csv")
    success = [
        [bool(int(line["success"])) for line in lines if line["policy"] == str(path)] for path in options.policies
    ]
    assert 0 < sum(success[0]) < 12 and all(success[1]), "else there is nothing to compare"
    for policy, own in zip(content["policies"], success, strict=True):
        assert list(policy["success"].values()) == pytest.approx(wilson(sum(own), 12))
        assert (policy["episodes"], policy["successes"]) == (12, sum(own))
    assert content["policies"][0]["against_first"] is None
    assert list(content["policies"][1]["against_first"].values()) == pytest.approx(paired_difference(*success))
    assert content["policies"][1]["by_set"] == {"success": [1.0, 1.0], "mean": 1.0, "std": 0.0}
    frames = [int(line["frames"]) for line in lines if line["policy"] == str(options.policies[1])]
    assert content["policies"][1]["frames_to_success"] == np.median(frames)
    assert not content["interrupted"]


def test_the_same_command_gives_the_same_episodes_and_says_itself(options, tmp_path):
    options.compare()
    replace(options, out=tmp_path / "again").compare()
    one, other = (path / "episodes.csv" for path in (options.out, tmp_path / "again"))
    assert one.read_text() == other.read_text()
    command = json.loads((options.out / "evaluation.json").read_text())["command"]
    assert command.startswith(f"diwa evaluate policy {options.policies[0]} {options.policies[1]} --world-model ")
    assert "--episodes 6 --seeds 2 --films 1" in command and "--env square --workers 1" in command


def test_command_can_be_typed_again_as_it_is(options, tmp_path):
    spaced = replace(options, out=tmp_path / "my results", environment=replace(HERE, env_set=("look=hard", "note=a b")))
    words = shlex.split(command("diwa evaluate policy", spaced, spaced.environment))
    assert words[3:5] == [str(path) for path in options.policies]
    assert words[words.index("--out") + 1] == str(tmp_path / "my results")
    place = words.index("--env-set")
    assert words[place + 1 : place + 3] == ["look=hard", "note=a b"]


def test_numbers_and_films_lie_beside_the_policy_and_not_in_it(options, folder, monkeypatch):
    """Its folder is replaced as a whole when the policy is made again."""
    assert replace(options, out=None).folder == folder / "slow_evaluation"
    monkeypatch.chdir(folder / "slow")
    assert replace(options, out=None, policies=(Path("."),)).folder == folder / "slow_evaluation"


def test_table_and_notes_are_printed(options, capsys):
    assert options.run() == 0
    shown = capsys.readouterr().out
    assert "push-left in the square: 2 x 6 episodes" in shown
    assert "100.0" in shown
    assert f"{options.policies[1]}: not promoted by fine-tuning's own signals: it dreams" in shown
    assert f"{options.policies[0]}:" not in shown
    assert f"numbers and films: {options.out}" in shown


def test_classifier_is_compared_with_the_truth(options, folder, capsys):
    replace(options, reward=folder / "reward", films=0).run()
    assert "true, false alarms" in capsys.readouterr().out
    content = json.loads((options.out / "evaluation.json").read_text())
    lines = [line for line in rows(options.out / "episodes.csv") if line["policy"] == str(options.policies[0])]
    for kind, success in (("true_alarms", "1"), ("false_alarms", "0")):
        alarms = [float(line["probability"]) > 0.5 for line in lines if line["success"] == success]
        assert content["policies"][0]["classifier"][kind] == pytest.approx(np.mean(alarms))


def test_a_success_and_a_failure_are_filmed(options):
    options.compare()
    films = sorted(path.name.rsplit("_", 1)[0] for path in options.out.glob("film_*.mp4"))
    assert films == ["film_1_failure", "film_1_success", "film_2_success"]
    lines = {(line["policy"], line["seed"]): line for line in rows(options.out / "episodes.csv")}
    for path in options.out.glob("film_*.mp4"):
        _, policy, outcome, seed = path.stem.split("_")
        line = lines[str(options.policies[int(policy) - 1]), seed]
        assert (outcome == "success") == bool(int(line["success"]))
        with av.open(str(path)) as film:
            assert sum(1 for _ in film.decode(video=0)) == int(line["frames"]) + 1 + 4
    sheet = cv2.imread(str(options.out / "contact_sheet.png"))
    assert sheet.shape == (3 * (160 + 26), 6 * 320, 3)


def test_films_of_before_are_removed(options):
    options.compare()
    replace(options, films=0).compare()
    assert {path.name for path in options.out.iterdir()} == {"evaluation.json", "episodes.csv"}


def test_contact_sheet_shows_a_film_from_start_to_end():
    pictures = tuple(np.full((8, 16, 3), 10 * number, np.uint8) for number in range(11))
    shown = contact_sheet([Film("a", "success", pictures)])[-1, 160::320, 0]
    assert shown.tolist() == [0, 20, 40, 60, 80, 100]


def test_ctrl_c_keeps_the_episodes_that_are_done(options, capsys, monkeypatch):
    """It comes while the first policy is at the third start."""
    interrupted = Environment("room_samples:diwa_test/Interrupted-v0", SQUARE_ROOM.tasks)
    monkeypatch.setitem(ENVIRONMENTS, "square", interrupted)
    assert options.run() == 130
    assert "interrupted: the numbers are of 5 of 24 episodes" in capsys.readouterr().out
    content = json.loads((options.out / "evaluation.json").read_text())
    assert content["interrupted"] and [policy["episodes"] for policy in content["policies"]] == [3, 2]
    assert len(rows(options.out / "episodes.csv")) == 5


def test_ctrl_c_while_filming_is_told_by_the_exit_code(options, monkeypatch):
    """By then every number is known."""

    def interrupted(films, folder):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("diwa_policy.evaluation.trial_films.write_films", interrupted)
    assert options.run() == 130
    assert not json.loads((options.out / "evaluation.json").read_text())["interrupted"]


def test_nothing_is_written_before_the_first_episode_is_done(options):
    assert options.compare([signal.SIGINT]).done == 0
    assert not options.out.exists()


def test_a_table_of_half_an_evaluation_can_be_shown(options, capsys):
    """Of the second policy nothing is known."""
    comparison = replace(options, films=0).compare()
    comparison.tried[1].episodes.clear()
    Console(width=200).print(comparison.table())
    assert "nan" not in capsys.readouterr().out
    json.loads(comparison.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": OTHER_SKILL}, "is a policy for 'push-left'; expected one for --task push-right"),
        ({"task": "push"}, "unknown task 'push'"),
        ({"episodes": 0}, "--episodes is 0; expected 1 to"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"policies": ()}, "no policy is named"),
        ({"environment": EnvironmentOptions("kitchen")}, "unknown environment 'kitchen'"),
        ({"environment": replace(HERE, env_set=("gravity=2",))}, r"refuses its settings .* change those of --env-set"),
        ({"environment": replace(HERE, env_set=("task=push-right",))}, "task=push-right: the policy decides that"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(options, changes, message):
    with pytest.raises(UserError, match=message):
        replace(options, **changes).compare()
    assert not options.out.exists()


def test_a_policy_named_twice_is_refused(options):
    slow = options.policies[0]
    for again in (slow, slow.parent / "fast" / ".." / "slow"):
        with pytest.raises(UserError, match="is named twice"):
            replace(options, policies=(slow, again)).compare()


def test_policies_of_another_world_model_are_refused(options, folder, tmp_path):
    other = small_world_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="on the latents of world model"):
        replace(options, world_model=other.folder).compare()


def test_policies_of_different_skills_are_not_compared(options, folder, tmp_path):
    hash_of_model = load_policy(folder / "slow").metadata.world_model_hash
    saved_policy(tmp_path / "right", hash_of_model, pusher(0.7), skill=OTHER_SKILL)
    with pytest.raises(UserError, match="expected the same task"):
        replace(options, policies=(folder / "slow", tmp_path / "right")).compare()


@pytest.mark.parametrize(
    ("origin", "promoted", "words"),
    [
        ("dreams", False, "not promoted"),
        ("dreams", None, "never judged"),
        ("dreams", True, ""),
        ("pretrained", None, ""),
        ("environment", None, ""),
    ],
)
def test_only_dreamers_must_be_promoted(origin, promoted, words):
    said = warning(PolicyMetadata(SKILL, "", "", "tiny", 5, origin=origin, promoted=promoted))
    assert words in said and bool(words) == bool(said)


def test_sets_take_turns():
    starts = Starts(sets=2, episodes=3)
    assert starts.seeds() == [0, 1_000_000, 1, 1_000_001, 2, 1_000_002]
    assert [starts.set_of(number) for number in range(6)] == [0, 1] * 3
