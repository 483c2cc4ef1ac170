import os

import pytest

from diwa_bringup.graph import Argument, Graph, NodeSpec, split_words
from diwa_bringup.graphs import GRAPHS
from diwa_bringup.robot_graphs import RECORD, SIM
from diwa_conventions.errors import UserError
from diwa_conventions.tasks import TASKS


def nodes(*words: str) -> dict[str, NodeSpec]:
    return {spec.name: spec for spec in SIM.specs(words)}


def message(*words: str) -> str:
    with pytest.raises(UserError) as error:
        SIM.specs(words)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_sim_alone_is_the_playroom():
    (playroom,) = SIM.specs([])
    assert (playroom.package, playroom.executable, playroom.full_name) == ("diwa_sim", "playroom", "/diwa/playroom")
    assert playroom.parameters == {
        "task": "",
        "seed": 0,
        "look": "clear",
        "image_size": 200,
        "publish_clock": False,
    }


def test_namespace_moves_every_node():
    specs = nodes("namespace:=/lab/one", "operator:=play", "film:=a.mp4")
    assert sorted(spec.full_name for spec in specs.values()) == [
        "/lab/one/command_guard",
        "/lab/one/film_recorder",
        "/lab/one/operator",
        "/lab/one/playroom",
        "/lab/one/teleop",
    ]


def test_demonstration_passes_task_skill_and_seed_to_the_operator():
    operator = nodes("operator:=demonstration", "task:=turn-on-LED", "skill:=0.5", "seed:=7", "episodes:=3")["operator"]
    assert operator.parameters == {
        "mode": "demonstration",
        "task": "turn-on-LED",
        "skill": 0.5,
        "seed": 7,
        "episodes": 3,
        "use_sim_time": False,
    }


def test_play_without_a_task_leaves_the_task_out():
    assert "task" not in nodes("operator:=play")["operator"].parameters


def test_demonstration_without_a_task_is_refused_with_the_known_tasks():
    text = message("operator:=demonstration")
    assert "operator:=demonstration needs a task" in text
    assert all(task in text for task in TASKS)


def test_clock_makes_all_but_the_playroom_use_it():
    specs = nodes("clock:=true", "operator:=play", "film:=a.mp4")
    assert specs["playroom"].parameters["publish_clock"] is True
    assert "use_sim_time" not in specs["playroom"].parameters
    assert specs["operator"].parameters["use_sim_time"] is True
    for name in ("film_recorder", "teleop", "command_guard"):
        assert specs[name].parameters["use_sim_time"] is True


def test_film_path_becomes_absolute():
    assert nodes("film:=a.mp4")["film_recorder"].parameters["path"] == os.path.abspath("a.mp4")
    assert nodes("film:=~/a.mp4")["film_recorder"].parameters["path"] == os.path.expanduser("~/a.mp4")


def test_unknown_argument_names_it_and_the_nearest():
    text = message("sed:=3")
    assert "'sed'" in text and "did you mean 'seed'?" in text and "namespace" in text


@pytest.mark.parametrize("word", ["seed", "seed=3", ":=3", ""])
def test_malformed_word_says_the_form(word: str):
    assert repr(word) in message(word) and "name:=value" in message(word)


def test_argument_given_twice_is_refused():
    assert message("seed:=3", "seed:=4") == "argument 'seed' is given twice: '3' and '4'"


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("seed:=three", ("'seed'", "'three'", "a whole number")),
        ("seed:=1.5", ("'seed'", "'1.5'", "a whole number")),
        ("seed:=-1", ("'seed'", "'-1'", "from 0")),
        ("image_size:=4", ("'image_size'", "'4'", "from 8 to 640")),
        ("skill:=2", ("'skill'", "'2'", "from 0 to 1")),
        ("skill:=nan", ("'skill'", "'nan'", "a number")),
        ("skill:=", ("'skill'", "''", "a number")),
        ("clock:=yes", ("'clock'", "'yes'", "true or false")),
        ("namespace:=a b", ("'namespace'", "'a b'", "letters")),
        ("namespace:=9lives", ("'namespace'", "'9lives'")),
        ("look:=clea", ("'look'", "'clea'", "did you mean 'clear'?", "hard")),
        ("task:=open-draw", ("'task'", "'open-draw'", "did you mean 'open-drawer'?")),
    ],
)
def test_bad_value_names_argument_value_and_what_is_allowed(word: str, parts: tuple[str, ...]):
    text = message(word)
    assert [part for part in parts if part not in text] == []


