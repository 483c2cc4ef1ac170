"""The process manager with real children: small Python programs."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diwa_bringup.process_manager import KILL_AFTER_S, TERMINATE_AFTER_S, Command, ProcessManager
from diwa_conventions.errors import UserError

WAIT_FOR_EVER = "import signal; print('ready', flush=True); signal.pause()"
IGNORE_SIGNALS = (
    "import signal\n"
    "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
    "while True: signal.pause()"
)
CLOSE_ON_SIGINT = (
    "import signal, sys\n"
    "def close(number, frame): print('closed on', signal.Signals(number).name, flush=True); sys.exit(0)\n"
    "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, close)\n"
    "print('ready', flush=True)\n"
    "signal.pause()"
)
DEADLINE_S = 60.0


def python(name: str, program: str, on_exit: str = "shutdown") -> Command:
    return Command(name, (sys.executable, "-c", program), on_exit)  # type: ignore[arg-type]


class Output(io.StringIO):
    """What is printed, with a call for every line."""

    def __init__(self, on_write: Callable[[str], None] = lambda text: None, terminal: bool = False) -> None:
        super().__init__()
        self._on_write, self._terminal = on_write, terminal

    def write(self, text: str) -> int:
        self._on_write(text)
        return super().write(text)

    def isatty(self) -> bool:
        return self._terminal

    def lines(self, name: str) -> list[str]:
        """The lines of one process without their prefix."""
        matches = [re.fullmatch(r"\d\d:\d\d:\d\d (\S+) *\| (.*)", line) for line in self.getvalue().splitlines()]
        assert all(matches), self.getvalue()
        return [match[2] for match in matches if match and match[1] == name]


def run(*commands: Command, output: Output | None = None) -> tuple[int, Output]:
    output = Output() if output is None else output
    return ProcessManager(commands, output).run(), output


@pytest.fixture
def manager() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a manager in a process of its own, to which signals can be sent."""
    started: list[subprocess.Popen[str]] = []

    def start(*commands: Command) -> subprocess.Popen[str]:
        program = (
            "import sys\nfrom diwa_bringup.process_manager import Command, ProcessManager\n"
            f"sys.exit(ProcessManager([{', '.join(map(repr, commands))}]).run())"
        )
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read the manager's output up to a line with ``text``; that line."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the output ended without {text!r}")


def is_running(pid: int) -> bool:
    """A zombie does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int) -> bool:
    """Whether a process that is not ours ends before the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def test_output_is_prefixed_with_time_and_name():
    commands = [
        python("short", "print('one'); print(); print('two')", "ignore"),
        python("longer_name", "print('three')", "ignore"),
    ]
    code, output = run(*commands)
    assert code == 0
    assert [line.strip() for line in output.lines("short")] == ["one", "", "two"]
    assert output.lines("longer_name") == ["three"]
    bars = {line.index("|") for line in output.getvalue().splitlines()}
    assert len(bars) == 1, "prefixes have the same width"


def test_every_node_has_its_own_colour_on_a_terminal():
    commands = [python("a", "print('x')", "ignore"), python("b", "print('x')", "ignore")]
    _, output = run(*commands, output=Output(terminal=True))
    colours = {name: re.search(rf"\x1b\[(\d+)m\d\d:\S+ {name} ", output.getvalue()) for name in "ab"}
    assert colours["a"] and colours["b"] and colours["a"][1] != colours["b"][1]


def test_no_colours_in_a_file():
    assert "\x1b" not in run(python("a", "print('x')"))[1].getvalue()


def test_output_just_before_the_end_is_complete():
    program = "import sys; sys.stdout.write(''.join(f'{i}\\n' for i in range(30000)) + 'no newline')"
    _, output = run(python("a", program))
    assert output.lines("a") == [*map(str, range(30000)), "no newline"]


def test_crash_is_reported_with_name_code_and_last_lines_and_stops_all():
    crash = "import sys\nfor i in range(15): print('line', i)\nsys.exit(3)"
    code, output = run(python("other", CLOSE_ON_SIGINT), python("crasher", crash))
    assert code == 1
    said = output.lines("diwa")
    report = said.index("crasher crashed: exit code 3; its last lines:")
    assert [line.strip() for line in said[report + 1 : report + 11]] == [f"line {i}" for i in range(5, 15)]
    assert "line 4" not in "\n".join(said)


def test_crash_by_a_signal_names_it():
    code, output = run(python("a", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert code == 1
    assert "a crashed: killed by SIGSEGV; its last lines:" in output.lines("diwa")


def test_normal_end_of_a_node_stops_all_with_code_0():
    code, output = run(python("worker", WAIT_FOR_EVER), python("task", "print('done')"))
    assert code == 0
    assert "task has ended: stopping all" in output.lines("diwa")


def test_normal_end_is_ignored_where_the_node_says_so(tmp_path: Path):
    go_on = tmp_path / "go_on"
    waits = f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.01)\nprint('still here')"
    output = Output(on_write=lambda text: go_on.touch() if "first has ended" in text else None)
    code, _ = run(python("first", "", "ignore"), python("second", waits), output=output)
    assert code == 0 and output.lines("second") == ["still here"]


def test_what_a_node_leaves_behind_is_ended():
    leaves = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print(child.pid)"
    )
    _, output = run(python("a", leaves))
    assert ends(int(output.lines("a")[0]))


def test_missing_program_is_one_line():
    with pytest.raises(UserError, match="cannot start a: /no/such/program: No such file or directory"):
        run(Command("a", ("/no/such/program",)))


def test_a_program_that_cannot_start_ends_those_that_did():
    output = Output()
    with pytest.raises(UserError):
        run(python("a", WAIT_FOR_EVER), Command("b", ("/no/such/program",)), output=output)
    (started,) = output.lines("diwa")
    assert not is_running(int(started.split()[-1].rstrip(")")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_nodes_close_by_sigint_first(manager, number: signal.Signals):
    process = manager(python("a", CLOSE_ON_SIGINT))
    read_until(process, "ready")
    process.send_signal(number)
    rest, _ = process.communicate(timeout=DEADLINE_S)
    assert f"{number.name}: stopping all" in rest and "closed on SIGINT" in rest
    assert process.returncode == 0


def test_a_node_that_ignores_all_but_sigkill_is_killed_before_5_s_are_over(manager):
    assert TERMINATE_AFTER_S < KILL_AFTER_S < 5.0
    process = manager(python("stubborn", IGNORE_SIGNALS))
    read_until(process, "ready")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=DEADLINE_S)
    assert "stubborn did not end within 4 s of SIGINT: killed" in rest
    assert process.returncode == 1


def test_second_ctrl_c_kills_at_once(manager):
    process = manager(python("stubborn", IGNORE_SIGNALS))
    read_until(process, "ready")
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping all")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=DEADLINE_S)
    assert "stubborn did not end before the second Ctrl-C: killed" in rest


def test_children_die_with_a_parent_killed_by_sigkill(manager):
    process = manager(python("a", "import os; print('pid', os.getpid(), flush=True)\n" + IGNORE_SIGNALS))
    pid = int(read_until(process, "pid").split()[-1])
    read_until(process, "ready")
    assert is_running(pid)
    os.kill(process.pid, signal.SIGKILL)
    assert ends(pid)
