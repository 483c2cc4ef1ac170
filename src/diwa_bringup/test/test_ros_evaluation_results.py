"""Plans and outcomes in their files, the comparison made of them, and the words of the command."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ros_evaluation_samples import TASK, outcome, plan

from diwa_bringup.ros_evaluation import evaluate
from diwa_bringup.ros_evaluation.bounds import READY_STEPS
from diwa_bringup.ros_evaluation.comparison import RosComparison, episode
from diwa_bringup.ros_evaluation.evaluate import OFFLINE, ROS, EvaluateRos, playroom_specs, stage_for
from diwa_bringup.ros_evaluation.plan import Outcome, OutcomeFile, Outcomes, Plan, Scene, read_outcomes
from diwa_conventions.errors import UserError
from diwa_policy.artefacts import LoadedPolicy, PolicyMetadata
from diwa_policy.evaluation.comparison import Comparison
from diwa_policy.evaluation.shared_starts import Starts, Tried
from diwa_worldmodel.latent_filter import FilterLimits


def test_a_plan_survives_its_file():
    assert Plan.from_json(plan().to_json()) == plan()


@pytest.mark.parametrize("text", ["{", "[]", '{"task": "x"}', plan().to_json().replace('"playroom"', '"moon"')])
def test_a_plan_that_is_none_is_a_line_for_the_user(text: str):
    with pytest.raises(UserError, match="the plan of trials cannot be read"):
        Plan.from_json(text)


def test_outcomes_survive_their_file_with_the_reason_of_the_end(tmp_path: Path):
    file = OutcomeFile(tmp_path / "o.jsonl")
    had = (outcome(0), outcome(1, success=False, claimed=None, probability=None, surprise=None))
    for one in had:
        file.write(one)
    assert read_outcomes(tmp_path / "o.jsonl") == Outcomes(had, None)  # though nobody has closed it
    file.end("the power failed")
    file.close()
    assert read_outcomes(tmp_path / "o.jsonl") == Outcomes(had, "the power failed")


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path):
    path = tmp_path / "o.jsonl"
    line = json.dumps(outcome().to_json())
    path.write_text(f"{line}\n{line[:50]}")
    assert read_outcomes(path) == Outcomes((outcome(),), None)
    assert read_outcomes(tmp_path / "none.jsonl") == Outcomes((), None)


def compared(had: Sequence[Outcome], scene: Scene = "playroom") -> RosComparison:
    """As EvaluateRos makes it of two policies' attempts."""
    return RosComparison(**head(had), scene=scene, attempts=tuple(had))


def head(had: Sequence[Outcome]) -> dict[str, Any]:
    """What an offline comparison knows too."""
    tried = []
    for number in (0, 1):
        metadata = PolicyMetadata(TASK, "ab" * 32, "cd" * 32, "tiny", 6)
        loaded = LoadedPolicy(None, metadata, f"{number}" * 64, Path(), {})  # type: ignore[arg-type]
        mine = {one.number: episode(one) for one in had if one.policy == number and one.counted}
        tried.append(Tried(f"policy{number}", loaded, 0.5, mine))
    about = {"task": TASK, "environment": "ros", "world_model": "ab" * 32, "starts": Starts(1, 2)}
    return {**about, "tried": tuple(tried), "command": "diwa", "seconds": 60.0, "interrupted": False}


HAD = [outcome(0, 0, False), outcome(1, 0), outcome(0, 1, False, claimed=True), outcome(1, 1, claimed=False)]
BROKEN = outcome(0, 1, False, counted=False, reason="frames were lost", interval_ms=(999.0,))


def test_numbers_are_those_of_an_offline_evaluation_and_more():
    ros = compared([*HAD, BROKEN])
    mine, offline = json.loads(ros.to_json()), json.loads(Comparison(**head(HAD)).to_json())
    assert {name: mine[name] for name in offline} == offline
    assert mine["environment"] == "ros"
    assert [policy["successes"] for policy in mine["policies"]] == [0, 2]
    assert mine["policies"][1]["against_first"]["value"] == 1.0


def test_latencies_are_of_the_trials_that_count():
    latency = json.loads(compared([*HAD, BROKEN]).to_json())["latency"]
    assert latency == {
        "stamp_to_action_ms": [10.0, 12.0] * 4,
        "decision_ms": [4.0] * 4,
        "interval_ms": [133.0] * 4,
    }