def test_values_keep_everything_after_the_first_separator():
    assert split_words(["film:=a:=b.mp4"]) == {"film": "a:=b.mp4"}


def test_every_default_is_a_value_that_its_argument_accepts():
    for graph in GRAPHS.values():
        for argument in graph.arguments:
            value = argument.parse(argument.default_text)
            expected = os.path.abspath(argument.default) if value and argument.kind == "path" else argument.default
            assert value == expected and type(value) is type(argument.default), argument.name


def test_every_graph_starts_with_its_defaults_and_unique_names(tmp_path):
    needed = {"replay": [f"bag:={tmp_path}"], "train": ["data_set:=a", "out:=b"]}
    for name, graph in GRAPHS.items():
        assert graph.name == name
        specs = graph.specs(needed.get(name, []))
        assert len({spec.full_name for spec in specs}) == len(specs) > 0


def test_a_new_graph_is_one_argument_list_and_one_function():
    rate = Argument("rate", 2.0, "beats per second", "number", minimum=0.0)
    beat = Graph("beat", "a beat", (rate,), lambda a: [NodeSpec("p", "beat", "beat", "/", {"rate": a["rate"]})])
    (spec,) = beat.specs(["rate:=4"])
    assert spec.parameters == {"rate": 4.0} and spec.full_name == "/beat"


def test_film_that_is_no_mp4_is_refused_before_anything_starts():
    with pytest.raises(UserError, match="argument 'film' is 'a.avi'; expected a path that ends in .mp4"):
        SIM.specs(["film:=a.avi"])


def recording(*words: str) -> dict[str, NodeSpec]:
    return {spec.name: spec for spec in RECORD.specs(words)}


def test_no_graph_with_an_operator_goes_without_the_command_guard():
    for words in (["operator:=play"], ["operator:=demonstration", "task:=turn-on-LED"]):
        assert {"operator", "teleop", "command_guard"} <= set(nodes(*words))
    for operator in ("scripted", "gamepad", "keyboard", "none"):
        robot = "sim" if operator == "scripted" else "none"
        assert {"teleop", "command_guard"} <= set(recording(f"operator:={operator}", f"robot:={robot}"))


def test_record_by_default_is_scripted_play_in_the_playroom_into_a_new_bag():
    specs = recording()
    assert sorted(specs) == ["command_guard", "operator", "playroom", "recorder", "teleop"]
    assert specs["operator"].parameters["mode"] == "play"
    recorder = specs["recorder"].parameters
    assert recorder["autostart"] is True and recorder["bag"] == "" and recorder["folder"] == os.path.abspath("bags")


def test_record_of_a_task_is_demonstrations_of_it():
    specs = recording("task:=turn-on-LED", "episodes:=3", "skill:=0.4")
    operator = specs["operator"].parameters
    assert (operator["mode"], operator["task"], operator["episodes"], operator["skill"]) == (
        "demonstration",
        "turn-on-LED",
        3,
        0.4,
    )
    assert specs["playroom"].parameters["task"] == "turn-on-LED"


def test_without_the_playroom_arm_and_cameras_are_left_to_others():
    assert sorted(recording("robot:=none", "operator:=none")) == ["command_guard", "recorder", "teleop"]


def test_gamepad_starts_the_joystick_driver_too():
    specs = recording("robot:=none", "operator:=gamepad")
    assert (specs["joy_node"].package, specs["gamepad"].package) == ("joy", "diwa_teleop")


def test_scripted_operator_needs_the_playroom():
    with pytest.raises(UserError, match="needs robot:=sim"):
        RECORD.specs(["robot:=none"])


def test_marked_skill_goes_to_teleop():
    assert recording("mark:=open-drawer")["teleop"].parameters["skill"] == "open-drawer"


def test_parameter_file_goes_to_every_node():
    specs = recording("parameters:=lab.yaml")
    assert {spec.parameter_files for spec in specs.values()} == {(os.path.abspath("lab.yaml"),)}
