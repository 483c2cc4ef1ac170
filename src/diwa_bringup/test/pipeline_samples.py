"""A ``diwa`` that does in milliseconds what the pipeline can see of the real one: files, exit codes, signals."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SCRIPT = """#!{python} -IS
import hashlib, json, os, pathlib, signal, sys, time

words = sys.argv[1:]
with open(os.environ["FAKE_CALLS"], "a") as calls:
    calls.write(" ".join(words) + "\\n")
verb = words[0]
if verb == os.environ.get("FAKE_HANG"):
    def stop(*_):
        print("stopped in order")
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    pathlib.Path(os.environ["FAKE_CALLS"] + ".hangs").touch()
    time.sleep(60)
out = pathlib.Path(words[words.index("--out") + 1]) if "--out" in words else None
if out and verb == os.environ.get("FAKE_FAIL"):
    out.mkdir(parents=True)
    (out / "partial").touch()
    print("diwa: the cat sits on it")
    sys.exit(2)


def artefact(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps({{"hash": hashlib.sha256(content).hexdigest()}}))


if verb in ("record", "simulate"):
    out.mkdir(parents=True)
    (out / "bag.mcap").write_text(" ".join(words))
elif verb == "import":
    sources = [pathlib.Path(word) for word in words[1 : words.index("--out")]]
    artefact(out, b"".join((source / "bag.mcap").read_bytes() for source in sources))
    (out / "zarr.json").touch()
elif verb == "inspect":
    (pathlib.Path(words[1]) / "quality").mkdir()
elif verb == "train":
    artefact(out / "world_model", (pathlib.Path(words[1]) / "metadata.json").read_bytes())
elif verb == "finetune":
    artefact(out / "policy", b"chosen")
    artefact(out / "last", b"last")
elif verb == "evaluate":
    out.mkdir(parents=True)
    rates = {{"base": 0.5, "policy": 0.9, "last": 0.8}}
    rows = [
        {{"policy": word, "success": {{"value": rates[pathlib.Path(word).name], "low": 0.4, "high": 1.0}},
          "successes": 7, "episodes": 10, "promoted": True, "reasons": []}}
        for word in words[2:] if pathlib.Path(word).name in rates
    ]
    (out / "evaluation.json").write_text(json.dumps({{"policies": rows}}))
elif verb == "report":
    (pathlib.Path(words[1]) / "report.html").touch()
else:
    artefact(out, " ".join(words).encode())
print(f"{{verb}} is done")
print("next: something else")
"""


class FakeDiwa:
    """The commands that came so far."""

    def __init__(self, folder: Path) -> None:
        self.bin, self._calls = folder / "bin", folder / "calls"
        self.bin.mkdir()
        script = self.bin / "diwa"
        script.write_text(_SCRIPT.format(python=sys.executable))
        script.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "FAKE_CALLS": str(self._calls)}

    @property
    def hangs(self) -> bool:
        return self._calls.with_suffix(".hangs").exists()

    def verbs(self) -> list[str]:
        """First words since the last look."""
        calls = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return [call.split()[0] for call in calls]
