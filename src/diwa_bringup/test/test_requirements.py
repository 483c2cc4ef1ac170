"""What requirements/ pins can be installed: for every ROS 2 and Python that the README names, with all extras."""

import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

WORKSPACE = Path(__file__).parents[3]
LISTS = WORKSPACE / "requirements"
RESOLVE = WORKSPACE / "scripts" / "resolve.sh"
NO_INDEX = ("error sending request", "dns error", "failed to lookup address", "Could not connect", "timed out")
"""What uv says where no package index can be reached."""

WHEELS = [
    (f"wheels {release}", python) for release in ("kilted", "jazzy") for python in ("3.10", "3.11", "3.12", "3.13")
]
INSTALLS = [("system humble", "3.10"), ("system jazzy", "3.12"), ("system kilted", "3.12")]
COMBINATIONS = [*WHEELS, *INSTALLS]

Resolution = subprocess.CompletedProcess[str]


def resolve(ros: str, python: str) -> Resolution:
    extras = ["hardware"] if python == "3.10" else ["hardware", "lerobot"]
    return subprocess.run([RESOLVE, ros, python, *extras], capture_output=True, text=True)


@pytest.fixture(scope="module")
def resolutions():
    """All of them at once: each waits for the package index most of its time."""
    uv = Path(sys.prefix) / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed (requirements/test.txt)")
    with ThreadPoolExecutor(4) as pool:
        yield {combination: pool.submit(resolve, *combination) for combination in COMBINATIONS}


@pytest.mark.parametrize("combination", COMBINATIONS, ids=" ".join)
def test_every_list_resolves_with_all_extras(resolutions: dict, combination: tuple[str, str]):
    future: Future[Resolution] = resolutions[combination]
    said = future.result()
    if any(words in said.stderr for words in NO_INDEX):
        pytest.skip(f"the package index cannot be reached: {said.stderr.splitlines()[-1]}")
    assert said.returncode == 0, said.stderr


def pinned() -> dict[str, set[str]]:
    """Normalised name -> its versions in the lists."""
    pins: dict[str, set[str]] = {}
    for path in LISTS.glob("*.txt"):
        for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE):
            pins.setdefault(normal(name), set()).add(version)
    return pins


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def exceptions() -> set[tuple[str, str]]:
    text = (LISTS / "exceptions.toml").read_text()
    return set(re.findall(r'^name = "(.+)"\nversion = "(.+)"$', text, re.MULTILINE))


def test_exceptions_are_for_the_versions_that_are_pinned():
    assert exceptions()
    for name, version in exceptions():
        assert pinned()[normal(name)] == {version}


def test_what_is_installed_here_has_what_it_asks_for():
    """Extras are installed without looking at their requirements: their lists have to be complete."""
    said = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True).stdout
    complaints = [line for line in said.splitlines() if re.match(r"\S+ \S+ (requires|has requirement)", line)]
    excused = {normal(name) for name, _ in exceptions()}
    ours = set(pinned()) - excused
    assert [line for line in complaints if normal(line.split()[0]) in ours] == []


def test_a_list_that_cannot_be_met_is_refused():
    """The resolver sees contradictions: numpy 1 beside what needs numpy 2."""
    uv = Path(sys.prefix) / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed (requirements/test.txt)")
    said = subprocess.run([RESOLVE, "system jazzy", "3.13"], capture_output=True, text=True)
    if any(words in said.stderr for words in NO_INDEX):
        pytest.skip("the package index cannot be reached")
    assert said.returncode != 0 and "numpy" in said.stderr


def test_every_dependency_of_ours_has_a_reason_in_the_docs():
    """The lists of what we import, build and test with; the others hold what those need in turn."""
    docs = (WORKSPACE / "docs" / "dependencies.md").read_text().lower()
    for name in ("python", "build", "test", "ros-wheels", "ros-system"):
        for line in (LISTS / f"{name}.txt").read_text().splitlines():
            if line and not line.startswith("#"):
                package = re.split(r"[=\s;]", line)[0].lower()
                assert package in docs, f"{package} of {name}.txt"
