"""Each check with the thing there and not there; fake libraries stand in for those that are not installed."""

import os
import re
import sys
import threading
from pathlib import Path

import pytest

from diwa_bringup import doctor
from diwa_bringup.doctor import CHECKS, Doctor, Finding, Probe, examine, run_probe
from diwa_bringup.main import main

LIBRARIES = {
    "ros": ("rclpy",),
    "messages": ("diwa_msgs",),
    "rendering": ("mujoco",),
    "video": ("av",),
    "data_sets": ("mcap", "zarr"),
    "gpu": ("torch",),
    "realsense": ("pyrealsense2",),
    "kinect": ("pyk4a",),
    "vive": ("openvr",),
    "franka": ("panda_py", "franky", "pylibfranka", "franka"),
}
"""Probe -> the modules that it imports."""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a module of this source in front of the installed one, for probes."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("MUJOCO_GL", "egl")

    def write(module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)

    return write


@pytest.mark.parametrize("probe", LIBRARIES)
def test_absent_library_is_told_from_a_broken_one(fake, probe: str):
    for module in LIBRARIES[probe]:
        fake(module, f"raise ModuleNotFoundError(\"No module named '{module}'\")")
    answer = run_probe(probe)
    assert answer.state == "no library" and LIBRARIES[probe][0] in answer.text


@pytest.mark.parametrize("probe", [name for name in LIBRARIES if name != "franka"])
def test_library_that_raises_is_broken_with_its_reason(fake, probe: str):
    fake(LIBRARIES[probe][0], "raise RuntimeError('wrong version')")
    assert run_probe(probe) == Probe("broken", "RuntimeError: wrong version")


