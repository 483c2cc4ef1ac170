"""What a real arm's driver says of itself, as the command guard sees it. The playroom has none and says nothing."""

from __future__ import annotations

NOT_READY = "the arm is not ready"
"""How the reason begins."""
FAULT_STAYS = "the fault stays"
"""How the guard's answer begins that cannot recover yet."""


class ArmSide:
    """The newest report of the driver. Nothing is asked of an arm whose driver never reported."""

    def __init__(self) -> None:
        self._ready = True
        self._reason = ""
        self._said: float | None = None

    def take(self, ready: bool, reason: str, now: float) -> None:
        """A report at ``now`` [s]."""
        self._ready, self._reason, self._said = ready, reason, now

    @property
    def trouble(self) -> str:
        """Why the arm does not follow, "" if it does or nobody says otherwise."""
        return "" if self._ready else f"{NOT_READY}: {self._reason or 'its driver gives no reason'}"

    def silence(self, now: float, limit_s: float) -> str:
        """A driver that has reported and does no more: why it is missed, or ""."""
        if self._said is None or now - self._said <= limit_s:
            return ""
        return f"the arm's driver has been silent for more than {limit_s:g} s"
