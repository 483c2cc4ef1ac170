"""How many episodes are done, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def episodes_bar(about: str, total: int) -> Iterator[Callable[[str], None]]:
    """On stderr, where somebody watches; to be told of every episode, with what is known by then."""
    console = Console(stderr=True)
    columns = (
        TextColumn(about), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"), TimeRemainingColumn(),
        TextColumn("{task.fields[so_far]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, so_far="")
        yield lambda so_far: bar.update(task, advance=1, so_far=so_far)
