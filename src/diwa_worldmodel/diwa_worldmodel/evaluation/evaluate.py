"""``diwa evaluate world-model``: can it be dreamed in?"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diwa_conventions.errors import UserError
from diwa_conventions.rates import TRAIN_RATE_HZ

if TYPE_CHECKING:
    import torch

    from diwa_worldmodel.artefact import LoadedWorldModel
    from diwa_worldmodel.evaluation.play import Play
    from diwa_worldmodel.evaluation.report import Evaluation

FOLDER = "evaluation"
HORIZON = 80
"""Steps of a dream, where episodes are long enough (Fig. S.7)."""
_COMMAND = "diwa evaluate world-model"
_LIMITS = {
    "context": (1, 1000),
    "horizon": (1, 10_000),
    "starts": (1, 100_000),
    "probe_frames": (100, 10_000_000),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class EvaluateWorldModel:
    """Measure a world model on play it has not seen: pictures, probes, uncertainty, films; HTML page, text, JSON."""

    world_model: Annotated[Path, tyro.conf.Positional]
    """World model folder."""
    data: Path
    """Data set that it was trained on, whose held-out episodes are used; or another one."""
    out: Path | None = None
    """Folder for report.html, evaluation.json, strips and films; else evaluation/ in the world model."""
    context: int = 2
    """Frames that are seen before a dream (Fig. S.7)."""
    horizon: int | None = None
    """Steps that are dreamed; by default 80 (Fig. S.7), or as many as the longest episode held out allows."""
    starts: int = 64
    """Dreams, spread evenly over the play."""
    probe_frames: int = 8000
    """Of training episodes, to fit probes to."""
    seed: int = 0
    """Of draws and intervals."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    strict: bool = False
    """End with exit code 1 if any verdict is bad."""

    def run(self) -> int:
        """0, or 1 with ``strict`` and a bad verdict. UserError or OSError for what the user can mend."""
        from rich.console import Console
        from rich.progress import Progress

        from diwa_worldmodel.evaluation.report import to_text, write_evaluation

        self._check()
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("reading", total=None)
            evaluation = self.evaluate(lambda part: bar.update(task, description=part))
            bar.update(task, description="writing films and page")
            page = write_evaluation(evaluation, self.out or self.world_model / FOLDER)
        print(to_text(evaluation))
        print(f"report: {page}")
        return 1 if self.strict and evaluation.overall.level == "bad" else 0

    def evaluate(self, progress: Callable[[str], None] = lambda part: None) -> Evaluation:
        """What :meth:`run` writes."""
        from diwa_worldmodel.artefact import check_data_set, load_world_model
        from diwa_worldmodel.dataset.store import open_data_set
        from diwa_worldmodel.evaluation.measure import Settings, measure_world_model
        from diwa_worldmodel.evaluation.play import open_play
        from diwa_worldmodel.evaluation.report import Evaluation, Origin
        from diwa_worldmodel.evaluation.verdicts import judge

        begun = time.monotonic()
        device = _device(self.device)
        loaded = load_world_model(self.world_model, device)
        data_set = open_data_set(self.data)
        check_data_set(data_set, loaded.config.model, loaded.metadata)
        opened = open_play(loaded, data_set)
        horizon = self.horizon or self._fitting(opened.play)
        settings = Settings(self.context, horizon, self.starts, self.probe_frames, seed=self.seed)
        measured = measure_world_model(loaded.model, opened.play, settings, device, progress)
        step_s = loaded.config.model.action_chunk / TRAIN_RATE_HZ
        return Evaluation(
            origin=Origin(
                world_model=_world_model(self.world_model, loaded),
                data={"name": self.data.resolve().name, "hash": data_set.hash(), "episodes": opened.about},
                command=self.command(),
                machine=_machine(device),
                date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - begun, 1),
            ),
            settings=settings,
            step_s=step_s,
            measured=measured,
            verdicts=judge(measured, opened.warning, step_s),
        )

    def _fitting(self, play: Play) -> int:
        longest = max(episode.length for episode in play.held_out.episodes)
        return max(1, min(HORIZON, longest - self.context))

    def command(self) -> str:
        """What the user could type again."""
        words = [_COMMAND, str(self.world_model)]
        for item in fields(self)[1:]:
            value = getattr(self, item.name)
            if value != item.default:
                option = f"--{item.name.replace('_', '-')}"
                words.append(option if value is True else f"{option} {value}")
        return " ".join(words)

    def _check(self) -> None:
        from diwa_worldmodel.artefact import check_writable

        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is {value}; expected {low} to {high}")
        if self.out is not None or self.world_model.is_dir():
            check_writable(self.out or self.world_model / FOLDER, "the report")


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but there is no GPU that PyTorch can use; choose auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _world_model(folder: Path, loaded: LoadedWorldModel) -> dict[str, Any]:
    path = folder.resolve()
    # A run's world model is called world_model: the run's name says more.
    name = path.parent.name if path.name == "world_model" else path.name
    return {"name": name, "hash": loaded.hash, "preset": loaded.metadata.preset, "steps": loaded.metadata.steps}


def _machine(device: torch.device) -> dict[str, Any]:
    import torch

    from diwa_worldmodel.dataset.recording_writer import software

    versions = software(("diwa_worldmodel", "torch", "numpy", "scipy"))
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": kind, "threads": torch.get_num_threads(), **versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
