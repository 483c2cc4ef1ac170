"""Batches as the world model takes them."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from world_model_samples import small_config, small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.sampler import ResidentFrames, SomeEpisodes
from diwa_worldmodel.training.batches import BatchStream, validation_batches
from diwa_worldmodel.training.frames import open_frames
from diwa_worldmodel.world_model import WorldModel, WorldModelBatch

CPU = torch.device("cpu")
CONFIG = small_config(training={"reset_probability": 0.1})
TENSORS = ("proprio", "previous_action", "reset", "uniforms")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return small_data_set(tmp_path_factory.mktemp("batches") / "d", scene_state=True)


@pytest.fixture(scope="module")
def frames(data_set):
    return ResidentFrames(data_set.load())


def draw(frames, count, config=CONFIG, **options) -> list[WorldModelBatch]:
    with BatchStream(frames, config.model, config.training, CPU, **options) as batches:
        return [next(batches) for _ in range(count)]


def flat(batch: WorldModelBatch) -> dict[str, torch.Tensor]:
    content = {**batch["images"], **{name: batch[name] for name in TENSORS}}
    return content if batch["scene_state"] is None else {**content, "scene_state": batch["scene_state"]}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def with_training(**changes):
    return replace(CONFIG, training=replace(CONFIG.training, **changes))


@pytest.mark.parametrize("place", ["memory", "disk", "device"])
def test_a_batch_is_what_the_world_model_takes(data_set, place):
    config = small_config(scene_state=3)
    batch = draw(open_frames(data_set, place), 1, config)[0]
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in flat(batch).items()}
    assert shapes == {
        "static": ((4, 8, 16, 16, 3), torch.uint8),
        "gripper": ((4, 8, 16, 16, 3), torch.uint8),
        "proprio": ((4, 8, 10), torch.float32),
        "scene_state": ((4, 8, 3), torch.float32),
        "previous_action": ((4, 8, 7), torch.float32),
        "reset": ((4, 8), torch.bool),
        "uniforms": ((4, 8, 4), torch.float32),
    }
    world_model = WorldModel(config.model)
    losses, _ = world_model(batch, world_model.rssm.initial(4))
    assert torch.isfinite(losses.total)


def test_without_the_hybrid_variant_scene_state_is_left_out(frames):
    assert draw(frames, 1)[0]["scene_state"] is None


def test_only_the_configs_cameras_are_in_a_batch(frames):
    assert draw(frames, 1, small_config(cameras=["gripper"]))[0]["images"].keys() == {"gripper"}


@pytest.mark.parametrize("first_step", [0, 7])
def test_the_previous_action_led_to_its_frame_also_over_batches_and_after_going_on(frames, first_step):
    numbered = frames.numbers.proprio.copy()
    numbered[:, 8] = np.arange(len(numbered))
    source = ResidentFrames(replace(frames.numbers, proprio=numbered))
    before_batches = 0
    for batch in draw(source, 12, with_training(reset_probability=0.0, length=7), first_step=first_step):
        frame = batch["proprio"][..., 8].int().numpy()
        led = ~batch["reset"].numpy()
        np.testing.assert_array_equal(batch["previous_action"].numpy()[led], frames.numbers.action[frame[led] - 1])
        assert not batch["previous_action"][~led].any()
        before_batches += led[:, 0].sum()
    assert before_batches >= 20


def test_only_sequence_starts_have_no_previous_action(frames):
    batches = draw(frames, 40, with_training(reset_probability=0.0))
    for batch in batches:
        torch.testing.assert_close(~batch["previous_action"].any(dim=-1), batch["reset"])
    assert sum(int(batch["reset"].sum()) for batch in batches) >= 40 * 32 // 60


def test_streams_go_on_from_batch_to_batch(frames):
    batches = draw(frames, 10, with_training(reset_probability=0.0))
    went_on = 0
    for before, after in zip(batches, batches[1:], strict=False):
        for row in range(4):
            if not after["reset"][row, 0]:
                went_on += 1
                step = after["proprio"][row, 0, :2] - before["proprio"][row, -1, :2]
                expected = 0.3 * after["previous_action"][row, 0, :2]
                at_edge = after["proprio"][row, 0, :2].abs() > 0.699
                assert ((step - expected).abs() < 1e-5).logical_or(at_edge).all()
    assert went_on >= 20


def test_states_are_reset_with_probability_zeta(frames):
    none, some, all_of_them = (
        torch.stack([batch["reset"] for batch in draw(frames, 60, with_training(reset_probability=zeta))])
        for zeta in (0.0, 0.1, 1.0)
    )
    assert all_of_them.all()
    assert some[none].all()
    assert some[~none].float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_uniforms_are_uniform(frames):
    drawn = torch.stack([batch["uniforms"] for batch in draw(frames, 60)])
    assert 0.0 <= drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1.0
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert len(drawn.unique()) > 0.99 * drawn.numel()


@pytest.mark.parametrize("sampling", ["streams", "windows"])
def test_going_on_gives_what_an_uninterrupted_run_would_have_had(frames, sampling):
    config = with_training(sampling=sampling)
    whole = draw(frames, 12, config)
    for expected, found in zip(whole[7:], draw(frames, 5, config, first_step=7), strict=True):
        assert_same(flat(expected), flat(found))


@pytest.mark.parametrize("sampling", ["streams", "windows"])
def test_two_processes_together_draw_one_processs_batch(frames, sampling):
    config = with_training(sampling=sampling)
    whole = draw(frames, 6, config)
    parts = [draw(frames, 6, config, rank=rank, world_size=2) for rank in (0, 1)]
    for expected, low, high in zip(whole, *parts, strict=True):
        assert_same(flat(expected), {name: torch.cat([flat(low)[name], flat(high)[name]]) for name in flat(low)})


def test_another_seed_draws_other_batches(frames):
    one, other = draw(frames, 1)[0], draw(frames, 1, with_training(seed=1))[0]
    for name in TENSORS:
        assert (one[name] != other[name]).any(), name


def test_action_chunks_widen_the_previous_action(frames):
    config = small_config(action_chunk=3)
    batch = draw(frames, 2, config)[1]
    assert batch["previous_action"].shape == (4, 8, 21)
    world_model = WorldModel(config.model)
    losses, _ = world_model(batch, world_model.rssm.initial(4))
    assert torch.isfinite(losses.total)


def test_a_batch_that_processes_cannot_share_is_refused(frames):
    with pytest.raises(UserError, match="training.batch is 4; expected a multiple of the 3 processes"):
        draw(frames, 1, rank=0, world_size=3)


def test_frames_that_do_not_fill_a_batch_are_refused(frames):
    with pytest.raises(UserError, match="there are 240 frames to draw from; a batch of 16 x 32 needs 512"):
        draw(frames, 1, with_training(batch=16, length=32))


class Spoilt(ResidentFrames):
    """Cannot be read from the third batch on."""

    def __init__(self, numbers):
        super().__init__(numbers)
        self.reads = 0

    def read(self, spans):
        self.reads += 1
        if self.reads >= 3:
            raise UserError("the disk is gone")
        return super().read(spans)


def test_an_error_in_the_background_reaches_who_asks_for_that_batch(frames):
    batches = BatchStream(Spoilt(frames.numbers), CONFIG.model, CONFIG.training, CPU)
    next(batches)
    next(batches)
    with pytest.raises(UserError, match="the disk is gone"):
        next(batches)
    assert list(batches) == []


class Held(ResidentFrames):
    """Reads nothing before it is allowed to."""

    def __init__(self, numbers):
        super().__init__(numbers)
        self.allowed, self.asked, self.asked_again = threading.Event(), threading.Event(), threading.Event()
        self.reads = 0

    def read(self, spans):
        self.reads += 1
        (self.asked_again if self.asked.is_set() else self.asked).set()
        assert self.allowed.wait(10.0)
        return super().read(spans)


def test_two_batches_are_read_before_anyone_asks_for_them(frames):
    held = Held(frames.numbers)
    held.allowed.set()
    with BatchStream(held, CONFIG.model, CONFIG.training, CPU):
        assert held.asked_again.wait(10.0)
    assert held.reads == 2


def test_waiting_for_a_batch_is_measured(frames, monkeypatch):
    clock = iter([10.0, 12.5])
    with BatchStream(frames, CONFIG.model, CONFIG.training, CPU) as batches:
        monkeypatch.setattr("diwa_worldmodel.training.batches.perf_counter", lambda: next(clock))
        next(batches)
        assert batches.wait_s == 2.5


def test_closing_while_a_batch_is_read_ends_the_thread(frames):
    held = Held(frames.numbers)
    batches = BatchStream(held, CONFIG.model, CONFIG.training, CPU)
    assert held.asked.wait(10.0)
    threading.Timer(0.05, held.allowed.set).start()
    batches.close()
    batches.close()
    assert list(batches) == []
    assert held.reads == 1
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_validation_batches_are_the_same_each_time_and_begin_anew(frames):
    held_out = SomeEpisodes(frames, frames.episodes[1:3])
    one, again = (validation_batches(held_out, CONFIG.model, CONFIG.training, CPU, 3) for _ in range(2))
    for first, second in zip(one, again, strict=True):
        assert_same(flat(first), flat(second))
        assert first["reset"][:, 0].all()
        assert not first["reset"][:, 1:].any()
    inside = {tuple(row) for row in frames.numbers.proprio[40:120, :2].tolist()}
    assert {tuple(row) for batch in one for row in batch["proprio"][..., :2].flatten(0, 1).tolist()} <= inside


def test_validation_windows_are_as_long_as_the_longest_episode_allows(frames):
    config = with_training(length=50)
    assert validation_batches(frames, config.model, config.training, CPU, 1)[0]["reset"].shape == (4, 40)
