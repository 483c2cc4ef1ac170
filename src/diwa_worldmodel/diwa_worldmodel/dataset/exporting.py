"""``diwa export``: a data set in the format of other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diwa_conventions.errors import UserError, unknown


@dataclass(frozen=True)
class Export:
    """Write a data set as a LeRobot data set (format v3)."""

    data_set: Annotated[Path, tyro.conf.Positional]
    """Data set folder, made by diwa import."""
    out: Path
    """New folder to write."""
    format: Literal["lerobot"] = "lerobot"

    def run(self) -> int:
        """0. UserError or OSError for what the user can mend."""
        from rich.console import Console
        from rich.progress import Progress

        from diwa_worldmodel.dataset.lerobot_export import export_lerobot
        from diwa_worldmodel.dataset.store import open_data_set

        if self.format != "lerobot":
            raise unknown("format", str(self.format), ("lerobot",))
        if self.data_set.resolve() == self.out.resolve():
            raise UserError(f"--out is the data set itself, {self.out}; choose another folder")
        data_set = open_data_set(self.data_set)
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(f"{self.data_set.name} -> {self.out.name}", total=data_set.frames)
            export_lerobot(data_set, self.out, lambda done, total: bar.update(task, completed=done, total=total))
        episodes = sum(len(recording.episodes) for recording in data_set.recordings)
        print(f"wrote {self.out}: {episodes} episodes, {data_set.frames} frames at 7.5 per second")
        return 0
