"""``diwa deploy`` and ``diwa run``: words, refusals, and one line about what came of it."""

import sys
from pathlib import Path

import pytest

from diwa_bringup import deploy
from diwa_bringup.deploy import Deploy, RunSkill, describe
from diwa_bringup.robot_graphs import DEPLOY
from diwa_conventions.errors import UserError


def test_every_word_of_deploy_is_an_argument_of_its_graph():
    specs = DEPLOY.specs(Deploy(Path("p"), world_model=Path("w"), bag=Path("b"), dry_run=True).words())
    by_name = {spec.name: spec for spec in specs}
    assert sorted(by_name) == ["command_guard", "playroom", "policy", "recorder"]
    assert by_name["policy"].parameters["dry_run"] is True
    assert by_name["policy"].parameters["policy"] == str(Path("p").absolute())
    assert by_name["recorder"].parameters["autostart"] is True


def test_no_recorder_without_a_bag_and_no_playroom_beside_a_real_arm():
    specs = DEPLOY.specs(Deploy(Path("p"), world_model=Path("w"), robot="none").words())
    assert [spec.name for spec in specs] == ["command_guard", "policy"]


def test_a_policy_needs_its_world_model():
    with pytest.raises(UserError, match="policy:=FOLDER needs the world model"):
        DEPLOY.specs(["policy:=p"])


def test_a_policy_may_be_loaded_later():
    assert DEPLOY.specs([])[-1].parameters["policy"] == ""


def test_result_is_one_line():
    result = {"success": True, "reason": "success: the classifier gives 0.91", "steps": 24, "seed": 3}
    assert describe("open-drawer", {**result, "success_probability": 0.91}) == (
        "open-drawer: success after 24 steps (success: the classifier gives 0.91); seed 3; classifier at most 0.91"
    )
    assert describe("open-drawer", {**result, "success": False, "success_probability": None}).endswith("; seed 3")


def test_without_a_policy_node_it_says_what_to_start():
    with pytest.raises(
        UserError, match=r"nobody offers /nowhere/run_skill: is the policy node running \(diwa deploy\)"
    ):
        RunSkill("open-drawer", namespace="nowhere").run()


def test_a_caller_that_fails_tells_its_last_line(monkeypatch, tmp_path):
    fails = tmp_path / "python"
    fails.write_text(
        f"#!{sys.executable}\nimport sys\nprint('first', file=sys.stderr)\nsys.exit('the node has gone')\n"
    )
    fails.chmod(0o755)
    monkeypatch.setattr(deploy.sys, "executable", str(fails))
    with pytest.raises(UserError, match="/diwa/run_skill failed: the node has gone"):
        deploy.run_skill("open-drawer", 1.0, 0, "diwa")