def test_the_classifiers_claims_are_compared_with_the_oracles_word():
    claims = json.loads(compared(HAD).to_json())["classifier"]
    assert claims == {"threshold": 0.5, "judge": "oracle", "trials": 4, "agree": 2, "missed": 1, "imagined": 1}


def test_attempts_that_do_not_count_are_told():
    ros = compared([*HAD, BROKEN])
    told = json.loads(ros.to_json())
    assert told["not_counted"] == [{"policy": "policy0", "seed": 1, "attempt": 1, "reason": "frames were lost"}]
    assert told["reasons"] == {"policy0": {"time limit": 2}, "policy1": {"success": 2}}
    assert "attempts that were broken off: 1; the last one: frames were lost" in ros.notes()


def test_without_a_classifier_its_agreement_is_of_no_trial():
    had = [replace(one, claimed=None, threshold=None, probability=None) for one in HAD]
    ros = compared(had, "real")
    assert json.loads(ros.to_json())["classifier"]["trials"] == 0
    assert not any("classifier" in note for note in ros.notes())


def test_the_table_says_where_the_trials_were():
    title = compared(HAD, "real").table().title
    assert title == f"{TASK} over ROS in the real scene: 2 trials"


def test_surprise_counts_from_the_step_at_which_the_filter_is_ready():
    assert READY_STEPS == FilterLimits().warmup_steps


# The command


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (["base", "--world-model", "w"], OFFLINE),
        (["base", "--env", "playroom"], OFFLINE),
        (["base", "--env", "ros", "--world-model", "w"], ROS),
        (["--env=ros", "base"], ROS),
        (["--env", "ros", "base", "--env", "playroom"], OFFLINE),
        (["base", "--out", "ros"], OFFLINE),
        (["--help"], OFFLINE),
    ],
)
def test_the_word_for_env_chooses_the_stage(words: list[str], stage: str):
    assert stage_for(words) == stage


def test_the_playrooms_graph_ends_with_the_runner_and_the_oracle_alone_stops_a_run(tmp_path: Path):
    specs = playroom_specs(plan(reward="/reward"), tmp_path / "plan.json", "hard", "lab", "", tmp_path / "bag")
    nodes = {spec.name: spec for spec in specs}
    assert set(nodes) == {"playroom", "command_guard", "policy", "recorder", "trial_runner"}
    assert nodes["policy"].parameters["stop_on_success"] is False
    assert nodes["policy"].parameters["reward"] == "/reward"
    assert nodes["playroom"].parameters["look"] == "hard"
    assert nodes["recorder"].parameters["bag"] == str(tmp_path / "bag")
    assert nodes["trial_runner"].full_name == "/lab/trial_runner"
    assert nodes["trial_runner"].on_exit == "shutdown"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"policies": ()}, "no policy is named"),
        ({"policies": (Path("a"), Path("../test/a"))}, "is named twice"),
        ({"trials": 0}, "--trials is 0; expected 1 to"),
        ({"scene": "real", "bag": True}, "--bag is for --scene playroom"),
        ({"scene": "real", "look": "hard"}, "--look is for --scene playroom"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    parts: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "test").mkdir()
    monkeypatch.chdir(tmp_path / "test")
    with pytest.raises(UserError, match=words):
        EvaluateRos(**{"policies": (Path("a"),), "world_model": Path("w"), **parts}).run()  # type: ignore[arg-type]


def test_a_persons_trials_are_not_overwritten(tmp_path: Path):
    file = OutcomeFile(tmp_path / evaluate.OUTCOMES)
    file.write(outcome())
    file.close()
    with pytest.raises(UserError, match="holds trials already"):
        EvaluateRos((tmp_path / "p",), tmp_path / "w", scene="real", out=tmp_path).run()


def test_the_command_can_be_typed_again():
    stage = EvaluateRos((Path("base"), Path("new one")), Path("w"), trials=20, bag=True)
    assert stage.command == ("diwa evaluate policy base 'new one' --env ros --world-model w --trials 20 --bag")


def test_numbers_never_stand_in_a_policys_own_folder(tmp_path: Path):
    stage = EvaluateRos((tmp_path / "run" / "policy",), tmp_path / "w")
    assert stage.folder == tmp_path / "run" / "policy_evaluation_ros"
