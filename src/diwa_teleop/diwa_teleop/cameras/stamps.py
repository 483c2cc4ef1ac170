"""When an image was taken: a device's own clock on this machine's, and recordings played at their own speed."""

from __future__ import annotations

import time
from collections.abc import Callable

_WINDOW_NS = 10 * 10**9
_JUMP_NS = 10**9


class DeviceClock:
    """Maps a device's time to this machine's by the least delayed image of the last 10 to 20 s.

    Images are delayed by anything from little to much; the device's clock runs evenly, but from another start and a
    little faster or slower. The least delayed image tells the offset; the window follows the drift. So stamps are as
    even as the device's, never later than the arrival, and late by the camera's least delay, which no one here knows.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        """Least arrival - device in this window."""
        self._older_ns: int | None = None
        """The same of the window before."""
        self._begin_ns = 0
        self._stamp_ns = 0

    def stamp_ns(self, device_ns: int, arrival_ns: int) -> int:
        """The moment of an image by this machine's clock; later than that of the image before.

        A leap of either clock by over 1 s, such as a recording that begins anew, begins a new mapping.
        """
        offset_ns = arrival_ns - device_ns
        if self._offset_ns is None or abs(offset_ns - self._offset_ns) > _JUMP_NS:
            self._offset_ns, self._older_ns, self._begin_ns = offset_ns, None, arrival_ns
        if arrival_ns - self._begin_ns > _WINDOW_NS:
            self._older_ns, self._offset_ns, self._begin_ns = self._offset_ns, offset_ns, arrival_ns
        self._offset_ns = min(self._offset_ns, offset_ns)
        least_ns = self._offset_ns if self._older_ns is None else min(self._offset_ns, self._older_ns)
        stamp_ns = device_ns + least_ns
        if self._stamp_ns < arrival_ns:
            stamp_ns = max(stamp_ns, self._stamp_ns + 1)
        self._stamp_ns = stamp_ns
        return stamp_ns


class Playing:
    """Holds a recording's images back until they are due; those that are late come at once, none is skipped."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._begin_s: float | None = None

    def is_due(self, media_s: float, timeout_s: float) -> bool:
        """Wait until the image at ``media_s`` of the recording is due, at most ``timeout_s``; whether it is."""
        now_s = self._clock()
        if self._begin_s is None:
            self._begin_s = now_s - media_s
        wait_s = self._begin_s + media_s - now_s
        if wait_s > 0.0:
            self._sleep(min(wait_s, timeout_s))
        return wait_s <= timeout_s
