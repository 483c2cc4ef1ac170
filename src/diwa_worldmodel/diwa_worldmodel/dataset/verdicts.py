"""Judges a :class:`Quality`: what was found, the limit, what follows for training and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from diwa_conventions.rates import RECORD_RATE_HZ, TRAIN_RATE_HZ
from diwa_worldmodel.dataset.measuring import CONSTANT
from diwa_worldmodel.dataset.quality import (
    SHORT_EPISODE_S,
    CameraImages,
    Quality,
    TopicQuality,
    clock,
    counted,
    off_multiple,
    share,
)
from diwa_worldmodel.dataset.thresholds import Thresholds

Level: TypeAlias = Literal["ok", "warn", "bad"]

CAMERAS = {"static_image": "static camera", "gripper_image": "gripper camera"}
"""Names of the cameras by the role of their topic."""
_TASK_PARTS = ("drawer", "slide", "switch", "light", "led")
"""Words in the names of scene quantities that tasks are about."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check, in one sentence."""

    check: str
    level: Level
    sentence: str


def judge(quality: Quality, limits: Thresholds = Thresholds()) -> tuple[Verdict, ...]:  # noqa: B008  (frozen)
    """All verdicts, the worst first; checks whose facts are not known are left out."""
    if not quality.frames:
        sentence = "the data set holds no frames; fill it with: diwa import BAG --out DATASET"
        return (Verdict("amount", "bad", sentence),)
    verdicts = [verdict for check in _CHECKS for verdict in check(quality, limits)]
    return tuple(sorted(verdicts, key=lambda verdict: ("bad", "warn", "ok").index(verdict.level)))


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """One line for all."""
    counts = {level: sum(verdict.level == level for verdict in verdicts) for level in ("ok", "warn", "bad")}
    if counts["bad"]:
        words = f"not fit for training: {counted(counts['bad'], 'fault')}, {counted(counts['warn'], 'warning')}"
        return Verdict("overall", "bad", words)
    if counts["warn"]:
        return Verdict("overall", "warn", f"usable, with {counted(counts['warn'], 'warning')}")
    return Verdict("overall", "ok", f"good: all {counts['ok']} checks passed")


def _level(value: float, warn: float, bad: float = math.inf) -> Level:
    """A value on the limit is still allowed."""
    return "bad" if value > bad else "warn" if value > warn else "ok"


def _percent(value: float) -> str:
    """With one digit behind the point, two for less than 1%; none that are zero."""
    return f"{100 * value:.{1 if value >= 0.01 else 2}f}".rstrip("0").rstrip(".") + "%"


def _cameras(quality: Quality) -> Iterator[tuple[str, TopicQuality]]:
    return ((CAMERAS[topic.role], topic) for topic in quality.topics if topic.role in CAMERAS)


