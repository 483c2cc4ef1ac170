"""metrics.jsonl and TensorBoard of a run that is stopped, killed, goes on, or runs out of disk."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diwa_worldmodel.training.metrics import MetricsLog, read_metrics


def test_every_write_is_a_json_line(tmp_path):
    log = MetricsLog(tmp_path, 0, print)
    log.write(10, {"loss": 2.5})
    log.write(20, {"loss": 1.5, "kl": 0.1})
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 10, "loss": 2.5}, {"step": 20, "loss": 1.5, "kl": 0.1}]


def test_tensorboard_has_the_same(tmp_path):
    log = MetricsLog(tmp_path, 0, print)
    for step in (10, 20):
        log.write(step, {"loss": step / 4})
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(10, 2.5), (20, 5.0)]


def test_run_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 3.0}\n{"step": 20, "loss": 2.0}\n{"step": 30, "lo')
    log = MetricsLog(tmp_path, 10, print)
    log.write(20, {"loss": 2.5})
    log.close()
    assert read_metrics(path) == [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.5}]


def test_torn_line_in_the_middle_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "lo{"step": 20, "loss": 2.0}\n{"step": 30, "loss": 1.0}\n')
    MetricsLog(tmp_path, 40, print).close()
    assert read_metrics(path) == [{"step": 30, "loss": 1.0}]


def test_metrics_that_cannot_be_written_cost_one_warning(tmp_path):
    warnings: list[str] = []
    log = MetricsLog(tmp_path, 0, warnings.append)
    (tmp_path / "metrics.jsonl").mkdir()
    for step in (10, 20):
        log.write(step, {"loss": 2.5})
    log.close()
    (line,) = warnings
    assert "Is a directory" in line and "training goes on" in line
