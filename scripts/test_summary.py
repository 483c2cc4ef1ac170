"""Table of what `make test` did. Fails if a test failed, a check failed, or a package ran no test.

Usage: test_summary.py BUILD PACKAGES LINT: the folder in which colcon built, and two files of lines
"package exit-status seconds" and "check ok|failed".
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def counts_in_report(report: Path) -> Counts:
    """Counts of one JUnit file; any other XML file counts nothing."""
    try:
        root = ElementTree.parse(report).getroot()
    except ElementTree.ParseError:
        return Counts(failed=1)  # the test process died while it wrote
    if root.tag not in ("testsuite", "testsuites"):
        return Counts()
    cases = list(root.iter("testcase"))
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Counts(len(cases) - failed - skipped, failed, skipped)


def counts_of_package(build: Path) -> Counts:
    """colcon's pytest step reports in build/<package>/, ament_add_test in test_results/ there."""
    reports = [*build.glob("*.xml"), *build.glob("test_results/**/*.xml")]
    return sum((counts_in_report(report) for report in reports), Counts())


def verdict(counts: Counts, status: int) -> str:
    if counts.failed:
        return "FAILED"
    if counts.passed == 0:
        return "RAN NO TEST"
    if status != 0:
        return f"FAILED: the test process ended with {status}"
    return "ok"


def main(build: str, packages_file: str, lint_file: str) -> int:
    total, good = Counts(), True
    print(f"\n{'':16} {'passed':>7} {'failed':>7} {'skipped':>7} {'time':>7}")
    for line in sorted(Path(packages_file).read_text().splitlines()):
        package, status, seconds = line.split()
        counts = counts_of_package(Path(build, package))
        outcome = verdict(counts, int(status))
        total, good = total + counts, good and outcome == "ok"
        print(f"{package:16} {counts.passed:7} {counts.failed:7} {counts.skipped:7} {seconds:>5} s  {outcome}")
    for line in Path(lint_file).read_text().splitlines():
        check, outcome = line.rsplit(" ", 1)
        good = good and outcome == "ok"
        print(f"{check:48} {outcome if outcome == 'ok' else outcome.upper()}")
    print(f"\n{total}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
