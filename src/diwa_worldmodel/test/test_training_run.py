"""``diwa train``: stopped, out of disk, diverged, damaged; what is left and how it goes on."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from training_run_samples import (
    CPU,
    STEPS,
    Recorder,
    assert_same_run,
    checkpoint_step,
    learned,
    run,
    stopped_at,
)
from world_model_samples import full_disk, small_config, small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.dataset.store import DataSet, open_data_set
from diwa_worldmodel.settings import to_mapping
from diwa_worldmodel.training import training_run
from diwa_worldmodel.training.checkpoint import load_newest, save_checkpoint
from diwa_worldmodel.training.loop import Pace, Report
from diwa_worldmodel.training.metrics import read_metrics
from diwa_worldmodel.training.terminal import Terminal
from diwa_worldmodel.training.train import Speed, summary
from diwa_worldmodel.world_model import WorldModel


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> DataSet:
    return small_data_set(tmp_path_factory.mktemp("data") / "play", scene_state=True)


# What a run leaves


def test_run_leaves_world_model_metrics_config_and_checkpoint(uninterrupted, data_set):
    loaded = load_world_model(uninterrupted / "world_model")
    assert loaded.config == small_config({"steps": STEPS})
    assert (loaded.metadata.steps, loaded.metadata.preset) == (STEPS, "paper")
    assert loaded.metadata.data_set_hashes == (data_set.hash(),)
    assert loaded.metadata.data_set == data_set.config
    assert sum(length for _, _, length in loaded.metadata.held_out) == 40
    assert yaml.safe_load((uninterrupted / "config.yaml").read_text()) == to_mapping(loaded.config)
    assert checkpoint_step(uninterrupted) == STEPS
    assert list((uninterrupted / "tensorboard").iterdir())


def test_numbers_are_normalised_by_the_training_episodes_alone(uninterrupted, data_set):
    model, held_out = (getattr(load_world_model(uninterrupted / "world_model"), name) for name in ("model", "metadata"))
    left_out = {(name, start) for name, start, _ in held_out.held_out}
    kept = [
        torch.from_numpy(recording.proprio[episode.start : episode.end])
        for recording in data_set.recordings
        for episode in recording.episodes
        if (recording.id, episode.start) not in left_out
    ]
    assert torch.allclose(model.proprio.mean, torch.cat(kept).double().mean(0).float())


def test_metrics_have_losses_norm_rate_and_times_of_every_step(uninterrupted):
    lines = [line for line in read_metrics(uninterrupted / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    expected = {"kl", "reconstruction_static", "reconstruction_gripper", "posterior_entropy", "prior_entropy"}
    expected |= {"gradient_norm", "learning_rate", "gradient_spikes", "ms_per_step", "data_wait_share"}
    assert all(expected <= line.keys() for line in lines)
    assert all(line["ms_per_step"] > 0 and 0 <= line["data_wait_share"] <= 1 for line in lines)


def test_held_out_episodes_are_looked_at_every_so_many_steps_and_at_the_end(uninterrupted):
    lines = [line for line in read_metrics(uninterrupted / "metrics.jsonl") if "validation_loss" in line]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert lines[-1]["validation_loss"] < lines[0]["validation_loss"]


def test_numbers_that_are_read_rarely_as_on_a_gpu_change_neither_losses_nor_validation(
    options, uninterrupted, monkeypatch
):
    monkeypatch.setattr(training_run._TrainingRun, "_pace", lambda self: Pace(0.0, 5.0, 1, 5, read_steps=4))
    recorder = Recorder()
    run(options, recorder)
    assert [report.step for report in recorder.reports] == [4, 5, 8, 10, 12]
    assert_same_run(options.out, uninterrupted)


def test_without_held_out_episodes_there_is_no_validation(options):
    outcome = run(replace(options, set=("training.validation_share=0", "training.steps=5")))
    assert outcome.end == "finished"
    assert not any("validation_loss" in line for line in read_metrics(options.out / "metrics.jsonl"))


@pytest.mark.parametrize(
    "words",
    [("model.action_chunk=2",), ("model.scene_state=3",), ("training.sampling=windows",), ("model.cameras=[gripper]",)],
    ids=["chunk", "hybrid", "windows", "one camera"],
)
def test_variants_train_and_load(options, words):
    assert run(replace(options, set=(*words, "training.steps=2"))).world_model is not None
    loaded = load_world_model(options.out / "world_model")
    hybrid = bool(loaded.config.model.scene_state)
    assert loaded.metadata.scene_state_names == (("square_x", "square_y", "lamp") if hybrid else ())


def test_same_seed_same_losses_and_another_seed_others(options, uninterrupted):
    run(options)
    assert_same_run(options.out, uninterrupted)
    other = replace(options, out=options.out.with_name("other"), set=("training.seed=1",))
    run(other)
    assert learned(other.out)[0]["loss"] != learned(uninterrupted)[0]["loss"]


def test_where_frames_are_kept_changes_no_loss(options, uninterrupted):
    run(replace(options, speed=replace(CPU, place="disk")))
    assert_same_run(options.out, uninterrupted)


def test_compile_compiles_the_scan(options, monkeypatch):
    """That it then has the same numbers is for test_rssm.py to say."""
    compiled: list[WorldModel] = []
    monkeypatch.setattr(WorldModel, "compile_scan", lambda model: compiled.append(model))
    run(replace(options, set=("training.steps=1",), speed=replace(CPU, compile=True)))
    assert len(compiled) == 1


# Stopping and going on


def test_run_that_was_stopped_goes_on_with_the_same_losses(options, uninterrupted):
    first = stopped_at(options, 5)
    assert (first.end, first.step, first.world_model) == ("stopped", 5, None)
    assert checkpoint_step(options.out) == 5 and not (options.out / "world_model").exists()
    recorder = Recorder()
    assert run(options, recorder).end == "finished"
    assert recorder.lines[0] == f"going on from step 5 of {STEPS}"
    assert_same_run(options.out, uninterrupted)


def test_damaged_checkpoint_costs_only_the_steps_since_the_one_before(options, uninterrupted):
    stopped_at(options, 3)
    stopped_at(options, 4)
    tensors = options.out / "checkpoints" / "step_000007" / "tensors.safetensors"
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    recorder = Recorder()
    run(options, recorder)
    (line,) = recorder.warnings
    assert "step_000007 is damaged" in line and recorder.lines[0] == f"going on from step 3 of {STEPS}"
    assert_same_run(options.out, uninterrupted)


def test_finished_run_is_left_as_it_is(options):
    first = run(options)
    evaluation = options.out / "world_model" / "evaluation"
    evaluation.mkdir()
    recorder = Recorder()
    assert run(options, recorder) == first
    assert recorder.reports == [] and evaluation.exists()


def test_lost_world_model_is_made_again_from_the_checkpoint(options, uninterrupted):
    run(options)
    (options.out / "world_model" / "model.safetensors").unlink()
    run(options)
    assert_same_run(options.out, uninterrupted)


def test_time_over_leaves_a_world_model_and_goes_on(options, uninterrupted):
    first = run(replace(options, minutes=1e-9))
    assert (first.end, first.step) == ("time over", 1)
    assert load_world_model(options.out / "world_model").metadata.steps == 1
    assert "its time was over at step 1 of 12; the same command goes on" in summary(options, first)
    run(options)
    assert_same_run(options.out, uninterrupted)


def test_checkpoints_come_every_so_many_minutes(options):
    def two_are_there() -> None:
        assert sorted(path.name for path in (options.out / "checkpoints").iterdir()) == ["step_000005", "step_000006"]

    run(replace(options, checkpoint_minutes=0.0), Recorder(7, two_are_there))
    rare = replace(options, out=options.out.with_name("rare"), checkpoint_minutes=60.0)
    run(rare, Recorder(11, lambda: pytest.fail("a checkpoint") if (rare.out / "checkpoints").exists() else None))
    assert checkpoint_step(rare.out) == STEPS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_after_the_step_with_a_checkpoint(options, monkeypatch, capsys, number, code):
    monkeypatch.setattr(Terminal, "report", lambda self, report: report.step == 4 and signal.raise_signal(number))
    before = signal.getsignal(number)
    assert options.run() == code
    assert signal.getsignal(number) is before
    assert "stopped at step 5 of 12, which is saved; the same command goes on" in capsys.readouterr().out
    assert checkpoint_step(options.out) == 5


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it; a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_ctrl_c_does_not_wait(options, monkeypatch, interruptible):
    monkeypatch.setattr(Terminal, "report", lambda self, report: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        options.run()


# What goes wrong


def test_disk_that_is_full_for_a_while_costs_one_warning(options, uninterrupted):
    class FullAtSteps(Recorder):
        def report(self, report: Report) -> None:
            if report.step == 3:
                self.full = full_disk()
                self.full.__enter__()
            if report.step == 6:
                self.full.__exit__(None, None, None)

    recorder = FullAtSteps()
    assert run(replace(options, checkpoint_minutes=0.0), recorder).end == "finished"
    (line,) = recorder.warnings
    assert "checkpoint of step 3 could not be written" in line and "the checkpoint of step 2 is kept" in line
    assert_same_run(options.out, uninterrupted)


def test_disk_that_is_full_at_the_end_is_an_error_and_the_last_checkpoint_is_kept(options, uninterrupted):
    stopped_at(options, 5)
    with full_disk(), pytest.raises(UserError, match="step 12 could not be .*File too large.*of step 5 is kept"):
        run(options)
    assert checkpoint_step(options.out) == 5
    run(options)
    assert_same_run(options.out, uninterrupted)


def test_disk_that_is_full_for_the_world_model_is_an_error_and_the_same_command_makes_it(options, monkeypatch):
    def full(*what: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_world_model", full)
        with pytest.raises(UserError, match="world model could not be written to .*No space.*checkpoint of step 12 is"):
            run(options)
    assert run(options).world_model == options.out / "world_model"


def test_loss_that_is_no_number_stops_the_training_and_is_never_saved(options):
    stopped_at(options, 2)
    poison(options.out)
    recorder = Recorder()
    with pytest.raises(UserError) as caught:
        run(replace(options, checkpoint_minutes=0.0), recorder)
    line = str(caught.value)
    assert line.startswith("step 3: loss, kl, ") and "gradient_norm not finite; training stopped" in line
    assert "the checkpoint of step 2 is kept" in line and "smaller training.learning_rate" in line
    assert [path.name for path in (options.out / "checkpoints").iterdir()] == ["step_000002"]
    assert not (options.out / "world_model").exists() and recorder.reports == []


def poison(out: Path) -> None:
    """Put an infinite number among the weights of the newest checkpoint, as a training that runs away would."""
    checkpoint = load_newest(out / "checkpoints", pytest.fail)
    assert checkpoint is not None
    checkpoint.tensors["weights/encoder.fuse.bias"][0] = torch.inf
    save_checkpoint(out / "checkpoints", checkpoint)


def test_other_config_is_refused_by_the_names_of_its_keys(options):
    stopped_at(options, 2)
    other = replace(options, set=("model.kl_scale=1.0", "training.steps=5"))
    with pytest.raises(UserError, match=r"begun with model.kl_scale 0.3, not 1.0; training.steps 12, not 5: go on"):
        run(other)
    assert checkpoint_step(options.out) == 2


def test_run_that_has_learned_nothing_does_not_stand_in_the_way_of_another(options):
    with pytest.raises(UserError, match="frames to draw from"):
        run(replace(options, set=("training.batch=64", "training.length=50")))
    assert run(replace(options, set=("training.steps=2",))).step == 2
    assert load_world_model(options.out / "world_model").config == small_config({"steps": 2})


def test_short_data_set_trains_with_action_chunks(options, tmp_path):
    short = small_data_set(tmp_path / "short", frames=100, episodes=1, recordings=1)
    words = ("model.action_chunk=4", "training.steps=2", "training.batch=2", "training.validation_share=0.05")
    assert run(replace(options, data_set=short.path, set=words)).end == "finished"


def test_other_data_set_is_refused(options, tmp_path):
    stopped_at(options, 2)
    other = small_data_set(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=f"begun with the data set .*, not {other.hash()[:12]}"):
        run(replace(options, data_set=other.path))


def test_checkpoints_of_another_run_are_refused(options, uninterrupted):
    other = replace(options, out=options.out.with_name("other"), set=("training.seed=1",))
    stopped_at(options, 2)
    stopped_at(other, 2)
    (options.out / "checkpoints").rename(options.out / "mine")
    (other.out / "checkpoints").rename(options.out / "checkpoints")
    with pytest.raises(UserError, match="checkpoints .* are of another run .training.seed 1, not 0"):
        run(options)


@pytest.mark.parametrize("name", ["notes.txt", "run.json"])
def test_folder_that_holds_something_else_is_refused(options, name):
    options.out.mkdir()
    (options.out / name).write_text("{}")
    with pytest.raises(UserError, match=f"is not a training run .found: {name}.; choose a new folder with --out"):
        run(options)


def test_run_of_another_version_is_refused(options):
    stopped_at(options, 1)
    path = options.out / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 9}))
    with pytest.raises(UserError, match="version 9; this software goes on with 'diwa-training-run' version 1"):
        run(options)


def test_two_trainings_in_one_folder_are_refused(options):
    refused: list[str] = []

    def another() -> None:
        with pytest.raises(UserError) as caught:
            run(options)
        refused.append(str(caught.value))

    run(options, Recorder(2, another))
    (line,) = refused
    assert "is being trained in by another process" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"set": ("model.kl_scal=1",)}, "unknown setting 'model.kl_scal'; did you mean 'model.kl_scale'"),
        ({"set": ("training.batch=64", "training.length=50")}, "frames to draw from; a batch of 64 x 50 needs 3200"),
        ({"set": ("model.image_size_px=32",)}, "has images of 16 px, the world model expects 32 px"),
        ({"log_steps": 0}, "--log-steps is 0; expected a number of at least 1"),
        ({"minutes": -1.0}, "--minutes is -1.0; expected a number of at least 0"),
        ({"speed": Speed(devices=0)}, "--devices is 0; expected a number from 1 to 1024"),
        ({"speed": replace(CPU, devices=3)}, "training.batch is 4; expected a multiple of the 3 processes"),
        ({"config": Path("/nowhere.yaml")}, "/nowhere.yaml cannot be read"),
    ],
)
def test_mistake_is_named_before_anything_is_begun(options, words, message):
    with pytest.raises(UserError, match=message):
        run(replace(options, **words))
    assert not (options.out / "checkpoints").exists() and not (options.out / "metrics.jsonl").exists()


def test_data_set_of_a_run_can_move(options, data_set, tmp_path):
    stopped_at(options, 2)
    moved = tmp_path / "moved"
    moved.symlink_to(data_set.path)
    assert open_data_set(moved).hash() == data_set.hash()
    assert run(replace(options, data_set=moved)).end == "finished"
