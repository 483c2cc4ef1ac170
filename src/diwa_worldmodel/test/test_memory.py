"""Memory that is freed and taken again costs no page faults once training has asked for that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = 64 * 2**20 // 4096
ROUNDS = 3
COUNT_FAULTS = f"""
import resource, sys
from diwa_worldmodel.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
bytearray(4096 * {PAGES})
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    bytearray(4096 * {PAGES})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Of three blocks of 64 MiB that are filled and freed, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    assert page_faults("kept") < PAGES // 10
    assert page_faults("not kept") > PAGES
