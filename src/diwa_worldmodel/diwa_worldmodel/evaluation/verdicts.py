"""Judges a world model: what was measured, whether that is good enough, what follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.quality import counted
from diwa_worldmodel.dataset.verdicts import Level, Verdict
from diwa_worldmodel.evaluation.horizons import CameraErrors
from diwa_worldmodel.evaluation.measure import Measurements
from diwa_worldmodel.evaluation.open_loop import OPEN_LOOP, OTHER_ACTIONS, TRIVIAL, WHOLE
from diwa_worldmodel.evaluation.probes import ProbeResult
from diwa_worldmodel.evaluation.surprise import NO_FAULT, SWAPPED

PICTURES_UNTIL = 40
"""Steps up to which a dream is to beat what costs nothing."""
PROBES_AT = 20
FIRST_STEPS = 3
"""The next frames are so like the last one that holding it is hard to beat; that alone is no fault."""
FEW_STRETCHES = 8
FEW_SAMPLES = 1000
LONG_WARMUP = 16
COLLAPSED_KL = 0.5
LEAST_RANK_CORRELATION = 0.2
LEAST_DETECTED = 0.9
LEAST_MOVED = 5
"""Windows in which a quantity must have changed, or nothing was asked of the dream."""
WORDS = {
    OPEN_LOOP: "dream",
    "last_frame": "the last frame held",
    "mean_frame": "the mean frame",
    "reconstruction_held": "the last reconstruction held",
    "closed_loop": "every frame seen",
    OTHER_ACTIONS: "dream, another's actions",
}


def judge(measured: Measurements, data: Verdict | None, step_s: float = 1.0 / TRAIN_RATE_HZ) -> tuple[Verdict, ...]:
    """All verdicts, the worst first; ``data`` is that on the play that was measured on, if there is anything to say."""
    verdicts = [
        *([data] if data else []),
        *_stretches(measured),
        *(_pictures(camera, step_s) for camera in measured.cameras),
        *_actions(measured.cameras),
        *_probes(measured.probes),
        _kl(measured, step_s),
        *_uncertainty(measured),
        *_surprise(measured),
    ]
    return tuple(sorted(verdicts, key=lambda verdict: ("bad", "warn", "ok").index(verdict.level)))


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """One line for all."""
    counts = {level: sum(verdict.level == level for verdict in verdicts) for level in ("ok", "warn", "bad")}
    level: Level = "bad" if counts["bad"] else "warn" if counts["warn"] else "ok"
    words = {
        "bad": f"not to be dreamed in: {counted(counts['bad'], 'fault')}, {counted(counts['warn'], 'warning')}",
        "warn": f"usable, with {counted(counts['warn'], 'warning')}",
        "ok": f"good: all {counts['ok']} checks passed",
    }
    return Verdict("overall", level, words[level])


def _stretches(measured: Measurements) -> Iterator[Verdict]:
    count = measured.stretches
    if count < FEW_STRETCHES:
        lie = f"starts lie in only {count} separate stretch{'' if count == 1 else 'es'} of play"
        yield Verdict("amount", "warn", f"{lie}: intervals are rough; hold out or record more")


def _pictures(camera: CameraErrors, step_s: float) -> Verdict:
    until = min(PICTURES_UNTIL, camera.horizon)
    check = f"{camera.camera} pictures"
    worse = {word: camera.not_better_at(word, until) for word in TRIVIAL}
    if not any(worse.values()):
        surely = not any(camera.not_surely_better_at(word, until) for word in TRIVIAL)
        how = "95% interval" if surely else "on average, not with 95% confidence"
        words = f"the dream is nearer to the truth than all three trivial guesses at every step up to {until} ({how})"
        return Verdict(check, "ok", words)
    late = any(steps and steps[-1] > FIRST_STEPS for steps in worse.values())
    found = "; ".join(f"{WORDS[word]} is as good at {ranges(steps)}" for word, steps in worse.items() if steps)
    rest = (
        "more training or more play is needed"
        if late
        else f"better at all others up to {until} ({until * step_s:.1f} s)"
    )
    return Verdict(check, "bad" if late else "warn", f"{found}; {rest}")


def _actions(cameras: Sequence[CameraErrors]) -> Iterator[Verdict]:
    at = min(PROBES_AT, cameras[0].horizon) - 1
    errors = {word: sum(one.errors[WHOLE][word].mean[at] for one in cameras) for word in (OPEN_LOOP, OTHER_ACTIONS)}
    ratio = errors[OTHER_ACTIONS] / errors[OPEN_LOOP]
    highest = max(float(one.differences[OTHER_ACTIONS].high[at]) for one in cameras)
    if not np.isfinite(highest):
        return
    words = f"with another window's actions the error at step {at + 1} is {ratio:.1f} times that with its own"
    if highest < 0.0:
        yield Verdict("actions", "ok", f"{words}: the dream obeys them")
    else:
        yield Verdict("actions", "bad", f"{words}: the dream hardly obeys them")


def _probes(probes: Iterable[ProbeResult]) -> Iterator[Verdict]:
    for probe in probes:
        at = min(PROBES_AT, len(probe.moved["count"])) - 1
        if probe.moved["count"][at] < LEAST_MOVED:
            continue
        errors = {way: float(one.mean[at]) for way, one in probe.errors.items()}
        best = min(errors["value_held"], errors["training_mean"])
        level: Level = "ok" if errors["open_loop"] < best else "warn"
        words = ", ".join(
            f"{text} {error_text(errors[way], probe)}"
            for way, text in (("closed_loop", "seeing"), ("value_held", "value held"), ("training_mean", "guessing"))
        )
        off = f"{error_text(errors['open_loop'], probe)} {'wrong' if is_share(probe) else 'off'}"
        yield Verdict(f"{probe.quantity.name} probe", level, f"{off} after {counted(at + 1, 'dreamed step')} ({words})")


def is_share(probe: ProbeResult) -> bool:
    """Its error is the share of wrong readings."""
    return probe.quantity.kind == "two-valued"


def error_text(error: float, probe: ProbeResult, unit: bool = True) -> str:
    """``29.3 mm``, or ``9%`` of what has two values."""
    if not np.isfinite(error):
        return "-"
    if is_share(probe):
        return f"{100 * error:.0f}%"
    return f"{error:.3g} {probe.quantity.unit}" if unit else f"{error:.3g}"


def _kl(measured: Measurements, step_s: float) -> Verdict:
    settled = measured.settling
    after = counted(settled.warmup_steps, "step")
    words = f"the posterior adds {settled.level:.1f} nat to what the prior knew, settled after {after}"
    if settled.level < COLLAPSED_KL:
        return Verdict("KL", "bad", f"{words}: collapsed, the latents hardly take in the frames; lower kl_scale")
    if settled.warmup_steps > LONG_WARMUP:
        return Verdict("KL", "warn", f"{words} ({settled.warmup_steps * step_s:.1f} s): a long warm-up for every start")
    return Verdict("KL", "ok", words)


def _uncertainty(measured: Measurements) -> Iterator[Verdict]:
    for one in measured.reliabilities:
        known = one.at_equal_horizon
        if np.isfinite(known):
            level: Level = "ok" if known >= LEAST_RANK_CORRELATION else "warn"
            about = "tells" if level == "ok" else "hardly tells"
            told = f"{plain_words(one.signal)} {about} the {plain_words(one.error)}"
            words = f"{told} (rank correlation {known:.2f} at equal horizon)"
            yield Verdict("uncertainty", level, words)


def plain_words(name: str) -> str:
    """``one_step_image_mse`` as ``one-step image error``."""
    for word, other in (("_mse", " error"), ("_mm", " error"), ("_loop", "-loop"), ("_step", "-step"), ("kl", "KL")):
        name = name.replace(word, other)
    return name.replace("_", " ")


def _surprise(measured: Measurements) -> Iterator[Verdict]:
    bound = measured.surprise.mean
    if bound.samples < FEW_SAMPLES:
        words = f"the bound rests on {bound.samples} sound frames, too few for one in a thousand; hold out more play"
        yield Verdict("surprise", "warn", words)
    elif SWAPPED in {one.fault for one in bound.detections}:
        swapped, alarms = bound.of(SWAPPED).detected, bound.of(NO_FAULT).detected
        level: Level = "ok" if swapped >= LEAST_DETECTED else "warn"
        words = (
            f"swapped cameras are noticed within {bound.within_s:.1f} s in {100 * swapped:.0f}% of the windows "
            f"(KL over {bound.steps} steps above {bound.bound:.1f} nat; sound ones: {100 * alarms:.0f}%)"
        )
        yield Verdict("surprise", level, words)


def ranges(numbers: Sequence[int]) -> str:
    """``steps 1-3, 7`` for 1, 2, 3, 7; ``step 1`` for 1 alone."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    words = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]
    return f"step{'' if len(numbers) == 1 else 's'} {', '.join(words)}"
