"""The page, the text and the JSON of the quality report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_samples import add_recording, empty_data_set, flawless, noise_images, reports, walk

from diwa_worldmodel.dataset import samples
from diwa_worldmodel.dataset.charts import HEIGHT, WIDTH, histogram_chart, ticks
from diwa_worldmodel.dataset.inspecting import inspect_data_set
from diwa_worldmodel.dataset.motion import Motion
from diwa_worldmodel.dataset.quality import Quality, Skill, clock
from diwa_worldmodel.dataset.records import Annotation, Episode, Histogram, Statistics
from diwa_worldmodel.dataset.report import Report, printable, to_html, to_json, to_text, write_report
from diwa_worldmodel.dataset.samples import scatter
from diwa_worldmodel.dataset.thresholds import Thresholds
from diwa_worldmodel.dataset.verdicts import judge

VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert('x')</script>\"'&<img src=x onerror=alert(1)>\x1b[31m"


class Page(HTMLParser):
    """Fails at tags that do not match; keeps tags, what they point at and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [str(value) for name, value in attributes if name in ("src", "href")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> without its beginning"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _report(quality: Quality) -> Report:
    return Report(quality, judge(quality), Thresholds(), (), None)


def test_a_page_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    marks = [Annotation(30, "open-drawer", True)]
    scene = {"drawer_m": np.linspace(0, 0.1, 60)}
    statistics = Statistics(
        duration_s=8.0, topics=reports(240, 3), camera_skew_ms=Histogram((-5.0, 0.0, 5.0), (9, 51)), warnings=("odd",)
    )
    data_set = add_recording(tmp_path / "set", "a", 60, [(0, 40), (40, 20)], marks, statistics=statistics, scene=scene)
    html = to_html(inspect_data_set(data_set, "a"))
    page = Page(html)

    assert html.startswith("<!DOCTYPE html>")
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in page.tags
    for word in (
        "Verdicts",
        "Film strip",
        "Topics",
        "Episodes",
        "Where the tool was",
        "Actions",
        "Scene",
        "Annotations",
    ):
        assert word in page.text
    assert html.index("Verdicts</h2>") < html.index("In numbers</h2>")


def test_numbers_on_the_page_are_the_measured_ones(tmp_path: Path) -> None:
    statistics = Statistics(duration_s=70.0, topics=reports(1952, 48))
    data_set = add_recording(tmp_path / "set", "monday", 500, [(0, 300), (300, 200)], statistics=statistics)
    report = inspect_data_set(data_set, "play")
    page = Page(to_html(report)).text

    assert "500 frames at 7.5 Hz 498 steps at 7.5 Hz 1,992 steps counted at 30 Hz 2 episodes" in page
    assert "1 min 06 s usable 1 min 10 s recorded" in page
    assert "/diwa/static_camera/image_raw 1,952 30.0 30 48 (2.40%)" in page
    assert "static camera dropped 2.4% of frames; above 1% training suffers" in page
    assert "x 0.300 to 5.290 m" in page
    assert "498 steps at 7.5 Hz, 1992 at 30 Hz" in to_text(report)


def test_hostile_names_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    marks = [Annotation(5, HOSTILE, True, note=HOSTILE)]
    statistics = Statistics(warnings=(HOSTILE,))
    data_set = add_recording(
        tmp_path / "set", "rec<b>ording", 40, annotations=marks, statistics=statistics, scene={HOSTILE: np.arange(40.0)}
    )
    report = inspect_data_set(data_set, HOSTILE)
    html = to_html(report)
    page = Page(html)

    assert "<script>" not in html
    assert not page.handlers
    assert "b" not in page.tags[page.tags.index("ul") : page.tags.index("div")]
    assert page.text.count("<script>alert('x')</script>") >= 4
    assert "\x1b" not in to_text(report)
    assert json.loads(to_json(report))["skills"][0]["name"] == HOSTILE


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_any_skill_name_keeps_the_page_well_formed(name: str) -> None:
    quality = replace(flawless(), skills=(Skill(name, 50, 1),), name=name)

    Page(to_html(_report(quality)))


@settings(deadline=None)
@given(st.text())
def test_the_text_holds_nothing_that_steers_a_terminal(words: str) -> None:
    assert all(c.isprintable() for c in printable(words))
    assert len(printable(words)) == len(words)


def test_a_data_set_without_recordings_says_so_plainly(tmp_path: Path) -> None:
    report = inspect_data_set(empty_data_set(tmp_path / "set"), "nothing")
    page = Page(to_html(report)).text

    assert "the data set holds no frames; fill it with: diwa import" in page
    assert "Film strip" not in page
    assert to_text(report).splitlines()[-1] == "nothing: not fit for training: 1 fault, 0 warnings"
    assert json.loads(to_json(report))["overall"]["level"] == "bad"


def test_one_episode_without_annotations_scene_or_topics_has_a_page(tmp_path: Path) -> None:
    page = Page(to_html(inspect_data_set(add_recording(tmp_path / "set", "a", 2), "a"))).text

    assert "The state of the scene (drawer, slider, lights) is not known" in page
    assert "Not known: the sources hold no messages" in page
    assert "The skew between the cameras is not known" in page
    assert "Annotations None." in page


def test_a_tool_that_never_moved_has_a_page(tmp_path: Path) -> None:
    data_set = add_recording(tmp_path / "set", "a", 20, proprio=walk(20, step_m=0.0), scene={"drawer_m": np.zeros(20)})

    assert "1 cube of 5 cm visited" in Page(to_html(inspect_data_set(data_set, "a"))).text


def test_json_holds_verdicts_thresholds_and_all_numbers() -> None:
    content = json.loads(to_json(_report(flawless())))

    assert (content["format"], content["version"]) == ("diwa-quality", 1)
    assert content["overall"]["level"] == "ok"
    assert {verdict["level"] for verdict in content["verdicts"]} == {"ok"}
    assert content["thresholds"]["dropped_warn"] == 0.01
    assert (content["steps"], content["steps_30_hz"]) == (8990, 35960)
    assert content["topics"][0]["topic"] == "/diwa/static_camera/image_raw"


def test_the_text_has_one_line_for_each_verdict_and_the_overall_one_last() -> None:
    lines = to_text(_report(replace(flawless(), skills=()))).splitlines()

    assert lines[0] == (
        "flawless: 19 min 59 s usable of 20 min 10 s recorded, 9000 frames in 10 episodes from 1 recording"
    )
    assert sum(line.startswith("WARN  annotations: ") for line in lines) == 1
    assert lines[-1] == "flawless: usable, with 1 warning"


def test_large_pictures_and_many_annotations_fit_a_small_page(tmp_path: Path) -> None:
    marks = [Annotation(i % 60, f"skill {i}", bool(i % 2)) for i in range(3000)]
    data_set = add_recording(
        tmp_path / "set", "a", 60, annotations=marks,
        static=noise_images(60, 1, size=512), gripper=noise_images(60, 2, size=512),
    )  # fmt: skip
    html = to_html(inspect_data_set(data_set, "a"))

    assert len(html) < 2_000_000
    assert "and 2800 more" in Page(html).text


def test_the_scatter_of_half_a_million_frames_is_thinned() -> None:
    frames = 500_000
    motion = Motion(
        walk(frames, 1e-6), np.ones((frames, 7), np.float32), np.arange(frames), (Episode(0, frames),), (0,), ("a",), {}
    )
    points = scatter(motion)

    assert len(points.positions_m) == len(points.opened) == samples.SCATTER_POINTS
    assert points.positions_m[-1, 0] == pytest.approx(motion.proprio[-1, 0])


def test_reports_are_written_whole_and_over_old_ones(tmp_path: Path) -> None:
    page = write_report(_report(flawless()), tmp_path / "new" / "folder")
    write_report(_report(replace(flawless(), name="second")), tmp_path / "new" / "folder")

    assert page == tmp_path / "new" / "folder" / "report.html"
    assert "<h1>second</h1>" in page.read_text(encoding="utf-8")
    assert sorted(file.name for file in page.parent.iterdir()) == ["quality.json", "report.html"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50), st.booleans())
def test_bars_stay_in_their_chart(counts: list[int], log: bool) -> None:
    edges = tuple(float(i) for i in range(len(counts) + 1))
    chart = histogram_chart("x", "m", Histogram(edges, tuple(counts)), log)

    assert len(chart.bars) == sum(count > 0 for count in counts)
    for bar in chart.bars:
        assert 0.0 <= bar.x and bar.x + bar.width <= WIDTH + 0.02
        assert -0.02 <= bar.y and bar.y + bar.height == pytest.approx(HEIGHT, abs=0.02)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_numbers_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)

    assert 1 <= len(found) <= 8
    assert all(-1e-6 <= tick.share <= 1.0 + 1e-6 for tick in found)


def test_times_are_said_as_a_person_would() -> None:
    assert [clock(seconds) for seconds in (0, 8.2, 59.7, 750, 14_720)] == [
        "0 s",
        "8 s",
        "1 min 00 s",
        "12 min 30 s",
        "4 h 05 min",
    ]
