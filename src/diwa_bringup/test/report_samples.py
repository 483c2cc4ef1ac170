"""A small run folder in the formats that the stages write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from diwa_conventions.film import FilmWriter, film_picture
from diwa_policy.evaluation.wilson import Rate, wilson
from diwa_policy.finetune.signals import CheckpointSignals, ReplaySignals, Trust, write_trust

TASK = "move-slider-left"
HASHES = {name: name[0] * 64 for name in ("world_model", "base", "reward", "finetuned", "data", "marks")}
BASE, CHOSEN, LAST = (0, 30, 31)
"""Iterations."""


GAIN = Rate(0.305, 0.22, 0.38)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def interval(rate: Rate) -> dict[str, float]:
    return dict(rate._asdict())


def tried(iteration: int, hash_: str, successes: int, episodes: int, gain: Rate | None = None) -> dict[str, Any]:
    return {
        "policy": f"runs/x/{hash_[:2]}", "hash": hash_, "origin": "dreams" if iteration else "pretrained",
        "iteration": iteration, "imagined_steps": 8192 * iteration, "environment_steps": 0,
        "promoted": True if iteration == CHOSEN else None, "reasons": [], "episodes": episodes,
        "successes": successes, "success": interval(wilson(successes, episodes)),
        "against_first": interval(gain) if gain else None, "frames_to_success": 17.0, "surprise": None,
    }  # fmt: skip


def evaluation(*policies: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "format": "diwa-policy-evaluation", "version": 1, "command": "diwa evaluate policy base finetuned/policy",
        "task": TASK, "environment": "playroom", "world_model": HASHES["world_model"],
        "starts": {"sets": 1, "episodes": 200}, "interrupted": False, "seconds": 70.4, "policies": list(policies),
        **more,
    }  # fmt: skip


def offline(before: int = 121, after: int = 182, gain: Rate = GAIN) -> dict[str, Any]:
    """Successes of 200 each."""
    return evaluation(
        tried(BASE, HASHES["base"], before, 200),
        tried(CHOSEN, HASHES["finetuned"], after, 200, gain),
        tried(LAST, "9" * 64, 176, 200, Rate(0.27, 0.19, 0.35)),
    )


def over_ros(before: int = 11, after: int = 18) -> dict[str, Any]:
    """Successes of 20 each."""
    latency = {
        "stamp_to_action_ms": [9.0, 9.5, 10.0, 30.0, None],
        "interval_ms": [133.0, 134.0, 133.3],
        "decision_ms": [4.5, 5.0],
    }
    more = {
        "classifier": {"judge": "oracle", "trials": 40, "agree": 37, "missed": 1, "imagined": 2},
        "not_counted": [{"policy": "base", "seed": 3, "attempt": 0, "reason": "frames are stale"}],
    }
    policies = (tried(BASE, HASHES["base"], before, 20), tried(CHOSEN, HASHES["finetuned"], after, 20))
    return evaluation(*policies, environment="ros", latency=latency, **more)


def judged(level: str = "ok", **more: Any) -> dict[str, Any]:
    checks = [("false positives", "ok", "0% of 80"), ("recall", level, "46% of <80> frames & more")]
    return {
        "overall": {"check": "overall", "level": level, "sentence": "usable"},
        "verdicts": [{"check": check, "level": own, "sentence": words} for check, own, words in checks],
        **more,
    }


def signals(iteration: int, dreamed: float) -> CheckpointSignals:
    return CheckpointSignals(
        iteration, 8192 * iteration, dreamed, dreamed, dreamed, dreamed, 0.01, 0.01, 0.5, 51.0, -0.5 + dreamed, 0.05,
        0.04, 0.0,
    )  # fmt: skip


def trust(folder: Path, promoted: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replay = ReplaySignals(50, 348, 0.7, 0.04, 0.6, 0.01, 51.3, 1.3, False, True)
    checkpoints = tuple(signals(at, share) for at, share in ((BASE, 0.6), (5, 0.95), (CHOSEN, 0.99), (LAST, 0.98)))
    check = {"check": "gain", "level": "ok" if promoted else "bad", "sentence": "its dreamed return is +0.39"}
    verdict = {"promoted": promoted, "iteration": CHOSEN, "choice": "iteration 30 dreams best", "checks": [check]}
    write_trust(folder / "trust.json", Trust(TASK, 0.05, 80, 256, replay, {}, checkpoints), verdict)


def artefact(folder: Path, kind: str, name: str, **metadata: Any) -> None:
    software = {"python": "3.11", "torch": "2.13.0"}
    whole = {"format": kind, "version": 1, "hash": HASHES[name], "weights_sha256": "0" * 64}
    write(folder / "metadata.json", {**whole, "metadata": {"preset": "tiny", "software": software, **metadata}})


def artefacts(run: Path) -> None:
    made = {"skill": TASK, "world_model_hash": HASHES["world_model"], "data_set_hash": HASHES["marks"]}
    policy = {**made, "demonstrations": 45, "base_hash": "", "reward_hash": "", "origin": "pretrained", "iteration": 0,
              "imagined_steps": 0}  # fmt: skip
    artefact(run / "world_model/world_model", "diwa-world-model", "world_model", data_set_hashes=[HASHES["data"]],
             steps=3000)  # fmt: skip
    artefact(run / "base", "diwa-policy", "base", **policy)
    artefact(run / "reward", "diwa-reward", "reward", **made, attempts=[318, 80])
    tuned = {"base_hash": HASHES["base"], "reward_hash": HASHES["reward"], "origin": "dreams", "iteration": CHOSEN,
             "imagined_steps": 245760}  # fmt: skip
    artefact(run / "finetuned/policy", "diwa-policy", "finetuned", **{**policy, **tuned})


def world_model_report(folder: Path) -> None:
    errors = {name: {"mean": [0.004, 0.006, None]} for name in ("open_loop", "last_frame", "closed_loop")}
    content = judged("warn", open_loop={camera: {"mse": {"whole": errors}} for camera in ("static", "gripper")})
    write(folder / "evaluation.json", {
        "format": "diwa-world-model-evaluation", "version": 1, **content, "step_s": 0.133, "date": "2026-11-21",
        "films": [{"name": "median", "about": "median: 31 of 64 are worse"}], "machine": {"device": "a CPU"},
        "command": "diwa evaluate world-model world_model",
    })  # fmt: skip
    film(folder / "film_median.mp4", 3)
    (folder / "strip_median.png").write_bytes(cv2.imencode(".png", np.full((428, 1272, 3), 90, np.uint8))[1].tobytes())


def quality(path: Path) -> None:
    skills = [{"name": TASK, "successes": 31, "failures": 5}]
    content = {"name": "play", "usable_s": 120.0, "frames": 900, "episodes": {"count": 1}, "recordings": [{}]}
    write(path, {"format": "diwa-quality", "version": 1, **judged(), **content, "skills": skills})


def classifier_report(path: Path) -> None:
    calibration = {"count": [90, 10, 0], "expected": [0.01, 0.7, None], "true": [0.0, 0.6, None], "error": 0.02}
    side = {"frames": 100, "positives": 6, "precision": 1.0, "recall": None}
    write(path, {
        "format": "diwa-reward-report", "version": 1, **judged("warn"), "threshold": 0.09, "seen": side,
        "dreamed": side, "seen_calibration": calibration, "dreamed_calibration": calibration, "command": "diwa reward",
        "alarms": {"failures": 70, "false_alarms": 0, "successes": 10, "early": 0, "recognised": 8},
    })  # fmt: skip


def dream_vs_truth(path: Path) -> None:
    rates = {BASE: wilson(12, 20), 5: wilson(15, 20), CHOSEN: wilson(18, 20), LAST: wilson(17, 20)}
    rows = [{"signals": {"iteration": at}, "truth": {"success": interval(rate)}} for at, rate in rates.items()]
    write(path, {"format": "diwa-dream-vs-truth", "version": 1, "checkpoints": rows})


def pipeline(path: Path) -> None:
    stages = [
        {"name": "train", "title": "world model", "state": "done", "seconds": 330.0, "command": "diwa train data/play",
         "summary": "3000 steps", "inputs_hash": "ab", "outputs": ["world_model"]},
        {"name": "ros", "title": "over ROS", "state": "failed", "seconds": None, "command": "", "summary": ""},
        {"name": "report", "title": "write the page", "state": "running", "seconds": 0.0, "command": "diwa report x",
         "summary": ""},
    ]  # fmt: skip
    machine = {"device": "a CPU", "cores": 2}
    write(path, {"task": TASK, "seed": 3, "machine": machine, "begun": "2026-11-21T12:00:00+00:00", "stages": stages})


def film(path: Path, frames: int = 6, crf: int = 40) -> None:
    views = np.random.default_rng(0).integers(0, 255, (2, 50, 50, 3)).astype(np.uint8)
    with FilmWriter(path, 7.5, crf=crf) as file:
        for number in range(frames):
            file.add(film_picture(views[0], np.roll(views[1], number, axis=1), "an attempt"))


def whole_run(run: Path) -> Path:
    """All parts."""
    pipeline(run / "pipeline.json")
    write(run / "evaluation/evaluation.json", offline())
    for name in ("film_1_failure_7", "film_1_success_3", "film_2_success_7"):
        film(run / "evaluation" / f"{name}.mp4")
    write(run / "evaluation_ros/evaluation.json", over_ros())
    trust(run / "finetuned")
    film(run / "finetuned/dream.mp4")
    dream_vs_truth(run / "finetuned/evaluation/dream_vs_truth.json")
    world_model_report(run / "world_model/world_model/evaluation")
    for name in ("play", "demos"):
        quality(run / "data" / name / "quality/quality.json")
    classifier_report(run / "reward/reward.json")
    artefacts(run)
    return run
