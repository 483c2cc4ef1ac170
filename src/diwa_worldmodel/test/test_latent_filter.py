"""The latent filter: one update for encoding, dreams and serving, which goes by stamps and never guesses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from world_model_samples import small_config

from diwa_conventions.errors import UserError
from diwa_worldmodel.config import ModelConfig, load_config
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.latent_filter import FilterFrame, FilterLimits, FilterOutput, LatentFilter, encode_episode
from diwa_worldmodel.rssm import entropy, kl_divergence
from diwa_worldmodel.world_model import WorldModel

STEP_NS = 133_333_333


@dataclass
class Seen:
    """T frames of R rows, (T, R, ...), and the actions that lead from each to the next."""

    images: dict[str, npt.NDArray[np.uint8]]
    proprio: npt.NDArray[np.float32]
    stamp_ns: npt.NDArray[np.int64]
    action: npt.NDArray[np.float32]
    scene_state: npt.NDArray[np.float32] | None

    def frame(self, t: int, rows: slice = slice(None)) -> FilterFrame:
        """Copies, as a node would have them: at other addresses than the episode's."""
        images = {name: image[t, rows].copy() for name, image in self.images.items()}
        scene = None if self.scene_state is None else self.scene_state[t, rows]
        return FilterFrame(images, self.proprio[t, rows], self.stamp_ns[t, rows], scene)

    def executed(self, t: int, rows: slice = slice(None)) -> npt.NDArray[np.float32] | None:
        return self.action[t - 1, rows] if t else None


def seen(config: ModelConfig, frames: int = 8, rows: int = 1, seed: int = 0) -> Seen:
    rng = np.random.default_rng(seed)
    size, chunk = config.image_size_px, config.action_chunk
    return Seen(
        images={name: rng.integers(0, 256, (frames, rows, size, size, 3), np.uint8) for name in config.cameras},
        proprio=rng.standard_normal((frames, rows, 10)).astype(np.float32),
        stamp_ns=np.tile(10**18 + np.arange(frames)[:, None] * STEP_NS * chunk, (1, rows)),
        action=rng.uniform(-1.0, 1.0, (frames, rows, 7 * chunk)).astype(np.float32),
        scene_state=rng.standard_normal((frames, rows, config.scene_state)).astype(np.float32),
    )


def small_model(seed: int = 0, **model: Any) -> WorldModel:
    torch.manual_seed(seed)
    return WorldModel(small_config(**model).model)


@cache
def shared_model() -> WorldModel:
    return small_model()


def streamed(latent_filter: LatentFilter, episode: Seen, rows: slice = slice(None)) -> list[FilterOutput]:
    frames = range(len(episode.stamp_ns))
    return [latent_filter.update(episode.frame(t, rows), episode.executed(t, rows)) for t in frames]


def encoded(latent_filter: LatentFilter, episode: Seen) -> FilterOutput:
    frames = (episode.frame(t) for t in range(len(episode.stamp_ns)))
    return encode_episode(latent_filter, frames, episode.action)


