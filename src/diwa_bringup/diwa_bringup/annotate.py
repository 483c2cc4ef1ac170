"""``diwa annotate``: a mark in the running recording."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from diwa_bringup.service import call, report
from diwa_conventions.topics import ANNOTATE_SERVICE, NAMESPACE


@dataclass(frozen=True)
class Annotate:
    """Mark that a skill has just been done, or that an attempt at it has just failed.

    Mark failures too: the world model has to learn what failing looks like.
    """

    skill: Positional[str]
    """E.g. open-drawer."""
    failure: bool = False
    """The attempt failed."""
    note: str = ""
    """Free text."""
    namespace: str = NAMESPACE
    """Of the recorder."""

    def run(self) -> int:
        """Ask the recorder; it stamps the mark with the moment of the call."""
        annotation = {"skill": self.skill, "success": not self.failure, "note": self.note}
        return report(call(ANNOTATE_SERVICE, "Annotate", {"annotation": annotation}, self.namespace, "recorder"))
