"""A page in Chromium, over the pipe of its developer tools: what a script would see of it, as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")
PATIENCE_S = 90.0
"""Also where the machine has much else to do."""
_BEHIND_STANDARD = 10


def find_browser() -> str:
    """Its path; empty where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


class Browser:
    """One window of headless Chromium."""

    def __init__(self, write_to: int, read_from: int) -> None:
        self._out, self._in, self._number, self._left = write_to, read_from, 0, b""
        self._session = ""
        self._events: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")

    def ask(self, method: str, **parameters: Any) -> Any:
        """The answer to a command."""
        self._number += 1
        words = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            words["sessionId"] = self._session
        os.write(self._out, json.dumps(words).encode() + b"\0")
        answer = self._read_until(lambda message: message.get("id") == self._number)
        assert "error" not in answer, answer
        return answer["result"]

    def _read_until(self, wanted: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not wanted(message := self._message(deadline)):
            self._events.append(message.get("method", ""))
        return message

    def _message(self, deadline: float) -> Any:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def show(self, page: Path, width_px: int, scheme: str = "light", medium: str = "screen") -> None:
        """Load the page, with all that is in it."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width_px, height=800, deviceScaleFactor=1, mobile=True)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=medium, features=features)
        self._events.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        if _LOAD not in self._events:
            self._read_until(lambda message: message.get("method") == _LOAD)
        self.run(_FILMS_LOADED)

    def run(self, script: str) -> Any:
        """What the script comes to; promises are waited for."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


_LOAD = "Page.loadEventFired"
_FILMS_LOADED = f"""new Promise(done => {{
  const begun = Date.now();
  const look = () => {{
    const waits = [...document.querySelectorAll("video")].some(film => film.readyState < 2 && !film.error);
    if (!waits || Date.now() - begun > {500 * PATIENCE_S}) done(); else setTimeout(look, 20);
  }};
  look();
}})"""
"""Or given up: tests look at what there is."""


@contextmanager
def browsing(path: str, folder: Path) -> Iterator[Browser]:
    """Chromium from ``path``, with its profile in ``folder``."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    def numbered() -> None:  # the browser reads from 3 and writes to 4
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, _BEHIND_STANDARD) for one in (theirs_in, theirs_out)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    words = [path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--remote-debugging-pipe", f"--user-data-dir={folder}"]  # fmt: skip
    process = subprocess.Popen(
        words, preexec_fn=numbered, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for one in (theirs_in, theirs_out):
        os.close(one)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.close(ours_out)  # Chromium ends with its pipe
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)
