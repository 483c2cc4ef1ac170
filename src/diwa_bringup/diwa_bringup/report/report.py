"""``diwa report``: one page that tells what happened in a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diwa_conventions.errors import UserError

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """Tell what happened in a run on one HTML page that needs nothing else: films and figures are inside.

    A part whose files are not there yet is left out, with the command that makes it.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Of the run, as diwa pipeline makes it."""
    out: Path | None = None
    """The page; if not given, report.html in the run's folder."""

    def run(self) -> int:
        """0. UserError or OSError for what the user can mend."""
        page = self.write()
        print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")
        return 0

    def write(self) -> Path:
        """The page, written in one step; its path."""
        from diwa_bringup.report.page import render
        from diwa_bringup.report.run_folder import read_run

        page = self.out or self.folder / PAGE
        if page.is_dir():
            raise UserError(f"--out {page} is a folder; expected the file to write, for instance {page / PAGE}")
        html = render(read_run(self.folder))
        page.parent.mkdir(parents=True, exist_ok=True)
        new = page.with_name(f".{page.name}.new")
        new.write_text(html, encoding="utf-8")
        os.replace(new, page)
        return page
