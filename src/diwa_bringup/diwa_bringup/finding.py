"""What one check of ``diwa doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "no library", "no device", "broken"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    feature: str
    state: State
    detail: str
    mend: str = ""
    """What to do when ``state`` is not ok."""
    required: bool = True

    @property
    def verdict(self) -> str:
        if self.state == "ok":
            return "ok"
        return "MISSING" if self.required else "optional, not there"
