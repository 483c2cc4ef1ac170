"""The graph ``replay`` and the verb."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from playback_samples import write_bag

from diwa_bringup.graph import NodeSpec
from diwa_bringup.playback import INPUTS
from diwa_bringup.replay import Replay
from diwa_bringup.replay_graph import AWAITED, REPLAY
from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.store import open_data_set

DEADLINE_S = 240.0


def nodes(*words: str) -> dict[str, NodeSpec]:
    return {spec.name: spec for spec in REPLAY.specs(("bag:=/bags/one", *words))}


def test_replay_alone_is_the_player_and_ends_with_the_bag():
    (player,) = REPLAY.specs(["bag:=bags/one", "rate:=0.5", "start_offset_s:=2", "duration_s:=3"])
    assert (player.package, player.executable, player.full_name) == ("diwa_bringup", "bag_player", "/diwa/bag_player")
    assert player.parameters == {
        "bag": os.path.abspath("bags/one"),
        "rate": 0.5,
        "clock": True,
        "loop": False,
        "start_offset_s": 2.0,
        "duration_s": 3.0,
        "topics": "",
        "wait_for_subscribers": "",
        "subscribers": 1,
        "wait_s": 120.0,
    }
    assert player.on_exit == "shutdown"


def test_policy_is_fed_in_the_bags_time_and_moves_nothing():
    specs = nodes("policy:=/p", "world_model:=/w", "reward:=/r")
    policy = specs["policy"].parameters
    assert (policy["policy"], policy["world_model"], policy["reward"]) == ("/p", "/w", "/r")
    assert policy["dry_run"] is True and policy["use_sim_time"] is True
    assert topics.STATIC_IMAGE.name in str(specs["bag_player"].parameters["wait_for_subscribers"]).split(",")


def test_importer_lives_in_the_bags_time_and_outlives_the_player():
    specs = nodes("import_to:=/data", "namespace:=/again")
    importer, player = specs["importer"], specs["bag_player"]
    assert (importer.package, importer.full_name) == ("diwa_worldmodel", "/again/importer")
    assert importer.parameters == {"out": "/data", "use_sim_time": True}
    assert (player.on_exit, importer.on_exit) == ("ignore", "shutdown")
    awaited = str(player.parameters["wait_for_subscribers"]).split(",")
    assert awaited == [topic.name for topic in AWAITED]


def test_player_waits_only_for_what_it_plays():
    assert set(AWAITED) <= set(INPUTS)


def test_recorder_keeps_what_is_played_and_said_and_everybody_is_waited_for():
    specs = nodes("policy:=/p", "world_model:=/w", "record:=/bags/served")
    recorder = specs["recorder"].parameters
    assert recorder["bag"] == "/bags/served" and recorder["autostart"] is True
    assert specs["bag_player"].parameters["subscribers"] == 2


def test_without_clock_nodes_keep_the_machines_time():
    specs = nodes("clock:=false", "import_to:=/data")
    assert specs["bag_player"].parameters["clock"] is False
    assert specs["importer"].parameters["use_sim_time"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "argument 'bag' is missing"),
        (["bag:=b", "policy:=p"], "policy:= needs world_model:= too"),
        (["bag:=b", "reward:=r"], "reward:= needs policy:= too"),
        (["bag:=b", "import_to:=d", "loop:=true"], "an import needs an end"),
        (["bag:=b", "import_to:=d", "clock:=false", "rate:=2"], "needs clock:=true"),
        (["bag:=b", "rate:=0"], "argument 'rate' is '0'; expected a number from 0.01 to 100"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        REPLAY.specs(words)


def test_verb_hands_its_options_to_the_graph():
    verb = Replay(Path("/bags/one"), 2.0, start_offset=1.5, topics=("a", "b"), import_to=Path("/data"), loop=False)
    values = REPLAY.resolve(dict(word.split(":=", 1) for word in verb.words()))
    assert values["bag"] == "/bags/one" and values["rate"] == 2.0 and values["start_offset_s"] == 1.5
    assert values["topics"] == "a,b" and values["import_to"] == "/data" and values["clock"] is True


def test_bag_that_is_not_there_is_told_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="there is no bag"):
        Replay(tmp_path / "none").run()


def test_replay_into_training_gives_the_data_set_of_a_direct_import(tmp_path):
    from diwa_sim.simulate import SimulatePlay

    SimulatePlay(out=tmp_path / "bags", frames=10, image_size=24, workers=1).run()
    bag, parameters = tmp_path / "bags" / "play_000", tmp_path / "hasty.yaml"
    parameters.write_text(yaml.safe_dump({"/diwa/importer": {"ros__parameters": {"idle_s": 0.5}}}))
    diwa("import", bag, "--out", tmp_path / "direct")
    diwa("replay", bag, "--import-to", tmp_path / "replayed", "--rate", "2", "--parameters", parameters)
    (direct,), (replayed,) = (open_data_set(tmp_path / name).recordings for name in ("direct", "replayed"))
    assert replayed.content_hash == direct.content_hash
    assert replayed.frames == direct.frames == 10


def diwa(*words: object) -> None:
    done = subprocess.run(["diwa", *map(str, words)], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_comparison_needs_the_artefacts_that_served(tmp_path):
    with pytest.raises(UserError, match="--compare needs --policy POLICY and --world-model WORLD_MODEL"):
        Replay(write_bag(tmp_path / "bag").path, compare=True).run()