def test_library_that_crashes_its_process_is_broken_with_the_signal(fake):
    fake("mujoco", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert run_probe("rendering") == Probe("broken", "its library crashed (SIGSEGV)")


def test_library_that_hangs_is_broken_after_the_timeout(fake, monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.5)
    fake("pyrealsense2", "import signal; signal.pause()")
    assert run_probe("realsense") == Probe("broken", "no answer within 0.5 s")


def test_library_that_ends_its_process_is_broken(fake):
    fake("pyk4a", "import os, sys; print('licence expired', file=sys.stderr, flush=True); os._exit(3)")
    assert run_probe("kinect") == Probe("broken", "licence expired")


def without_version(answer: Probe) -> Probe:
    """Behind a library's name stands its version where the real one is installed too."""
    return Probe(answer.state, re.sub(r"^([a-z0-9-]+) [0-9.]+;", r"\1;", answer.text))


def test_library_that_prints_does_not_confuse_the_answer(fake):
    fake("pyk4a", "print('welcome')\ndef connected_device_count(): return 1")
    assert without_version(run_probe("kinect")) == Probe("ok", "pyk4a-bundle; Azure Kinect")


REALSENSE = """
class camera_info: name = 0
class device:
    def get_info(self, key): return "D435"
class context:
    def query_devices(self): return [device()] * {count}
"""


@pytest.mark.parametrize(
    ("count", "answer"),
    [(0, Probe("no device", "pyrealsense2; no camera is connected")), (2, Probe("ok", "pyrealsense2; D435, D435"))],
)
def test_realsense_cameras_are_listed(fake, count: int, answer: Probe):
    fake("pyrealsense2", REALSENSE.format(count=count))
    assert without_version(run_probe("realsense")) == answer


OPENVR = """
class OpenVRError(Exception): pass
class InitError_Init_PathRegistryNotFound(OpenVRError): pass
VRApplication_Background, k_unMaxTrackedDeviceCount = 3, 4
TrackedDeviceClass_Controller, TrackedDeviceClass_GenericTracker = 2, 3
class system:
    def getTrackedDeviceClass(self, index): return [1, 2, 3, 0][index]
def init(kind):
    {init}
def shutdown(): pass
"""


def test_vive_devices_are_listed(fake):
    fake("openvr", OPENVR.format(init="return system()"))
    assert without_version(run_probe("vive")) == Probe("ok", "openvr; controller, tracker")


def test_vive_without_steamvr_says_so(fake):
    fake("openvr", OPENVR.format(init="raise InitError_Init_PathRegistryNotFound()"))
    expected = Probe("no device", "openvr; SteamVR does not run (InitError_Init_PathRegistryNotFound)")
    assert without_version(run_probe("vive")) == expected


def test_franka_names_the_clients_that_load(fake):
    for module in LIBRARIES["franka"]:
        fake(module, "raise ImportError('not for this machine')")
    fake("panda_py", "")
    answer = run_probe("franka")
    assert answer.state == "ok" and answer.text.startswith("panda-python")


TORCH = """
__version__ = "2.13.0"
class _properties: name, total_memory = "H100", 80 * 2**30
class cuda:
    is_available = staticmethod(lambda: {available})
    device_count = staticmethod(lambda: 1)
    get_device_properties = staticmethod(lambda index: _properties)
"""


@pytest.mark.parametrize(
    ("available", "answer"),
    [(True, Probe("ok", "torch 2.13.0; H100 (80 GiB)")), (False, Probe("no device", "torch 2.13.0; no CUDA device"))],
)
def test_gpu_is_named(fake, available: bool, answer: Probe):
    fake("torch", TORCH.format(available=available))
    assert run_probe("gpu") == answer


def answers(monkeypatch: pytest.MonkeyPatch, *probes: Probe) -> list[dict[str, str]]:
    """Let probes answer this, one after another; the environments that they were given."""
    given: list[dict[str, str]] = []
    left = list(probes)

    def answer(name: str, environment: dict[str, str] | None = None) -> Probe:
        given.append(dict(environment or {}))
        return left.pop(0)

    monkeypatch.setattr(doctor, "run_probe", answer)
    return given


def test_rendering_falls_back_to_osmesa(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    given = answers(monkeypatch, Probe("broken", "no EGL"), Probe("ok", "OSMESA, software (llvmpipe)"))
    assert doctor.check_rendering() == Finding("rendering", "ok", "OSMESA, software (llvmpipe)")
    assert given == [{"MUJOCO_GL": "egl"}, {"MUJOCO_GL": "osmesa"}]


def test_rendering_keeps_to_the_users_choice(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    given = answers(monkeypatch, Probe("broken", "no display"))
    assert doctor.check_rendering().state == "broken"
    assert given == [{"MUJOCO_GL": "glfw"}]


def test_rendering_without_any_backend_names_the_apt_line(monkeypatch, tmp_path):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setenv("COLCON_PREFIX_PATH", str(tmp_path / "install"))
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "apt.txt").write_text("# packages\nwindow: libx11-6\nrendering: libegl1 libosmesa6\n")
    answers(monkeypatch, Probe("broken", "no EGL"), Probe("broken", "no OSMesa"))
    finding = doctor.check_rendering()
    assert finding.mend == "sudo apt-get install libegl1 libosmesa6"
    assert finding.detail == "egl: no EGL; osmesa: no OSMesa" and finding.verdict == "MISSING"


def test_apt_line_without_a_workspace_says_where_to_look(monkeypatch, tmp_path):
    monkeypatch.delenv("COLCON_PREFIX_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    assert doctor.apt_line("rendering") == "the packages of line 'rendering' in requirements/apt.txt"


@pytest.mark.parametrize("check", [doctor.check_ros, doctor.check_messages, doctor.check_video, doctor.check_data_sets])
def test_required_features_are_mended_by_setup(monkeypatch, check):
    answers(monkeypatch, Probe("no library", "No module named 'x'"))
    finding = check()
    assert finding.required and finding.verdict == "MISSING" and finding.mend == "make setup && source env.sh"


@pytest.mark.parametrize(
    ("check", "library", "device"),
    [
        (doctor.check_realsense, "make setup EXTRA=hardware", "connect"),
        (doctor.check_kinect, "make setup EXTRA=hardware", "connect"),
        (doctor.check_vive, "make setup EXTRA=hardware", "SteamVR"),
        (doctor.check_gpu, "make setup", "nvidia-smi"),
    ],
)
def test_devices_are_optional_and_mended_by_what_is_missing(monkeypatch, check, library: str, device: str):
    answers(monkeypatch, Probe("no library", "x"), Probe("no device", "y"), Probe("ok", "z"))
    without_library, without_device, there = check(), check(), check()
    assert library in without_library.mend and device in without_device.mend
    assert [f.verdict for f in (without_library, without_device, there)] == ["optional, not there"] * 2 + ["ok"]


def test_absent_franka_clients_are_optional_and_come_with_the_extra(monkeypatch):
    answers(monkeypatch, Probe("no library", "x"))
    finding = doctor.check_franka()
    assert not finding.required and finding.mend == "make setup EXTRA=hardware"


def test_window_needs_a_display(monkeypatch):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":1")
    assert doctor.check_window().detail == "display :1"
    monkeypatch.delenv("DISPLAY")
    assert doctor.check_window().state == "no device" and not doctor.check_window().required


def test_full_disk_is_missing(monkeypatch):
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=2**30))
    assert doctor.check_disk().verdict == "MISSING" and doctor.check_disk().detail == "1 GiB free here"


