"""The page of a run: what is on it, and how it looks in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_samples as samples
from report_browser import Browser, browsing, find_browser

from diwa_bringup.report import figures, page
from diwa_bringup.report.evaluations import Latency
from diwa_bringup.report.report import Report
from diwa_bringup.report.run_folder import read_run
from diwa_conventions.errors import UserError
from diwa_policy.evaluation.wilson import Rate

LARGEST_PAGE = 15_000_000
PHONE_PX, DESK_PX = 360, 1200
PAPER_PX = 718
"""A4 less its margins."""
VOID = {"meta", "img", "br", "line", "rect", "polyline", "polygon", "circle"}
HOSTILE = "<script>alert('x')</script><img src=x>"

PARTS = {
    "evaluation": ("Success offline", "diwa evaluate policy {run}/base {run}/finetuned/policy {run}/finetuned/last"),
    "evaluation_ros": ("Success over ROS", "--env ros"),
    "finetuned/trust.json": ("Dreamed success of the checkpoints", "diwa finetune {run}/world_model/world_model"),
    "finetuned/evaluation": ("The truth of every checkpoint", "diwa evaluate finetuning {run}/finetuned"),
    "world_model/world_model/evaluation": ("Quality of the world model", "diwa evaluate world-model {run}/world_model"),
    "data/play": ("Quality of the data, play", "diwa inspect {run}/data/play"),
    "data/demos": ("Quality of the data, demonstrations", "diwa inspect {run}/data/demos"),
    "reward/reward.json": ("Calibration of the classifier", f"--task {samples.TASK} --out {{run}}/reward"),
    "pipeline.json": ("Stages and their times", "diwa pipeline"),
}
"""What is taken away, and the line that stands there then."""


class Page(HTMLParser):
    """Fails at tags that do not match; keeps tags, what they point at and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.lines: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.lines).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [str(value) for name, value in attributes if name in ("src", "href")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.lines.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.whole_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    return Report(whole).write().read_text(encoding="utf-8")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


# Content


def test_the_page_needs_nothing_else(html: str) -> None:
    found = Page(html)
    assert "script" not in found.tags and "link" not in found.tags
    assert {source.partition(",")[0] for source in found.sources if not source.startswith("#")} == {
        "data:image/jpeg;base64", "data:video/mp4;base64"
    }  # fmt: skip
    assert "url(" not in html and len(html) < LARGEST_PAGE


def test_every_part_of_a_whole_run_is_there(html: str) -> None:
    found = Page(html)
    assert "not here yet" not in found.text
    for words in (
        "promoted, and better: 60.5% -> 91.0% success", "offline and over ROS agree", "182 of 200", "18 of 20",
        "before : failure after 0.8 s, start 7", "after : success after 0.8 s, start 7", "of the fine-tuned policy",
        "30 chosen", "Recorded above dreamed", "median: 31 of 64 are worse", "31 and 5", "expected error 2.0%",
        "8 of 10", "image stamp to action", "f" * 12, "diwa train data/play", "5 min 30 s", "failed",
        "device a CPU, cores 2", "2026-11-21 12:00 UTC", "torch 2.13.0",
    ):  # fmt: skip
        assert words in found.text
    assert "write the page" in found.text and "running" not in found.text  # its command alone
    assert found.tags.count("video") == 3 and found.tags.count("img") == 4


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_there_is_one_line_with_its_command(run: Path, part: str) -> None:
    path = run / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Page(page.render(read_run(run))).text
    words, command = PARTS[part]
    assert re.search(re.escape(words) + ": not here yet, made by [^:]*" + re.escape(command.format(run=run)), text)
    assert text.count("What was made from what") == 1


def test_artefacts_that_are_not_there_are_one_line_with_their_command(tmp_path: Path) -> None:
    samples.pipeline(tmp_path / "pipeline.json")
    text = Page(page.render(read_run(tmp_path))).text
    assert f"Learned artefacts: not here yet, made by diwa train {tmp_path}/data/play" in text
    assert f"Latency of served actions: not here yet, made by diwa evaluate policy {tmp_path}/base" in text


def test_without_a_dream_of_the_policy_the_world_models_stands_in(run: Path) -> None:
    (run / "finetuned/dream.mp4").unlink()
    text = Page(page.render(read_run(run))).text
    assert "dream : of the world model along recorded actions" in text


def test_words_from_outside_are_escaped(run: Path) -> None:
    for path in run.rglob("*.json"):
        path.write_text(path.read_text(encoding="utf-8").replace(samples.TASK, HOSTILE), encoding="utf-8")
    found = Page(page.render(read_run(run)))
    assert HOSTILE in found.text and "script" not in found.tags


def test_the_page_is_written_where_it_is_wanted(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / "page.html"
    assert Report(whole, out).run() == 0
    assert f"report: {out} (" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    with pytest.raises(UserError, match="is a folder"):
        Report(whole, tmp_path).run()


def test_a_run_that_cannot_be_read_leaves_the_last_page(run: Path) -> None:
    before = Report(run).write().read_bytes()
    (run / "reward/reward.json").write_text("{")
    with pytest.raises(UserError):
        Report(run).write()
    assert (run / "report.html").read_bytes() == before


# Figures


def test_dream_and_truth_stand_over_their_iterations(whole: Path) -> None:
    run = read_run(whole)
    assert run.fine_tuning
    chart = figures.dream_vs_truth(run.fine_tuning, {0: Rate(0.5, 0.25, 0.75), 31: Rate(1.0, 0.5, 1.0)}, False)
    assert [line.name for line in chart.lines] == ["dreamed"]
    assert chart.lines[0].points.split()[0] == "0.0,22.4" and chart.lines[0].points.split()[-1].startswith("100.0,")
    assert [tuple(vars(mark).values()) for mark in chart.marks] == [(0.0, 28.0, 42.0, 14.0), (100.0, 0.0, 28.0, 0.0)]
    assert [line.name for line in figures.dream_vs_truth(run.fine_tuning, run.truth, True).lines] == ["true", "dreamed"]


def test_the_gap_is_dreamed_less_true(whole: Path) -> None:
    run = read_run(whole)
    assert run.fine_tuning
    rows = {one.iteration: one for one in figures.checkpoint_rows(run, run.fine_tuning)}
    assert (rows[30].dreamed, rows[30].true, rows[30].optimism, rows[30].chosen) == ("99.0%", "90.0%", "+9", True)


def test_a_signal_below_zero_is_inside_its_chart(whole: Path) -> None:
    run = read_run(whole)
    assert run.fine_tuning
    for chart in figures.signal_charts(run.fine_tuning):
        heights = [float(point.split(",")[1]) for point in chart.lines[0].points.split()]
        assert len(heights) == 4 and min(heights) >= 0.0 and max(heights) <= 56.0


def test_latency_is_told_by_its_quantiles_and_counted_whole() -> None:
    times = tuple(float(number) for number in range(1, 101))
    (one,) = figures.timings(Latency(times, (), ()))
    assert (one.name, one.p50, one.largest, one.count) == ("image stamp to action", 50.5, 100.0, 100)
    assert one.p99 == pytest.approx(99.01)
    assert sum(int(re.search(r": (\d+) ", bar.tip)[1]) for bar in one.chart.bars) == 100  # type: ignore[index]


def test_equal_latencies_make_a_figure() -> None:
    (one,) = figures.timings(Latency((), (), (0.0, 0.0)))
    assert (one.p50, one.p99, len(one.chart.bars)) == (0.0, 0.0, 1)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = find_browser()
    if not path:
        pytest.skip("no Chromium on this machine; it is looked for as chromium or google-chrome on PATH")
    with browsing(path, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


MEDIA = """({
  images: [...document.images].map(one => one.complete && one.naturalWidth),
  films: [...document.querySelectorAll("video")].map(one => one.readyState >= 2 && !one.error && one.videoWidth),
  shown: [...document.querySelectorAll("video")].map(one => one.getBoundingClientRect().width),
})"""

OVERFLOWING = """(() => {
  const wide = document.documentElement.clientWidth;
  const scrolls = one => one && (getComputedStyle(one).overflowX == "auto" || scrolls(one.parentElement));
  const out = [...document.body.querySelectorAll("*")].filter(
    one => !one.ownerSVGElement && one.getBoundingClientRect().right > wide + 1 && !scrolls(one));
  return { wide, needed: document.documentElement.scrollWidth, out: out.map(one => one.outerHTML.slice(0, 80)) };
})()"""


@pytest.fixture(scope="module")
def written(whole: Path, html: str) -> Path:
    return whole / "report.html"


@pytest.mark.parametrize("width_px", [PHONE_PX, DESK_PX])
def test_every_image_and_film_loads(browser: Browser, written: Path, width_px: int) -> None:
    browser.show(written, width_px)
    found = browser.run(MEDIA)
    assert found["images"] == [1200, 1200, 1200, 1272]
    assert found["films"] == [800, 800, 800]
    assert all(0 < shown < width_px for shown in found["shown"])


@pytest.mark.parametrize(("width_px", "medium"), [(PHONE_PX, "screen"), (DESK_PX, "screen"), (PAPER_PX, "print")])
def test_nothing_overflows(browser: Browser, written: Path, width_px: int, medium: str) -> None:
    browser.show(written, width_px, medium=medium)
    found = browser.run(OVERFLOWING)
    assert found["out"] == []
    assert found["wide"] == width_px and found["needed"] <= width_px


def test_nothing_overflows_where_parts_are_missing_and_words_are_long(
    browser: Browser, run: Path, tmp_path: Path
) -> None:
    for name in ("evaluation_ros", "finetuned", "data", "reward"):
        shutil.rmtree(run / name)
    for path in run.rglob("*.json"):
        path.write_text(path.read_text(encoding="utf-8").replace(samples.TASK, "move-the-slider_" * 20))
    browser.show(Report(run, tmp_path / "page.html").write(), PHONE_PX)
    found = browser.run(OVERFLOWING)
    assert found["out"] == [] and found["needed"] <= PHONE_PX


def test_dark_is_dark_and_paper_is_white(browser: Browser, written: Path) -> None:
    def brightness(**looks: Any) -> tuple[int, int]:
        browser.show(written, DESK_PX, **looks)
        colours = browser.run(
            "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
        )
        page_, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        return page_, text

    assert brightness(scheme="dark")[0] < 100 < 600 < brightness(scheme="dark")[1]
    for paper in (brightness(), brightness(scheme="dark", medium="print")):
        assert paper[0] > 700 and paper[1] < 150


def test_paper_has_stills_in_the_place_of_films(browser: Browser, written: Path) -> None:
    visible = "['video', '.stills'].map(one => document.querySelector(one).getBoundingClientRect().height > 0)"
    browser.show(written, DESK_PX)
    assert browser.run(visible) == [True, False]
    browser.show(written, DESK_PX, medium="print")
    assert browser.run(visible) == [False, True]


def test_a_broken_film_would_be_seen(browser: Browser, html: str, tmp_path: Path) -> None:
    """That the checks above can fail."""
    broken = re.sub(r"data:video/mp4;base64,.{100}", "data:video/mp4;base64," + "A" * 100, html, count=1)
    (tmp_path / "broken.html").write_text(broken.replace("<main>", '<main><p style="width: 2000px">.</p>', 1))
    browser.show(tmp_path / "broken.html", PHONE_PX)
    assert browser.run(MEDIA)["films"] == [False, 800, 800]
    assert browser.run(OVERFLOWING)["out"]
