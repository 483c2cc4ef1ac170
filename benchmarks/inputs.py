"""Kinds of foreign inputs and how many of each are tried: python benchmarks/inputs.py

Runs the tests of the importers on inputs that are made in code, and prints a Markdown table: kind, inputs tried, inputs
that were read rightly or refused with the reason.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from machine import machine, markdown_table

SOURCES = Path(__file__).resolve().parents[1] / "src"
KINDS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "clocks that are set": [
        ("diwa_worldmodel/test/test_clocks.py", ("",)),
        ("diwa_worldmodel/test/test_stamps.py", ("",)),
    ],
    "order of files": [("diwa_msgs/test/test_bag_formats.py", ("test_files_",))],
    "MCAP: chunks, index, summary, compression": [
        ("diwa_msgs/test/test_bag_formats.py", ("test_every_", "test_a_file_that_was_not_closed")),
        ("diwa_worldmodel/test/test_foreign_bags.py", ("test_mcap_files",)),
    ],
    "sqlite3 and rosbag2's compression": [
        ("diwa_msgs/test/test_bag_formats.py", ("test_bags_of_rosbag2", "test_a_bag_of_humble", "test_what_waits",
                                               "test_a_damaged_sqlite")),
        ("diwa_worldmodel/test/test_foreign_bags.py", ("test_a_bag_of_humble",)),
    ],
    "cut off and damaged files": [("diwa_msgs/test/test_bags.py", ("test_truncated", "test_flipped", "test_damage",
                                                                  "test_foreign", "test_missing", "test_metadata"))],
    "message definitions": [
        ("diwa_msgs/test/test_bag_formats.py", ("test_a_message_is_read", "test_two_definitions", "test_types_inside",
                                               "test_without_a_definition", "test_what_cannot", "test_channels")),
        ("diwa_worldmodel/test/test_foreign_bags.py", ("test_gripper_commands", "test_two_definitions",
                                                       "test_a_definition", "test_images_and_joints",
                                                       "test_annotations_of", "test_a_topic_")),
    ],
    "what is left out": [("diwa_worldmodel/test/test_foreign_bags.py", ("test_marks", "test_a_mark", "test_frames",
                                                                        "test_topics", "test_a_lost"))],
    "frame rates": [
        ("diwa_worldmodel/test/test_foreign_bags.py", ("test_where_a_camera", "test_a_camera")),
        ("diwa_worldmodel/test/test_timeline.py", ("",)),
    ],
    "image encodings": [
        ("diwa_msgs/test/test_images.py", ("",)),
        ("diwa_worldmodel/test/test_foreign_bags.py", ("test_images_of_16", "test_images_that_are_not",
                                                       "test_what_unnamed", "test_an_encoding")),
    ],
    "hands": [("diwa_worldmodel/test/test_foreign_bags.py", ("test_two_sliding", "test_of_one", "test_a_hand"))],
    "numbers that cannot be right": [("diwa_worldmodel/test/test_plausible.py", ("",))],
    "CALVIN": [("diwa_worldmodel/test/test_calvin.py", ("",))],
    "LeRobot": [("diwa_worldmodel/test/test_lerobot_import.py", ("",))],
}  # fmt: skip


def main() -> int:
    files = sorted({file for kinds in KINDS.values() for file, _ in kinds})
    outcomes = {file: run(SOURCES / file) for file in files}
    rows = []
    for kind, places in KINDS.items():
        found = [outcome for file, prefixes in places for name, outcome in outcomes[file] if name.startswith(prefixes)]
        rows.append([kind, str(len(found)), str(found.count("passed")), str(found.count("skipped") or "")])
    total = [sum(int(row[column] or 0) for row in rows) for column in (1, 2, 3)]
    rows.append(["all", *(str(count or "") for count in total)])
    print(machine())
    print()
    print(markdown_table(["kind", "inputs", "as expected", "skipped"], rows))
    return 0 if total[0] == total[1] + total[2] else 1


def run(file: Path) -> list[tuple[str, str]]:
    """Name and outcome of each test of a file."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report.name}", f"test/{file.name}"]
        subprocess.run(command, cwd=file.parents[1], stdout=subprocess.DEVNULL, check=False)
        cases = ET.parse(report.name).getroot().iter("testcase")
        return [(case.get("name", ""), _outcome(case)) for case in cases]


def _outcome(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


if __name__ == "__main__":
    sys.exit(main())