def equal(first: FilterOutput, second: FilterOutput) -> bool:
    """Bit for bit, but for what happened."""
    return (
        torch.equal(first.latent, second.latent)
        and torch.equal(first.surprise, second.surprise)
        and torch.equal(first.prior_entropy, second.prior_entropy)
        and np.array_equal(first.steps, second.steps)
        and np.array_equal(first.ready, second.ready)
    )


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class TestParity:
    @pytest.mark.usefixtures("threads")
    @pytest.mark.parametrize("sampling", ["mode", "sample"])
    def test_batch_and_streaming_agree_bit_for_bit(self, sampling: Any) -> None:
        """At tiny size, over an ordinary stretch, a gap, and a reset in between."""
        config = load_config("tiny").model
        torch.manual_seed(0)
        model = WorldModel(config)
        before, after = seen(config, 6), seen(config, 3, seed=1)
        before.stamp_ns[4:] += 10**9
        after.stamp_ns += before.stamp_ns[-1] + STEP_NS - after.stamp_ns[0]  # only the reset parts them
        encoder = LatentFilter(model, sampling=sampling)
        batches = [encoded(encoder, episode) for episode in (before, after)]
        assert batches[0].events == ("start", "step", "step", "step", "gap", "step")
        serving = LatentFilter(model, sampling=sampling)
        outputs = streamed(serving, before)
        serving.reset()
        outputs += streamed(serving, after)
        assert torch.equal(torch.cat([output.latent for output in outputs]), torch.cat([one.latent for one in batches]))
        surprise = torch.cat([output.surprise for output in outputs])
        assert torch.equal(surprise, torch.cat([one.surprise for one in batches]))

    def test_mode_and_draws_are_those_of_training(self) -> None:
        """Against the world model's own pass over a batch."""
        model = small_model()
        model.proprio.fit(torch.full((10,), 0.5), torch.full((10,), 2.0))
        episode = seen(model.config, 12)
        for sampling in ("mode", "sample"):
            latent_filter = LatentFilter(model, sampling=sampling)  # type: ignore[arg-type]
            filtered = encoded(latent_filter, episode)
            draws = [latent_filter._uniforms(np.array([t])) for t in range(12)]
            previous = np.concatenate([np.zeros_like(episode.action[:1]), episode.action[:-1]])
            batch: Any = {
                "images": {name: torch.from_numpy(image).transpose(0, 1) for name, image in episode.images.items()},
                "proprio": torch.from_numpy(episode.proprio).transpose(0, 1),
                "previous_action": torch.from_numpy(previous).transpose(0, 1),
                "reset": torch.arange(12).unsqueeze(0) == 0,
                "uniforms": None if draws[0] is None else torch.stack(draws, dim=1),  # type: ignore[arg-type]
            }
            with torch.no_grad():
                trained = model.observe(batch, model.rssm.initial(1))
            torch.testing.assert_close(filtered.latent, trained.latent[0], rtol=0, atol=1e-5)
            expected = kl_divergence(trained.posterior, trained.prior)[0]
            torch.testing.assert_close(filtered.surprise, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(filtered.prior_entropy, entropy(trained.prior)[0], rtol=1e-5, atol=1e-5)

    def test_rows_in_parallel_agree_with_one_to_rounding(self) -> None:
        model = small_model()
        episode = seen(model.config, 8, rows=5)
        episode.stamp_ns[4:, 2] += 10**9  # one row begins anew
        together = streamed(LatentFilter(model, rows=5), episode)
        for row in range(5):
            alone = streamed(LatentFilter(model), episode, slice(row, row + 1))
            for many, one in zip(together, alone, strict=True):
                torch.testing.assert_close(many.latent[row], one.latent[0], rtol=0, atol=1e-5)
                torch.testing.assert_close(many.surprise[row], one.surprise[0], rtol=1e-4, atol=1e-5)
                assert (many.events[row], many.steps[row]) == (one.events[0], one.steps[0])

    def test_rows_do_not_see_each_other(self) -> None:
        model = small_model()
        episode, other = seen(model.config, 5, rows=3), seen(model.config, 5, rows=3, seed=1)
        for values, others in ((episode.proprio, other.proprio), (episode.action, other.action)):
            others[:, 1] = values[:, 1]
        for name, image in episode.images.items():
            other.images[name][:, 1] = image[:, 1]
        outputs = streamed(LatentFilter(model, rows=3), episode)[-1], streamed(LatentFilter(model, rows=3), other)[-1]
        assert torch.equal(outputs[0].latent[1], outputs[1].latent[1])
        assert not torch.equal(outputs[0].latent[0], outputs[1].latent[0])


class TestStamps:
    def test_first_frame_starts_and_the_next_are_steps(self) -> None:
        model = small_model()
        outputs = streamed(LatentFilter(model), seen(model.config, 3))
        assert [output.events for output in outputs] == [("start",), ("step",), ("step",)]
        assert [output.steps.tolist() for output in outputs] == [[0], [1], [2]]

    @pytest.mark.parametrize("late_s", [0.1, -0.06, 5.0])
    def test_after_a_gap_the_filter_begins_anew_with_this_frame(self, late_s: float) -> None:
        model = small_model()
        episode = seen(model.config, 6)
        episode.stamp_ns[3:] += round(late_s * 1e9)
        outputs = streamed(LatentFilter(model), episode)
        assert [output.events[0] for output in outputs] == ["start", "step", "step", "gap", "step", "step"]
        fresh = LatentFilter(model)
        assert equal(outputs[3], fresh.update(episode.frame(3)))
        assert equal(outputs[4], fresh.update(episode.frame(4), episode.executed(4)))

    @settings(deadline=None, max_examples=15)
    @given(off_s=st.floats(-1.0, 1.0).map(lambda part: part * DataSetConfig().step_tolerance_s))
    def test_steps_that_the_importer_takes_are_no_gaps(self, off_s: float) -> None:
        """Also from a camera that is 5% slow or fast, the most it takes."""
        model = shared_model()
        for period_s in (4 / 28.5, 4 / 30.0, 4 / 31.5):
            latent_filter, episode = LatentFilter(model), seen(model.config, 2)
            episode.stamp_ns[1] = episode.stamp_ns[0] + round((period_s + off_s) * 1e9)
            assert streamed(latent_filter, episode)[1].events == ("step",)

    @pytest.mark.parametrize("back_ns", [0, 1, 10**8])
    def test_a_frame_that_is_not_newer_changes_nothing(self, back_ns: int) -> None:
        model = small_model()
        episode = seen(model.config, 4)
        plain, disturbed = LatentFilter(model), LatentFilter(model)
        for t in range(3):
            expected = plain.update(episode.frame(t), episode.executed(t))
            output = disturbed.update(episode.frame(t), episode.executed(t))
        late = episode.frame(1)._replace(stamp_ns=episode.stamp_ns[2] - back_ns)
        refused = disturbed.update(late, episode.executed(1))
        assert refused.events == ("stale",) and equal(refused, output)
        expected = plain.update(episode.frame(3), episode.executed(3))
        assert equal(disturbed.update(episode.frame(3), episode.executed(3)), expected)

    def test_a_stale_row_waits_while_others_go_on(self) -> None:
        model = small_model()
        episode = seen(model.config, 4, rows=2)
        latent_filter = LatentFilter(model, rows=2)
        before = [latent_filter.update(episode.frame(t), episode.executed(t)) for t in range(2)][-1]
        episode.stamp_ns[2, 0] = episode.stamp_ns[1, 0] - 10**8
        output = latent_filter.update(episode.frame(2), episode.executed(2))
        assert output.events == ("stale", "step") and output.steps.tolist() == [1, 2]
        assert torch.equal(output.latent[0], before.latent[0]) and not torch.equal(output.latent[1], before.latent[1])
        assert output.surprise[0] == before.surprise[0]
        episode.stamp_ns[3, 0] = episode.stamp_ns[1, 0] + STEP_NS  # its next frame is one step after its last
        assert latent_filter.update(episode.frame(3), episode.executed(3)).events == ("step", "step")

    def test_a_clock_that_was_set_back_begins_anew(self) -> None:
        """Else a bag that is played in a loop would be stale for ever."""
        model = small_model()
        episode = seen(model.config, 4)
        latent_filter = LatentFilter(model)
        streamed(latent_filter, episode)
        episode.stamp_ns -= 10**10
        assert [output.events[0] for output in streamed(latent_filter, episode)] == ["gap", "step", "step", "step"]

    def test_reset_of_some_rows_leaves_the_others(self) -> None:
        model = small_model()
        episode = seen(model.config, 4, rows=3)
        latent_filter = LatentFilter(model, rows=3)
        for t in range(2):
            latent_filter.update(episode.frame(t), episode.executed(t))
        latent_filter.reset([1])
        assert latent_filter.update(episode.frame(2), episode.executed(2)).events == ("step", "start", "step")
        latent_filter.reset(np.array([True, False, False]))
        assert latent_filter.update(episode.frame(3), episode.executed(3)).steps.tolist() == [0, 1, 3]

    def test_a_latent_is_ready_after_the_warm_up_and_not_after_a_gap(self) -> None:
        model = small_model()
        episode = seen(model.config, 8)
        episode.stamp_ns[4:] += 10**9
        outputs = streamed(LatentFilter(model, limits=FilterLimits(warmup_steps=2)), episode)
        assert [bool(output.ready[0]) for output in outputs] == [False, False, True, True] + [False, False, True, True]

    def test_age_and_staleness_on_the_clock_of_the_stamps(self) -> None:
        model = small_model()
        latent_filter = LatentFilter(model, rows=2)
        assert latent_filter.stale(0).tolist() == [True, True]
        episode = seen(model.config, 1, rows=2)
        latent_filter.update(episode.frame(0))
        now_ns = int(episode.stamp_ns[0, 0])
        assert latent_filter.age_s(now_ns + 2 * 10**8) == pytest.approx([0.2, 0.2])
        for age_ns, stale in ((2 * 10**8, False), (4 * 10**8, True), (-4 * 10**8, True)):
            assert latent_filter.stale(now_ns + age_ns).tolist() == [stale, stale]
        latent_filter.reset([0])
        assert latent_filter.stale(now_ns).tolist() == [True, False]


class TestActions:
    def test_the_gripper_is_quantised_as_in_training(self) -> None:
        model = small_model()
        episode = seen(model.config, 2)
        latents = []
        for value in (0.3, 1.0, 0.0, -0.1, -1.0):
            episode.action[0, 0, 6] = value
            latents.append(streamed(LatentFilter(model), episode)[1].latent)
        assert torch.equal(latents[0], latents[1]) and torch.equal(latents[0], latents[2])
        assert torch.equal(latents[3], latents[4]) and not torch.equal(latents[0], latents[3])

    def test_what_is_beyond_the_scale_is_clipped_as_by_the_importer(self) -> None:
        model = small_model()
        episode = seen(model.config, 2)
        episode.action[0, 0, 0] = 1.0
        expected = streamed(LatentFilter(model), episode)[1]
        episode.action[0, 0, 0] = 1.7
        assert equal(streamed(LatentFilter(model), episode)[1], expected)

    def test_the_executed_action_matters_but_not_where_a_row_begins(self) -> None:
        model = small_model()
        episode = seen(model.config, 2)
        first = LatentFilter(model).update(episode.frame(0))
        assert equal(first, LatentFilter(model).update(episode.frame(0), np.full((1, 7), np.nan, np.float32)))
        outputs = []
        for action in (episode.action[0], -episode.action[0]):
            latent_filter = LatentFilter(model)
            latent_filter.update(episode.frame(0))
            outputs.append(latent_filter.update(episode.frame(1), action))
        assert not torch.equal(outputs[0].latent, outputs[1].latent)

    def test_chunked_model_goes_on_by_chunks(self) -> None:
        model = small_model(action_chunk=4)
        episode = seen(model.config, 4)
        assert episode.action.shape[-1] == 28
        outputs = streamed(LatentFilter(model), episode)
        assert [output.events[0] for output in outputs] == ["start", "step", "step", "step"]
        close = seen(model.config, 2)
        close.stamp_ns[1] = close.stamp_ns[0] + STEP_NS
        assert streamed(LatentFilter(model), close)[1].events == ("gap",)


class TestSampling:
    def test_draws_follow_from_seed_row_and_steps(self) -> None:
        model = small_model()
        episode = seen(model.config, 6, rows=2)
        for name in episode.images:
            episode.images[name][:, 1] = episode.images[name][:, 0]
        episode.proprio[:, 1], episode.action[:, 1] = episode.proprio[:, 0], episode.action[:, 0]
        once, again, other = (
            torch.stack([output.latent for output in streamed(LatentFilter(model, 2, "sample", seed), episode)])
            for seed in (1, 1, 2)
        )
        assert torch.equal(once, again)
        numbers = LatentFilter(model, 2, "sample", 1)
        assert not torch.equal(numbers._uniforms(np.array([3, 3])), numbers._uniforms(np.array([4, 4])))  # type: ignore[arg-type]
        assert not torch.equal(once, other)
        assert not torch.equal(once[:, 0], once[:, 1])

    def test_mode_needs_no_seed(self) -> None:
        model = small_model()
        episode = seen(model.config, 4)
        first, second = (encoded(LatentFilter(model, seed=seed), episode) for seed in (1, 2))
        assert equal(first, second)


def bad(frame: FilterFrame, **parts: Any) -> FilterFrame:
    return frame._replace(**parts)


def poisoned(values: Any, value: float = np.nan) -> Any:
    values = np.array(values)
    values[0, 3] = value
    return values


class TestBadInput:
    @pytest.mark.parametrize(
        "spoil, message",
        [
            (lambda f, a: (bad(f, proprio=poisoned(f.proprio)), a), r"proprio\[0, 3\] is nan; expected a finite"),
            (lambda f, a: (f, poisoned(a, np.inf)), r"executed_action\[0, 3\] is inf; expected a finite number"),
            (lambda f, a: (f, None), "no executed action for row 0; expected the one that led from its last frame"),
            (lambda f, a: (f, a[:, :6]), r"executed_action has shape \(1, 6\); expected \(1, 7\)"),
            (lambda f, a: (bad(f, images={"static": f.images["static"]}), a), "of static; .* needs static, gripper"),
            (
                lambda f, a: (bad(f, images={name: i.astype(np.float32) for name, i in f.images.items()}), a),
                r"image of static is float32 of shape \(1, 16, 16, 3\); expected uint8 of shape \(1, 16, 16, 3\)",
            ),
            (
                lambda f, a: (bad(f, images={name: i[:, :8] for name, i in f.images.items()}), a),
                r"shape \(1, 8, 16, 3\); expected uint8 of shape \(1, 16, 16, 3\)",
            ),
            (lambda f, a: (bad(f, proprio=f.proprio[:, :7]), a), r"proprio has shape \(1, 7\); expected \(1, 10\)"),
            (lambda f, a: (bad(f, stamp_ns=f.stamp_ns * 1e-9), a), "stamp_ns is float64 .* expected whole nanoseconds"),
        ],
    )  # fmt: skip
    def test_is_refused_and_leaves_the_filter_as_it_was(self, spoil: Any, message: str) -> None:
        model = small_model()
        episode = seen(model.config, 4)
        plain, disturbed = LatentFilter(model), LatentFilter(model)
        for t in range(2):
            plain.update(episode.frame(t), episode.executed(t))
            disturbed.update(episode.frame(t), episode.executed(t))
        with pytest.raises(UserError, match=message):
            disturbed.update(*spoil(episode.frame(2), episode.executed(2)))
        for t in (2, 3):
            expected = plain.update(episode.frame(t), episode.executed(t))
            assert equal(disturbed.update(episode.frame(t), episode.executed(t)), expected)

    def test_hybrid_needs_the_scene_state_and_reads_it(self) -> None:
        model = small_model(scene_state=3)
        episode = seen(model.config, 1)
        with pytest.raises(UserError, match="no scene state; the hybrid world model needs its 3 numbers"):
            LatentFilter(model).update(episode.frame(0)._replace(scene_state=None))
        assert episode.scene_state is not None
        first = LatentFilter(model).update(episode.frame(0))
        other = LatentFilter(model).update(episode.frame(0)._replace(scene_state=episode.scene_state[0] + 3.0))
        assert not torch.equal(first.latent, other.latent) or first.surprise != other.surprise

    def test_broken_weights_are_named(self) -> None:
        model = small_model()
        with torch.no_grad():
            model.rssm.gru.gates.weight[0, 0] = torch.nan
        episode = seen(model.config, 1)
        with pytest.raises(UserError, match="latent is not finite; its weights are broken"):
            LatentFilter(model).update(episode.frame(0))

    def test_read_only_and_mirrored_arrays_are_taken_in_silence(self) -> None:
        model = small_model()
        frame = seen(model.config, 1).frame(0)
        mirrored = {name: np.asarray(image)[..., ::-1] for name, image in frame.images.items()}
        for image in mirrored.values():
            image.flags.writeable = False
        copied = {name: torch.from_numpy(image.copy()) for name, image in mirrored.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            output = LatentFilter(model).update(frame._replace(images=mirrored))
        assert equal(output, LatentFilter(model).update(frame._replace(images=copied)))


def test_a_policy_can_learn_from_the_latents() -> None:
    model = small_model()
    episode = seen(model.config, 3)
    output = encoded(LatentFilter(model), episode)
    assert not output.latent.requires_grad
    policy = torch.nn.Linear(model.config.latent, 7)
    policy(output.latent).sum().backward()
    assert policy.weight.grad is not None and policy.weight.grad.abs().sum() > 0


def test_dreams_go_on_from_the_filters_state() -> None:
    model = small_model()
    episode = seen(model.config, 3, rows=2)
    latent_filter = LatentFilter(model, rows=2)
    output = streamed(latent_filter, episode)[-1]
    state = latent_filter.state
    assert torch.equal(state.latent, output.latent)
    latents, _ = model.rssm.imagine(state, torch.zeros(2, 3, 7), None)
    assert latents.shape == (2, 3, model.config.latent)
    state.deterministic.zero_()
    assert torch.equal(latent_filter.state.latent, output.latent)


def test_autocast_around_it_changes_nothing() -> None:
    model = small_model()
    episode = seen(model.config, 3)
    plain = encoded(LatentFilter(model), episode)
    with torch.autocast("cpu", torch.bfloat16):
        assert equal(encoded(LatentFilter(model), episode), plain)
    assert plain.latent.dtype == torch.float32
