"""The bounded queue between the callbacks that receive messages and the thread that writes them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """Holds at most ``limit_bytes``: what does not fit is refused, so that memory never grows."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        return self._bytes

    def put(self, item: Item, size: int) -> bool:
        """False if there is no room for ``size`` bytes more; an item of 0 bytes always has room."""
        with self._changed:
            if size and self._bytes + size > self._limit_bytes:
                return False
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify()
            return True

    def get(self, timeout_s: float) -> Item | None:
        """The oldest item, None if none came in time."""
        with self._changed:
            if not self._items and not self._changed.wait_for(lambda: bool(self._items), timeout_s):
                return None
            item, size = self._items.popleft()
            self._bytes -= size
            return item

    def clear(self) -> None:
        with self._changed:
            self._items.clear()
            self._bytes = 0