def test_one_core_and_little_memory_are_said(monkeypatch):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: 1024)
    assert doctor.check_cores().verdict == doctor.check_memory().verdict == "optional, not there"


def test_check_that_raises_is_a_finding():
    def broken() -> Finding:
        raise OSError("no such bus")

    (finding,) = examine({"bus": broken})
    assert finding.state == "broken" and "no such bus" in finding.detail


def test_check_that_hangs_does_not_hold_up_the_others():
    for_ever = threading.Event()

    def hangs() -> Finding:
        for_ever.wait()
        raise AssertionError

    first, second = examine({"slow": hangs, "good": lambda: Finding("good", "ok", "here")}, timeout_s=3.0)
    for_ever.set()
    assert (first.feature, first.state, first.detail) == ("slow", "broken", "the check did not end")
    assert second.state == "ok"


@pytest.mark.parametrize(
    ("required", "state", "code"), [(True, "ok", 0), (True, "broken", 1), (False, "no device", 0), (False, "ok", 0)]
)
def test_exit_code_is_1_only_when_something_required_is_missing(monkeypatch, capsys, required, state, code):
    finding = Finding("thing", state, "seen", "buy one", required)
    monkeypatch.setattr(doctor, "CHECKS", {"thing": lambda: finding})
    assert Doctor().run() == code
    printed = capsys.readouterr().out
    assert "thing" in printed and finding.verdict in printed
    assert ("thing: buy one" in printed) == (state != "ok")


def test_brackets_in_what_was_found_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", {"thing": lambda: Finding("thing", "broken", "[Errno 2] none")})
    Doctor().run()
    assert "[Errno 2] none" in capsys.readouterr().out


def test_doctor_on_this_machine_finds_the_workspace(capsys):
    code = main(["doctor"])
    printed = capsys.readouterr().out
    assert all(feature in printed for feature in CHECKS)
    assert code == int("MISSING" in printed)
    assert "diwa_msgs works" in printed


def test_missing_build_tools_are_named_with_the_apt_line_of_this_python(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None if tool == "c++" else f"/usr/bin/{tool}")
    finding = doctor.check_build()
    assert finding.state == "no library" and finding.detail == "not there: c++"
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert "build-essential" in finding.mend and f"{ours}-venv {ours}-dev" in finding.mend


def test_the_readme_names_the_same_system_packages():
    workspace = Path(__file__).parents[3]
    lists = dict(line.split(": ", 1) for line in (workspace / "requirements" / "apt.txt").read_text().splitlines()[2:])
    assert f"sudo apt-get install {lists['build']} {lists['rendering']}" in (workspace / "README.md").read_text()
