"""Two machines on one: each has its own network, shared memory and machine id; a virtual cable joins them.

with two_machines() as (control, policy):
    node = control.start("diwa_sim.nodes.playroom", "-p", "image_size:=64")
    cut(policy); mend(policy)                        # the cable
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from diwa_conventions import topics

LINK, ROBOT_CABLE = "link0", "robot0"
ADDRESSES = {"control": 1, "policy": 2}
NETWORKS = {LINK: "192.0.2", ROBOT_CABLE: "198.51.100"}
"""Address ranges for documentation: they mean nothing outside."""
_MACHINE_ID = Path("/etc/machine-id")
"""Fast DDS takes two participants with the same one for neighbours on one machine."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

_BE_A_MACHINE = (
    "mount -t tmpfs tmpfs /dev/shm && { [ ! -e /etc/machine-id ] || mount --bind $0 /etc/machine-id; } && "
    "ip link set lo up && echo ready && exec cat"
)


def why_not() -> str:
    """Why this machine cannot play two, or ""."""
    try:
        tried = subprocess.run(
            [*_UNSHARE, "ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "two"],
            capture_output=True,
            text=True,
        )
    except OSError as error:
        return str(error)
    return "" if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


_UNSHARE = ("unshare", "--net", "--mount", "--propagation", "private")


def _end_with_this_process() -> None:
    """In the child: the kernel ends it, should this process be killed before it can."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """A machine; what is started on it ends with it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        identity = folder / f"{name}-id"
        identity.write_text(f"{ADDRESSES[name]:032x}\n")
        self._holder = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _BE_A_MACHINE, str(identity)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"machine {name} does not come up")
        self.pid = self._holder.pid
        self.environment = dict(os.environ)
        self._processes: list[subprocess.Popen[Any]] = []

    def _here(self, words: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", *words]

    def ask(self, *words: str) -> str:
        """What a command prints on this machine."""
        done = subprocess.run(self._here(words), env=self.environment, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def python(self, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """A process of this Python on this machine."""
        command = self._here([sys.executable, *words])
        process = subprocess.Popen(command, env=self.environment, preexec_fn=_end_with_this_process, **options)
        self._processes.append(process)
        return process

    def start(self, module: str, *parameters: str) -> subprocess.Popen[Any]:
        """A node; ``parameters`` as ``name:=value``."""
        words = ["-m", module, "--ros-args", "-r", f"__ns:=/{topics.NAMESPACE}"]
        return self.python(*words, *(word for parameter in parameters for word in ("-p", parameter)))

    def use_network(self, folder: Path, *options: str) -> None:
        """Take over what ``diwa network`` prints on this machine."""
        program = "import sys; from diwa_bringup.main import main; sys.exit(main(sys.argv[1:]))"
        words = [program, "network", LINK, *options, "--out", str(folder / self.name)]
        for line in self.ask(sys.executable, "-c", *words).splitlines():
            verb, *names = shlex.split(line)
            for name, _, value in (word.partition("=") for word in names):
                if verb == "export":
                    self.environment[name] = value
                else:
                    self.environment.pop(name, None)

    def carried(self, interface: str = LINK) -> tuple[int, int]:
        """Bytes that the interface has received and sent."""
        counted = self._link(interface)["stats64"]
        return counted["rx"]["bytes"], counted["tx"]["bytes"]

    def wait_for_carrier(self, there: bool, interface: str = LINK, patience_s: float = 30.0) -> None:
        """Linux tells its programs of a cable up to a second late."""
        deadline = time.monotonic() + patience_s
        while ("LOWER_UP" in self._link(interface)["flags"] and self._link(interface)["operstate"] == "UP") != there:
            if time.monotonic() > deadline:
                raise AssertionError(f"{interface} of {self.name}: {self._link(interface)}")

    def _link(self, interface: str) -> dict[str, Any]:
        (found,) = json.loads(self.ask("ip", "-json", "-s", "link", "show", interface))
        return dict(found)

    def end(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            try:
                process.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._holder.kill()
        self._holder.wait()


@contextmanager
def two_machines(*options: str) -> Iterator[tuple[Machine, Machine]]:
    """Control PC and policy PC, joined by the link and by a second cable; ``options`` of ``diwa network``."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machines = []
        for name in ADDRESSES:
            machines.append(Machine(name, folder))
            stack.callback(machines[-1].end)
        control, policy = machines
        for interface, network in NETWORKS.items():
            ends = ("type", "veth", "peer", "name", interface, "netns", str(policy.pid))
            control.ask("ip", "link", "add", "name", interface, *ends)
            for machine in machines:
                address = f"{network}.{ADDRESSES[machine.name]}/24"
                machine.ask("ip", "address", "add", address, "dev", interface)
                mend(machine, interface)
        for machine in machines:
            machine.wait_for_carrier(True)
            machine.use_network(folder, *options)
        yield control, policy


def cut(machine: Machine, interface: str = LINK) -> None:
    """Pull the cable out of this machine; the other one sees that it carries nothing."""
    machine.ask("ip", "link", "set", interface, "down")


def mend(machine: Machine, interface: str = LINK) -> None:
    """Put it back."""
    machine.ask("ip", "link", "set", interface, "up")


class Watch:
    """What one machine's nodes say, heard on that machine: a process of its own, line by line."""

    def __init__(self, machine: Machine, *what: str) -> None:
        script = str(Path(__file__).with_name("two_machines_watch.py"))
        self._process = machine.python("-u", script, *what, stdout=subprocess.PIPE, text=True)
        self.name = machine.name
        self.heard: list[dict[str, Any]] = []
        """``t``: monotonic seconds of this machine, the same for all."""
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.heard.append(json.loads(line))
                self._news.notify_all()

    def since(self, t: float, key: str) -> list[dict[str, Any]]:
        """What was heard later than ``t`` and tells ``key``."""
        with self._news:
            return [one for one in self.heard if one["t"] > t and key in one]

    def until(
        self, condition: Callable[[dict[str, Any]], Any], what: str, after: float = 0.0, patience_s: float = 120.0
    ) -> dict[str, Any]:
        """The first that was heard later than ``after`` and fulfils the condition."""
        deadline, seen = time.monotonic() + patience_s, 0
        with self._news:
            while True:
                for one in self.heard[seen:]:
                    if one["t"] > after and condition(one):
                        return one
                seen = len(self.heard)
                if not self._news.wait(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"{what} did not happen; heard last on {self.name}: {self.heard[-1:]}")
