"""One stage as a process, its output in a file. It ends with us, and in order when we are told to stop."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POLL_S = 0.25
"""How often the display is asked to look."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def run_process(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    caught: Sequence[int],
    look: Callable[[], None],
) -> int:
    """The exit code of a command (negative: the signal that killed it).

    ``look`` is called again and again while it runs. As soon as ``caught`` holds a signal, the process gets a SIGINT
    and the time that it needs; an exception, such as the KeyboardInterrupt of a second Ctrl-C, kills it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            preexec_fn=_end_with(os.getpid()),
        )
        try:
            return _wait(process, caught, look)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: subprocess.Popen[bytes], caught: Sequence[int], look: Callable[[], None]) -> int:
    asked = False
    while True:
        if caught and not asked:
            asked = True
            process.send_signal(signal.SIGINT)
        look()
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue


def _end_with(parent: int) -> Callable[[], None]:
    """What the child does first: lead a process group, so that a Ctrl-C in the terminal reaches us alone, and ask the
    kernel for a SIGTERM when its parent ends, in any way (Linux)."""

    def ask() -> None:
        os.setpgid(0, 0)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it ended before the request
                os._exit(1)

    return ask


def last_line(log: Path) -> str:
    """The last line with something in it; empty if there is none."""
    lines = last_lines(log)
    return lines[-1] if lines else ""


def last_lines(log: Path, most_bytes: int = 20_000) -> list[str]:
    """The lines at the end of a file that have something in them, without colours and frames."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - most_bytes))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
