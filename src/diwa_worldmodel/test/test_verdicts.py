"""Every verdict comes beyond its threshold and not at it, and says what was found, the limit and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from quality_samples import flawless, with_images, with_topic

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.quality import VOXEL_M, Quality, SceneQuantity, Skill
from diwa_worldmodel.dataset.records import Histogram
from diwa_worldmodel.dataset.thresholds import Thresholds
from diwa_worldmodel.dataset.verdicts import Verdict, judge, overall

LIMITS = Thresholds()


def _changed(**parts: dict[str, object]) -> Quality:
    """Flawless but for these fields of these parts."""
    quality = flawless()
    return replace(quality, **{name: replace(getattr(quality, name), **to) for name, to in parts.items()})


def _skewed(p95: float) -> Quality:
    return _changed(skew={"percentiles_ms": {"p50": 1.0, "p95": p95, "p99": p95}})


def _dropped(dropped: int) -> Quality:
    return with_topic(0, messages=10_000 - dropped, dropped=dropped)


def _lasting(minutes: float) -> Quality:
    return replace(flawless(), usable_s=60.0 * minutes)


def _left_out(count: int) -> Quality:
    return replace(flawless(), frames=1000 - count, frames_left_out={"gap": count, "command": 500})


def _short(frames: int) -> Quality:
    return _changed(episodes={"short": 3, "short_frames": frames})


def _saturated(translation: int = 0, rotation: int = 0) -> Quality:
    return _changed(saturation={"steps": 1000, "translation": translation, "rotation": rotation})


def _litres(litres: float) -> Quality:
    return _changed(workspace={"voxels": round(litres / 1000.0 / VOXEL_M**3)})


def _same(count: int) -> Quality:
    return _changed(images={"same": count})


def _drawer(high: float) -> Quality:
    return replace(flawless(), scene=(SceneQuantity("drawer_m", 0.0, high, 1, Histogram()),))


CASES: list[tuple[str, str, Callable[[], Quality], Callable[[], Quality]]] = [
    ("dropped frames", "warn", lambda: _dropped(100), lambda: _dropped(101)),
    ("dropped frames", "bad", lambda: _dropped(500), lambda: _dropped(501)),
    ("camera rate", "warn", lambda: with_topic(oddest_rate_hz=28.5), lambda: with_topic(oddest_rate_hz=28.4)),
    ("camera rate", "warn", lambda: with_topic(1, oddest_rate_hz=7.5), lambda: with_topic(1, oddest_rate_hz=10.0)),
    ("camera rate", "warn", lambda: with_topic(1, oddest_rate_hz=15.0), lambda: with_topic(1, oddest_rate_hz=5.0)),
    ("late frames", "warn", lambda: with_topic(late=720), lambda: with_topic(late=721)),
    ("order of stamps", "warn", lambda: with_topic(duplicates=360), lambda: with_topic(duplicates=200, backwards=161)),
    ("camera skew", "warn", lambda: _skewed(10.0), lambda: _skewed(10.1)),
    ("camera skew", "bad", lambda: _skewed(20.0), lambda: _skewed(20.1)),
    ("frames left out", "warn", lambda: _left_out(50), lambda: _left_out(51)),
    ("frames left out", "bad", lambda: _left_out(200), lambda: _left_out(201)),
    ("action saturation", "warn", lambda: _saturated(translation=50), lambda: _saturated(translation=51)),
    ("action saturation", "warn", lambda: _saturated(rotation=50), lambda: _saturated(rotation=51)),
    ("still time", "warn", lambda: _changed(stillness={"share": 0.3}), lambda: _changed(stillness={"share": 0.301})),
    ("amount", "warn", lambda: _lasting(10.0), lambda: _lasting(9.9)),
    ("episode lengths", "warn", lambda: _short(900), lambda: _short(901)),
    ("workspace coverage", "warn", lambda: _litres(5.0), lambda: _litres(4.9)),
    ("scene", "warn", lambda: _drawer(0.1), lambda: _drawer(0.0)),
    (
        "gripper events",
        "warn",
        lambda: _changed(gripper={"per_minute": 1.0}),
        lambda: _changed(gripper={"per_minute": 0.9}),
    ),
    ("annotations", "warn", flawless, lambda: replace(flawless(), skills=())),
    (
        "annotations",
        "warn",
        lambda: replace(flawless(), skills=(Skill("open-drawer", 50, 1),)),
        lambda: replace(flawless(), skills=(Skill("open-drawer", 50, 0),)),
    ),
    (
        "demonstrations",
        "warn",
        lambda: replace(flawless(), skills=(Skill("open-drawer", 20, 5),)),
        lambda: replace(flawless(), skills=(Skill("open-drawer", 19, 5),)),
    ),
    ("pictures", "warn", lambda: with_images(blank=1), lambda: with_images(blank=2)),
    ("pictures", "bad", lambda: with_images(blank=20), lambda: with_images(blank=21)),
    ("pictures", "warn", lambda: with_images(dark=50), lambda: with_images(dark=51)),
    ("pictures", "warn", lambda: with_images(frozen=9), lambda: with_images(frozen=10)),
    ("pictures", "bad", lambda: with_images(frozen=90), lambda: with_images(frozen=91)),
    ("pictures", "bad", lambda: _same(500), lambda: _same(501)),
    ("recordings", "bad", flawless, lambda: replace(flawless(), not_imported=("tuesday: cut off",))),
]


def _levels(quality: Quality, check: str) -> set[str]:
    return {verdict.level for verdict in judge(quality, LIMITS) if verdict.check == check}


@pytest.mark.parametrize(("check", "level", "allowed", "beyond"), CASES)
def test_a_verdict_comes_beyond_its_threshold_and_not_at_it(
    check: str, level: str, allowed: Callable[[], Quality], beyond: Callable[[], Quality]
) -> None:
    assert level not in _levels(allowed(), check)
    assert level in _levels(beyond(), check)


@pytest.mark.parametrize(("check", "level", "allowed", "beyond"), CASES)
def test_a_fault_is_the_only_one_that_is_found(
    check: str, level: str, allowed: Callable[[], Quality], beyond: Callable[[], Quality]
) -> None:
    assert {verdict.check for verdict in judge(beyond()) if verdict.level != "ok"} == {check}


def test_flawless_play_passes_every_check() -> None:
    verdicts = judge(flawless())

    assert {verdict.level for verdict in verdicts} == {"ok"}
    assert overall(verdicts) == Verdict("overall", "ok", f"good: all {len(verdicts)} checks passed")


def test_a_sentence_names_found_value_limit_consequence_and_remedy() -> None:
    (found,) = (one.sentence for one in judge(_dropped(410)) if one.level == "warn")

    assert found.startswith("static camera dropped 4.1% of frames; above 1% training suffers: check the USB bandwidth")


def test_every_sentence_of_a_fault_ends_in_what_to_do() -> None:
    for _, _, _, beyond in CASES:
        for verdict in judge(beyond()):
            assert "\n" not in verdict.sentence
            assert verdict.level == "ok" or ":" in verdict.sentence


def test_the_recording_that_lost_most_is_named_where_there_are_several() -> None:
    quality = with_topic(0, dropped=3600, worst_dropped=0.3, worst_recording="tuesday")
    several = replace(quality, recordings=quality.recordings * 2)

    assert any("(most in tuesday: 30%)" in verdict.sentence for verdict in judge(several))


def test_bad_verdicts_come_first_and_decide_the_overall_one() -> None:
    verdicts = judge(replace(_skewed(25.0), skills=()))

    assert [verdict.level for verdict in verdicts][:2] == ["bad", "warn"]
    assert overall(verdicts).level == "bad"
    assert overall(verdicts).sentence == "not fit for training: 1 fault, 1 warning"
    assert overall(judge(replace(flawless(), skills=()))).sentence == "usable, with 1 warning"


def test_what_is_not_known_is_not_judged() -> None:
    quality = replace(flawless(), topics=(), scene=(), skew=replace(flawless().skew, percentiles_ms=None))
    checks = {verdict.check for verdict in judge(quality)}

    assert not checks & {"dropped frames", "late frames", "camera rate", "camera skew", "scene"}


def test_frames_from_before_the_first_command_are_no_loss() -> None:
    quality = replace(flawless(), frames_left_out={"command": 9000})

    assert _levels(quality, "frames left out") == {"ok"}


def test_a_data_set_without_frames_has_one_verdict() -> None:
    (verdict,) = judge(replace(flawless(), frames=0))

    assert verdict.level == "bad"
    assert "holds no frames" in verdict.sentence


def test_thresholds_can_be_changed_and_refuse_nonsense() -> None:
    assert any(one.level == "warn" for one in judge(_dropped(50), Thresholds(dropped_warn=0.001)))
    for item in fields(Thresholds):
        with pytest.raises(UserError, match=f"Thresholds.{item.name} is nan"):
            Thresholds(**{item.name: float("nan")})
