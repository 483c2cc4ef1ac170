"""The ``diwa`` command as a person types it."""

import os
import subprocess
import sys

import pytest

from diwa_bringup import main as main_module
from diwa_bringup.graphs import GRAPHS
from diwa_bringup.main import VERBS, main
from diwa_bringup.robot_graphs import SIM
from diwa_conventions.errors import UserError


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a mistake."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("diwa: ")
    return line


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        assert main(words) == 0
    except SystemExit as end:
        assert end.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_help_lists_the_stages_that_are_built_and_no_others(capsys, words):
    text = help_of(capsys, *words)
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert listed == list(VERBS)


def words_of_all_stages() -> list[tuple[str, ...]]:
    """Every word or pair of words that runs a stage."""
    pairs = {"up": GRAPHS, "guard": main_module._GUARD_VERBS, "bag": main_module._BAG_VERBS}
    pairs |= {"simulate": main_module._SIMULATE_VERBS, "evaluate": main_module._EVALUATE_VERBS}
    pairs |= {"calibrate": main_module._CALIBRATE_VERBS}
    return [(verb, word) for verb, words in pairs.items() for word in words] + [(v,) for v in VERBS if v not in pairs]


@pytest.mark.parametrize("words", words_of_all_stages(), ids=" ".join)
def test_every_stage_says_what_it_does(capsys, words: tuple[str, ...]):
    assert f"usage: diwa {' '.join(words)}" in help_of(capsys, *words, "--help")


def test_unknown_stage_is_refused_with_the_known_ones(capsys):
    line = complaint(capsys, "fly")
    assert "'fly'" in line and ", ".join(VERBS) in line


def test_near_miss_is_answered_with_the_stage_that_was_meant(capsys):
    assert "did you mean 'doctor'?" in complaint(capsys, "docter")


def test_unknown_graph_is_refused(capsys):
    assert "word after 'diwa up': 'sym'; did you mean 'sim'?" in complaint(capsys, "up", "sym")


def test_unknown_graph_argument_is_refused(capsys):
    assert "did you mean 'seed'?" in complaint(capsys, "up", "sim", "sed:=3")


def test_unknown_option_is_one_line(capsys):
    line = complaint(capsys, "demo", "--sed", "3")
    assert "--sed" in line and "--seed" in line


def test_option_value_of_the_wrong_type_is_one_line(capsys):
    line = complaint(capsys, "demo", "--seed", "three")
    assert "three" in line and "--seed" in line


def test_unknown_task_of_the_demo_is_one_line(capsys):
    assert "unknown task 'fly'" in complaint(capsys, "demo", "--task", "fly")


def test_help_of_up_lists_the_graphs(capsys):
    text = help_of(capsys, "up")
    assert all(f"  {graph.name}" in text for graph in GRAPHS.values())


def test_help_of_a_graph_lists_its_arguments_with_defaults(capsys):
    text = help_of(capsys, "up", "sim", "--help")
    for argument in SIM.arguments:
        assert f"{argument.name}:={argument.default_text}" in text and argument.about in text


@pytest.fixture
def failing(monkeypatch):
    """Lets ``diwa demo`` raise."""

    def install(error: BaseException) -> None:
        def run(prog, words):
            raise error

        monkeypatch.setattr(main_module, "VERBS", {"demo": main_module.Verb("x", run)})

    return install


def test_interrupt_is_silent(capsys, failing):
    failing(KeyboardInterrupt())
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [UserError("no\n  such"), FileNotFoundError("no such")])
def test_what_the_user_can_mend_is_one_line(capsys, failing, error):
    failing(error)
    assert complaint(capsys, "demo") == "diwa: no such"


def test_mistake_that_a_stage_of_another_package_finds_is_one_line(capsys):
    line = complaint(capsys, "sim")
    assert "--view" in line and "--film" in line


@pytest.mark.parametrize("fault", [ZeroDivisionError, ValueError])
def test_fault_of_the_program_keeps_its_traceback(failing, fault):
    failing(fault())
    with pytest.raises(fault):
        main(["demo"])


def test_traceback_of_a_mistake_on_request(failing, monkeypatch):
    monkeypatch.setenv("DIWA_TRACEBACK", "1")
    failing(UserError("no such"))
    with pytest.raises(UserError):
        main(["demo"])


def test_diwa_is_on_the_path_and_help_imports_nothing_heavy():
    heavy = "{'mujoco', 'torch', 'rclpy', 'av', 'cv2', 'gymnasium', 'tyro'}"
    program = f"import sys; from diwa_bringup.main import main; main(['--help']); print({heavy} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "set()"
    installed = subprocess.run(["diwa", "--help"], capture_output=True, text=True, check=True, env=os.environ).stdout
    assert installed.startswith("usage: diwa {doctor,up,record,")


LEARNING_VERBS = (
    "import inspect export train encode pretrain reward finetune dppo pipeline report demo".split()
    + ["evaluate world-model", "evaluate policy", "evaluate policy --env ros", "evaluate finetuning"]
    + ["calibrate cameras"]
)


@pytest.mark.parametrize("verb", LEARNING_VERBS)
def test_on_python_3_10_learning_says_in_one_line_what_it_needs(monkeypatch, capsys, verb):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    assert main(verb.split()) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "needs Python 3.11 or above, and this is Python 3.10" in line


WITHOUT_LEARNING = """
import sys
from diwa_bringup.main import main

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "zarr", "numcodecs"}:
            raise ModuleNotFoundError("no " + name)

sys.meta_path.insert(0, Absent())
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "verb",
    ["doctor", "record", "deploy", "run", "replay", "keyboard", "annotate", "guard status", "network", "top"]
    + ["calibrate operator", "bag info", "bag repair", "simulate play", "simulate demos", "simulate replay", "sim"],
)
def test_every_other_verb_loads_without_the_packages_of_learning(verb):
    command = [sys.executable, "-c", WITHOUT_LEARNING, *verb.split(), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
