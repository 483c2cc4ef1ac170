"""``diwa demo``: its first stages for real, in miniature; how a run goes through them all is in test_pipeline.py."""

import json
import os
import subprocess
from pathlib import Path

from diwa_bringup.demo import Demo
from diwa_bringup.pipeline import run as run_module
from diwa_conventions.bags.reader import Bag
from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.dataset.store import open_data_set

DEADLINE_S = 300.0
MINIATURE = (
    "play.ros_seconds=4", "play.frames=300", "play.attempts=0",
    "world_model=[training.steps=2,training.warmup_steps=0,training.decay_steps=0,training.batch=2,training.length=8,"
    "training.validation_share=0.0]",
    "skip=[demos,import_demos,inspect_play,inspect_demos,world_model_evaluation,base,reward,finetuned,evaluation,"
    "evaluation_ros,report]",
)  # fmt: skip


def test_demo_records_over_ros_adds_play_in_bulk_and_learns_a_world_model_from_both(tmp_path: Path):
    out = tmp_path / "demo"
    done = subprocess.run(
        ["diwa", "demo", "--seed", "1", "--out", str(out), "--set", *MINIATURE],
        capture_output=True, text=True, timeout=DEADLINE_S, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"/diwa/static_camera/image_raw", "/diwa/action"} <= set(Bag(out / "bags/ros").topics)
    assert len(open_data_set(out / "data/play").recordings) == 2
    assert load_world_model(out / "world_model/world_model").metadata.steps == 2
    records = json.loads((out / "pipeline.json").read_text())["stages"]
    assert [record["state"] for record in records] == ["done"] * 4
    assert "messages" in records[0]["summary"] and "300 frames" in records[1]["summary"]


def test_demo_of_a_task_and_seed_has_a_folder_of_its_own(monkeypatch):
    started = []
    monkeypatch.setattr(run_module.PipelineRun, "start", lambda run, *options: started.append(run) or 0)
    assert Demo("turn-on-LED", seed=1).run() == 0
    (run,) = started
    assert run.out == Path("runs/demo/turn-on-LED_seed1")
    assert (run.config.task, run.config.seed) == ("turn-on-LED", 1)
    assert run.again == "make demo TASK=turn-on-LED SEED=1"
