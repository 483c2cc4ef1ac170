"""``diwa inspect``: a report that tells whether a recording is any good."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diwa_conventions.errors import UserError

if TYPE_CHECKING:
    from diwa_worldmodel.dataset.report import Report
    from diwa_worldmodel.dataset.store import DataSet, Progress

FOLDER = "quality"


@dataclass(frozen=True)
class Inspect:
    """Report whether a data set, or a recording that is not imported yet, is any good: text, HTML page, JSON."""

    path: Annotated[Path, tyro.conf.Positional]
    """Data set folder; or a bag, CALVIN folder or LeRobot data set, which is imported for the time being."""
    out: Path | None = None
    """Folder for report.html and quality.json; else quality/ in the data set, or ./quality_NAME/ for a recording."""
    strict: bool = False
    """End with exit code 1 if any verdict is bad."""

    def run(self) -> int:
        """0, or 1 with ``strict`` and a bad verdict. UserError or OSError for what the user can mend."""
        from rich.console import Console
        from rich.progress import Progress

        from diwa_worldmodel.dataset.report import to_text, write_report

        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file; expected a folder for the report")
        name = recording_name(self.path)
        with _opened(self.path) as opened:
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("looking at pictures", total=None)
                report = inspect_data_set(
                    opened.data_set,
                    name,
                    opened.failed,
                    lambda done, total: bar.update(task, completed=done, total=total),
                )
            page = write_report(report, self.out or (self.path / FOLDER if opened.stays else Path(f"quality_{name}")))
        print(to_text(report))
        print(f"report: {page}")
        return 1 if self.strict and report.overall.level == "bad" else 0


def recording_name(path: Path) -> str:
    """What the report calls it: the name of the folder or file."""
    return path.resolve().name.removesuffix(".mcap") or "root"


def inspect_data_set(
    data_set: DataSet, name: str, failed: Sequence[str] = (), progress: Progress = lambda done, total: None
) -> Report:
    """Measure and judge a data set; ``failed`` says in a line each which recordings could not be imported into it."""
    from diwa_worldmodel.dataset.measuring import measure
    from diwa_worldmodel.dataset.motion import load_motion
    from diwa_worldmodel.dataset.report import Report
    from diwa_worldmodel.dataset.samples import film_strip, look_at_images, scatter
    from diwa_worldmodel.dataset.thresholds import Thresholds
    from diwa_worldmodel.dataset.verdicts import judge

    motion = load_motion(data_set.recordings)
    quality = measure(data_set, name, motion, look_at_images(data_set, progress), failed)
    limits = Thresholds()
    film = film_strip(data_set, motion)
    return Report(quality, judge(quality, limits), limits, film, scatter(motion) if motion.frames else None)


@dataclass(frozen=True)
class _Opened:
    data_set: DataSet
    failed: tuple[str, ...] = ()
    stays: bool = True
    """It is the user's own, not one for the time being."""


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """The data set at ``path``, or one imported from it that lasts as long. UserError if it is neither."""
    from diwa_worldmodel.dataset.config import DataSetConfig
    from diwa_worldmodel.dataset.importing import find_sources, import_all, is_data_set
    from diwa_worldmodel.dataset.store import create_data_set, open_data_set

    if not path.exists():
        raise UserError(f"there is no {path}; expected a data set, or a bag, CALVIN or LeRobot folder")
    if is_data_set(path):
        yield _Opened(open_data_set(path))
        return
    sources = [source for source, _ in find_sources([path])]
    with tempfile.TemporaryDirectory(prefix="diwa-inspect-") as folder:
        out = Path(folder, "data_set")
        create_data_set(out, DataSetConfig())
        failed = tuple(import_all(sources, out))
        if len(failed) == len(sources):
            raise UserError(failed[0] + (f" (and {len(failed) - 1} more like it)" if len(failed) > 1 else ""))
        yield _Opened(open_data_set(out), failed, stays=False)
