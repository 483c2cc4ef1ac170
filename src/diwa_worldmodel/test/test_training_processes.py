"""``diwa train`` in processes of its own: killed without warning, and on two at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_run_samples import STEPS, Recorder, assert_same_run, learned, run
from world_model_samples import small_data_set

from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.dataset.sampler import DiskFrames, StreamSampler
from diwa_worldmodel.dataset.store import DataSet
from diwa_worldmodel.training.checkpoint import load_newest


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> DataSet:
    return small_data_set(tmp_path_factory.mktemp("data") / "play")


@pytest.mark.parametrize("place", ["between steps", "while a checkpoint is written"])
def test_run_that_was_killed_goes_on_with_the_same_losses(options, uninterrupted, place):
    code = """
import os, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from training_run_samples import Recorder, run, small_run
from diwa_worldmodel.training import checkpoint

def kill(*_):
    os.kill(os.getpid(), 9)

def kill_while_writing():
    checkpoint.sync = kill

act = kill if sys.argv[4] == "between steps" else kill_while_writing
run(replace(small_run(Path(sys.argv[1]), Path(sys.argv[2])), checkpoint_minutes=0.0), Recorder(6, act))
"""
    words = [options.data_set, options.out, Path(__file__).parent, place]
    ended = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (options.out / "checkpoints" / ".partial_000006").exists() == (place != "between steps")
    recorder = Recorder()
    run(options, recorder)
    assert recorder.lines[0] == f"going on from step 5 of {STEPS}" and recorder.warnings == []
    assert_same_run(options.out, uninterrupted)


def test_two_processes_equal_one_to_rounding(options, uninterrupted):
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from training_run_samples import small_run
sys.exit(small_run(Path(sys.argv[1]), Path(sys.argv[2])).run())
"""
    script = options.out.with_name("two.py")
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [str(script), str(options.data_set), str(options.out), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*torchrun, *words], capture_output=True, text=True, timeout=180, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("world model after 12 steps") == 1
    for own, other in zip(learned(options.out), learned(uninterrupted), strict=True):
        assert own == pytest.approx(other, rel=1e-5)
    first, second = (load_world_model(out / "world_model").model for out in (options.out, uninterrupted))
    for name, tensor in first.state_dict().items():
        assert torch.allclose(tensor, second.state_dict()[name], rtol=1e-4, atol=1e-5), name
    mine, others = (load_newest(out / "checkpoints", pytest.fail) for out in (options.out, uninterrupted))
    assert mine is not None and others is not None
    assert mine.tensors["carried/deterministic"].shape == (4, 16)
    assert torch.allclose(mine.tensors["carried/deterministic"], others.tensors["carried/deterministic"], atol=1e-5)


def test_what_only_one_of_two_processes_cannot_read_is_told_in_a_line(options, tmp_path):
    """Each row stays in an episode of its own, and the second process's is damaged: the first sees nothing of it."""
    damaged = small_data_set(tmp_path / "damaged", frames=2400, episodes=2)
    (((begin, _),),) = StreamSampler(DiskFrames(damaged), batch=2, length=8, rows=range(1, 2)).plan().spans
    number = damaged.recording_begins.index(begin)
    for path in (damaged.path / "recordings" / damaged.recordings[number].id / "static" / "c").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:100])
    code = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from training_run_samples import small_run
from diwa_conventions.errors import UserError
from diwa_worldmodel.training.train import Speed
run = small_run(Path(sys.argv[1]), Path(sys.argv[2]))
try:
    words = ("training.batch=2", "training.validation_share=0")
    sys.exit(replace(run, set=words, speed=Speed(1, "disk", "cpu", devices=2)).run())
except UserError as error:
    sys.exit(str(error))
"""
    script = tmp_path / "two.py"
    script.write_text(code)
    words = [str(script), str(damaged.path), str(options.out), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=180, env=environment)
    assert ended.returncode == 1, ended.stderr
    assert "static cannot be read" in ended.stderr and "Traceback" not in ended.stderr
    assert "another process of this training has ended; its own line says why" in ended.stderr