def _amount(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    minutes = quality.usable_s / 60.0
    found = (
        f"{clock(quality.usable_s)} of usable play ({quality.steps} steps at 7.5 Hz, {quality.steps_30_hz} at 30 Hz)"
    )
    if minutes < limits.little_min:
        advice = f"below {limits.little_min:g} min a world model hardly learns; the paper used four hours: record more"
        yield Verdict("amount", "warn", f"only {found}; {advice}")
    else:
        yield Verdict("amount", "ok", f"{found}; the paper used four hours")


def _imported(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    for line in quality.not_imported:
        yield Verdict("recordings", "bad", f"not imported, and missing from these figures: {line}")


def _dropped(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    for camera, topic in _cameras(quality):
        value = topic.dropped_share
        level = _level(value, limits.dropped_warn, limits.dropped_bad)
        found = f"{camera} dropped {_percent(value)} of frames"
        if len(quality.recordings) > 1 and topic.worst_dropped > value:
            found += f" (most in {topic.worst_recording}: {_percent(topic.worst_dropped)})"
        if level == "ok":
            yield Verdict("dropped frames", level, f"{found}; up to {_percent(limits.dropped_warn)} does no harm")
        else:
            yield Verdict(
                "dropped frames",
                level,
                f"{found}; above {_percent(limits.dropped_warn)} training suffers: check the USB bandwidth, resize at "
                "the source, record to a faster disk",
            )


def _late(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    for camera, topic in _cameras(quality):
        level = _level(topic.late_share, limits.late_warn)
        found = f"{_percent(topic.late_share)} of the {camera}'s frames arrived late"
        limit = _percent(limits.late_warn)
        if level == "ok":
            yield Verdict("late frames", level, f"{found}; up to {limit} is usual")
        else:
            yield Verdict(
                "late frames",
                level,
                f"{found}; above {limit} the recording machine is overloaded and a policy would act on old pictures: "
                "end other work on it, resize at the source",
            )


def _disordered(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    for topic in quality.topics:
        if topic.disordered_share > limits.disordered_warn:
            yield Verdict(
                "order of stamps",
                "warn",
                f"{_percent(topic.disordered_share)} of the messages on {topic.topic} repeat a stamp or go back in "
                f"time; above {_percent(limits.disordered_warn)} something is wrong at the source: look for a second "
                "publisher and a clock that was set",
            )


def _camera_rate(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    for camera, topic in _cameras(quality):
        if off_multiple(topic.oddest_rate_hz) > limits.camera_rate_off:
            yield Verdict(
                "camera rate",
                "warn",
                f"{camera} delivers {topic.oddest_rate_hz:.1f} Hz; more than {_percent(limits.camera_rate_off)} off a "
                f"multiple of {TRAIN_RATE_HZ:g} Hz steps come unevenly: set its driver to {RECORD_RATE_HZ:g} Hz, "
                "shorten the exposure",
            )


def _skew(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    if quality.skew.percentiles_ms is None:
        return
    value = quality.skew.percentiles_ms["p95"]
    level = _level(value, limits.skew_warn_ms, limits.skew_bad_ms)
    found = f"95% of the frames have a camera skew of at most {value:.1f} ms"
    if level == "ok":
        yield Verdict("camera skew", level, f"{found}; up to {limits.skew_warn_ms:g} ms does no harm")
    else:
        yield Verdict(
            "camera skew",
            level,
            f"{found}; above {limits.skew_warn_ms:g} ms the two pictures show different moments: synchronise the "
            "cameras by hardware trigger or start them together, and let both stamp with one clock",
        )


def _left_out(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    value = quality.left_out_share
    level = _level(value, limits.left_out_warn, limits.left_out_bad)
    reasons = {name: count for name, count in quality.frames_left_out.items() if count and name != "command"}
    found = f"{_percent(value)} of the frames were left out"
    if level == "ok":
        yield Verdict("frames left out", level, f"{found}; up to {_percent(limits.left_out_warn)} is usual")
    else:
        most = max(reasons, key=lambda name: reasons[name])
        yield Verdict(
            "frames left out",
            level,
            f"{found}, most for the reason '{most}' ({reasons[most]}); above {_percent(limits.left_out_warn)} episodes "
            "fall to pieces: see the table of frames left out, and mend that source",
        )


def _saturation(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    saturation = quality.saturation
    for name, count in (("translation", saturation.translation), ("rotation", saturation.rotation)):
        value = share(count, saturation.steps)
        level = _level(value, limits.saturated_warn)
        found = f"the action's {name} saturates in {_percent(value)} of the steps"
        limit = _percent(limits.saturated_warn)
        if level == "ok":
            yield Verdict("action saturation", level, f"{found}; up to {limit} does no harm")
        else:
            yield Verdict(
                "action saturation",
                level,
                f"{found}; above {limit} the world model learns a wrong effect of full actions: move slower, or "
                f"import with a larger {name} scale",
            )


def _still(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    still = quality.stillness
    level = _level(still.share, limits.still_warn)
    found = f"nothing moves in {_percent(still.share)} of the steps"
    if still.longest_s:
        found += f" (longest: {still.longest_s:.1f} s, {still.longest_where})"
    if level == "ok":
        yield Verdict("still time", level, f"{found}; up to {_percent(limits.still_warn)} is usual")
    else:
        yield Verdict(
            "still time",
            level,
            f"{found}; above {_percent(limits.still_warn)} training spends itself on nothing: pause the recording "
            "while nobody plays",
        )


def _short_episodes(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    episodes = quality.episodes
    value = share(episodes.short_frames, quality.frames)
    level = _level(value, limits.short_warn)
    found = (
        f"{episodes.short} of {counted(episodes.count, 'episode')} ({_percent(value)} of the frames) "
        f"{'is' if episodes.short == 1 else 'are'} shorter than {SHORT_EPISODE_S:g} s"
    )
    if level == "ok":
        yield Verdict("episode lengths", level, f"{found}; up to {_percent(limits.short_warn)} does no harm")
    else:
        yield Verdict(
            "episode lengths",
            level,
            f"{found}; above {_percent(limits.short_warn)} too little is left for sequences of 50 frames: see why "
            "episodes end, and mend gaps and jumps first",
        )


def _coverage(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    space = quality.workspace
    found = f"the tool visited {space.litres:.1f} l of space ({counted(space.voxels, 'cube')} of 5 cm)"
    if space.litres < limits.coverage_litres:
        yield Verdict(
            "workspace coverage",
            "warn",
            f"{found}; below {limits.coverage_litres:g} l the world model knows too little of the workspace: play "
            "everywhere that a skill may lead, and between",
        )
    else:
        yield Verdict("workspace coverage", "ok", f"{found}; at least {limits.coverage_litres:g} l are wanted")


def _scene(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    parts = [one for one in quality.scene if any(word in one.name.lower() for word in _TASK_PARTS)]
    unmoved = [one.name for one in parts if one.high - one.low < CONSTANT]
    if unmoved:
        yield Verdict(
            "scene",
            "warn",
            f"never changed: {', '.join(unmoved)}; what the world model has not seen move it cannot dream: play with "
            "each part",
        )
    elif parts:
        yield Verdict("scene", "ok", f"all {len(parts)} parts of the scene that are known changed")


def _gripper(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    gripper = quality.gripper
    found = f"the gripper closed {gripper.closings} and opened {gripper.openings} times ({gripper.per_minute:.1f}/min)"
    limit = limits.gripper_events_min
    if gripper.per_minute < limit:
        yield Verdict(
            "gripper events",
            "warn",
            f"{found}; below {limit:g}/min grasping is not learnt: grasp and let go more often, or check the trigger",
        )
    else:
        yield Verdict("gripper events", "ok", f"{found}; at least {limit:g}/min are wanted")


def _annotations(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    successes, failures = (sum(getattr(skill, name) for skill in quality.skills) for name in ("successes", "failures"))
    if not successes + failures:
        yield Verdict(
            "annotations",
            "warn",
            "no annotations; enough for a world model, but skills and rewards are learnt from marked attempts: mark "
            "success and failure while recording (diwa annotate)",
        )
        return
    if not failures:
        yield Verdict(
            "annotations",
            "warn",
            f"{successes} attempts are marked as success and none as failure; without failed attempts the world model "
            "dreams that everything succeeds: keep and mark them too",
        )
    else:
        yield Verdict("annotations", "ok", f"{successes} attempts are marked as success, {failures} as failure")
    few = [f"{one.name} ({one.successes})" for one in quality.skills if one.successes < limits.successes_min]
    if few:
        yield Verdict(
            "demonstrations",
            "warn",
            f"few successes of {', '.join(few[:5])}{' and others' if len(few) > 5 else ''}; below "
            f"{limits.successes_min} a skill's policy and reward are poor, the paper used 50: demonstrate more",
        )


def _pictures(quality: Quality, limits: Thresholds) -> Iterator[Verdict]:
    for camera in quality.images.cameras:
        yield from _one_camera(camera, limits)
    images = quality.images
    if share(images.same, images.compared) > limits.same_bad:
        yield Verdict(
            "pictures",
            "bad",
            f"both cameras show the same picture in {_percent(share(images.same, images.compared))} of the frames; "
            f"above {_percent(limits.same_bad)} one camera is recorded twice: check the remapping of the topics",
        )


def _one_camera(camera: CameraImages, limits: Thresholds) -> Iterator[Verdict]:
    name = f"{camera.camera} camera"
    faults = (
        (
            share(camera.blank, camera.frames),
            limits.blank_warn,
            limits.blank_bad,
            f"{name} shows one colour all over in {{}} of the frames; above {{}} it is covered or delivers no picture: "
            "uncover the lens, check cable and driver",
        ),
        (
            share(camera.dark, camera.frames),
            limits.dark_warn,
            math.inf,
            f"{name} is almost black in {{}} of the frames; above {{}} nothing is learnt from them: light the scene, "
            "lengthen the exposure",
        ),
        (
            share(camera.frozen, camera.moving_steps),
            limits.frozen_warn,
            limits.frozen_bad,
            f"{name} repeats its picture in {{}} of the steps in which the tool moves; above {{}} the driver sends old "
            "frames anew: update or restart it, check its rate",
        ),
    )
    found = [
        Verdict("pictures", _level(value, warn, bad), words.format(_percent(value), _percent(warn)))
        for value, warn, bad, words in faults
        if value > warn
    ]
    yield from found
    if not found and camera.frames:
        yield Verdict("pictures", "ok", f"{name}: {camera.frames} frames looked at, none covered, dark or frozen")


_CHECKS: tuple[Callable[[Quality, Thresholds], Iterator[Verdict]], ...] = (
    _imported,
    _amount,
    _dropped,
    _camera_rate,
    _late,
    _disordered,
    _skew,
    _left_out,
    _saturation,
    _still,
    _short_episodes,
    _coverage,
    _scene,
    _gripper,
    _annotations,
    _pictures,
)
