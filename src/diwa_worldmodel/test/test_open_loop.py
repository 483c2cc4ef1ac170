"""Windows, open-loop prediction, errors of pictures by horizon, and the intervals around them."""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from world_model_samples import small_config, small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.sampler import FrameSource, ResidentFrames
from diwa_worldmodel.evaluation.horizons import camera_errors, psnr_db
from diwa_worldmodel.evaluation.intervals import estimate
from diwa_worldmodel.evaluation.open_loop import (
    AREAS,
    CLOSED_LOOP,
    OPEN_LOOP,
    OTHER_ACTIONS,
    PREDICTORS,
    area_weights,
    dream,
    dreams,
    picture_errors,
    squared_error,
    training_pictures,
)
from diwa_worldmodel.evaluation.windows import batches, choose_windows, draws, observe, read_windows
from diwa_worldmodel.world_model import WorldModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ResidentFrames:
    return ResidentFrames(small_data_set(tmp_path_factory.mktemp("play"), scene_state=True).load())


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(small_config().model).eval()


def test_windows_lie_in_one_episode_and_are_spread_over_all() -> None:
    episodes = [Episode(0, 100), Episode(100, 5), Episode(105, 50)]
    windows = choose_windows(episodes, 20, 12)
    assert len(windows) == 12
    for window in windows:
        assert any(one.start <= window.begin and window.begin + 20 <= one.end for one in episodes)
    assert windows[0].begin == 0
    assert windows[-1].begin == 135


def test_windows_of_one_stretch_overlap_and_those_of_different_episodes_share_none() -> None:
    windows = choose_windows([Episode(0, 60), Episode(60, 60)], 20, 1000)
    assert len(windows) == 2 * 41
    assert len({window.stretch for window in windows}) == 6
    stretches = [{window.stretch for window in windows if (window.begin < 60) == first} for first in (True, False)]
    assert not stretches[0] & stretches[1]


def test_windows_longer_than_every_episode_are_refused() -> None:
    with pytest.raises(UserError, match="no episode has 61 frames, the longest of 2 has 60"):
        choose_windows([Episode(0, 60), Episode(60, 40)], 61, 4)


def test_batches_hold_every_window_once_and_neighbours_of_a_batch_are_far_apart() -> None:
    windows = choose_windows([Episode(0, 5000)], 82, 200)
    found = list(batches(windows))
    assert sorted(number for batch in found for number in batch) == list(range(200))
    assert all(np.diff(batch).min() >= len(found) for batch in found)


def test_a_window_reads_the_action_that_led_to_each_frame(source: ResidentFrames) -> None:
    windows = choose_windows(source.episodes, 10, 3)
    batch = read_windows(source, windows, seed=0, groups=4)
    for row, window in enumerate(windows):
        actions = source.numbers.action[window.begin : window.begin + 10]
        assert (batch["previous_action"][row, 0] == 0).all()
        np.testing.assert_array_equal(batch["previous_action"][row, 1:], actions[:-1])
    assert batch["reset"][:, 0].all()
    assert not batch["reset"][:, 1:].any()


def test_random_numbers_of_a_window_do_not_depend_on_its_batch(source: ResidentFrames) -> None:
    windows = choose_windows(source.episodes, 10, 6)
    together, alone = draws(3, windows, 4, "z"), draws(3, windows[4:5], 4, "z")
    assert torch.equal(together[4], alone[0])
    assert not torch.equal(alone, draws(4, windows[4:5], 4, "z"))
    assert not torch.equal(alone, draws(3, windows[4:5], 4, "one step"))


def test_the_closed_loop_is_what_the_model_observes(source: ResidentFrames, model: WorldModel) -> None:
    batch = read_windows(source, choose_windows(source.episodes, 12, 5), 0, 4)
    own = observe(model, batch, batch["uniforms"])
    with torch.inference_mode():
        expected = model.observe(batch, model.rssm.initial(5))
    torch.testing.assert_close(own.latent, expected.latent)


def test_a_dream_sees_the_context_and_nothing_after_it(source: ResidentFrames, model: WorldModel) -> None:
    model = copy.deepcopy(model)
    model.rssm.posterior_logits.weight.data *= 100.0  # so that classes depend on what is seen, not on draws alone
    windows = choose_windows(source.episodes, 12, 4)
    batch = read_windows(source, windows, 0, 4)
    ahead = draws(0, windows, 4, "one step")
    before = dream(model, batch, 2, ahead)
    for images in batch["images"].values():
        images[:, 2:] = 255 - images[:, 2:]
    batch["proprio"][:, 2:] += 1.0
    after = dream(model, batch, 2, ahead)
    assert torch.equal(before.open, after.open)
    assert not torch.equal(before.closed, after.closed)
    batch["images"]["static"][:, 1] = 255 - batch["images"]["static"][:, 1]
    assert not torch.equal(before.open, dream(model, batch, 2, ahead).open)


def test_the_other_dream_differs_in_its_actions_alone(source: ResidentFrames, model: WorldModel) -> None:
    windows = choose_windows(source.episodes, 12, 4)
    batch = read_windows(source, windows, 0, 4)
    own = dream(model, batch, 2, draws(0, windows, 4, "one step"))
    batch["previous_action"][:, 2:] = batch["previous_action"][:, 2:].roll(2, dims=0)
    others = dream(model, batch, 2, draws(0, windows, 4, "one step"))
    torch.testing.assert_close(own.other, others.open)
    assert not torch.equal(own.other, own.open)


def test_a_dream_does_not_depend_on_the_windows_beside_it(source: ResidentFrames, model: WorldModel) -> None:
    windows = choose_windows(source.episodes, 12, 6)
    together = next(dreams(model, source, windows, 2, 0, CPU))[2]
    alone = next(dreams(model, source, windows[3:4], 2, 0, CPU))[2]
    torch.testing.assert_close(together.open[3:4], alone.open)


def test_errors_of_areas_are_means_over_their_pixels() -> None:
    changing = torch.zeros(4, 4, dtype=torch.bool)
    changing[0, 0] = True
    shown, truth = torch.zeros(1, 1, 4, 4, 3), torch.zeros(1, 1, 4, 4, 3, dtype=torch.uint8)
    truth[0, 0, 0, 0] = 255
    whole, changed = squared_error(shown, truth, area_weights(changing))[0, 0].tolist()
    assert whole == pytest.approx(1 / 16)
    assert changed == pytest.approx(1.0)
    still = area_weights(torch.zeros(4, 4, dtype=torch.bool))
    assert squared_error(shown, truth, still)[0, 0].isnan().tolist() == [False, True]


@torch.inference_mode()
def test_trivial_predictions_are_the_pictures_that_they_are_called(source: ResidentFrames, model: WorldModel) -> None:
    windows = choose_windows(source.episodes, 8, 3)
    batch = read_windows(source, windows, 0, 4)
    dreamt = dream(model, batch, 2, draws(0, windows, 4, "one step"))
    pictures = training_pictures(source, model.config.cameras, choose_windows(source.episodes, 10, 20))
    errors, one_step = picture_errors(model, batch["images"], dreamt, pictures)
    truth = batch["images"]["gripper"].float() / 255
    shown = {
        "last_frame": truth[:, 1:2],
        "mean_frame": pictures.mean["gripper"] / 255,
        "reconstruction_held": model.decode(dreamt.closed[:, 1:2])["gripper"].float() / 255,
        CLOSED_LOOP: model.decode(dreamt.closed[:, 2:])["gripper"].float() / 255,
        OPEN_LOOP: model.decode(dreamt.open)["gripper"].float() / 255,
        OTHER_ACTIONS: model.decode(dreamt.other)["gripper"].float() / 255,
    }
    assert errors["gripper"].shape == (3, len(PREDICTORS), len(AREAS), 6)
    assert one_step.shape == (3, 8)
    for number, word in enumerate(PREDICTORS):
        expected = (shown[word] - truth[:, 2:]).square().mean(dim=(-3, -2, -1))
        torch.testing.assert_close(errors["gripper"][:, number, 0], expected, rtol=1e-4, atol=1e-6)


class _Pictures:
    """An episode of 100 black frames in which a pixel blinks, one lights up once and one hardly changes."""

    episodes = (Episode(0, 100),)

    def read(self, spans: object) -> dict[str, npt.NDArray[np.uint8]]:
        images = np.zeros((1, 100, 4, 4, 3), np.uint8)
        images[0, ::2, 0, 0] = 200
        images[0, 50, 1, 1] = 200
        images[0, ::2, 2, 2] = 16
        return {"static": images}


def test_only_pixels_that_show_different_things_change() -> None:
    source = cast(FrameSource, _Pictures())
    pictures = training_pictures(source, ["static"], choose_windows(source.episodes, 100, 1))
    changing = pictures.weights["static"][:, 1].reshape(4, 4, 3)[..., 0] > 0
    assert changing.nonzero().tolist() == [[0, 0]]
    assert pictures.mean["static"][0, 0].tolist() == [100.0, 100.0, 100.0]


def test_a_dream_as_good_as_the_truth_beats_every_baseline_and_a_late_failure_is_told() -> None:
    errors = np.full((20, len(PREDICTORS), len(AREAS), 10), 0.02) + np.random.default_rng(0).normal(
        0, 1e-4, (20, len(PREDICTORS), len(AREAS), 10)
    )
    errors[:, PREDICTORS.index(OPEN_LOOP)] = 0.01
    errors[:, PREDICTORS.index("last_frame"), :, 6:8] = 0.005
    found = camera_errors("static", errors, np.arange(20))
    assert found.not_better_at("mean_frame", 10) == []
    assert found.not_surely_better_at("mean_frame", 10) == []
    assert found.not_better_at("last_frame", 10) == [7, 8]
    assert found.not_better_at("last_frame", 6) == []
    assert psnr_db(np.array([0.01])).item() == pytest.approx(20.0)


def test_intervals_cover_the_mean_and_count_stretches_rather_than_windows() -> None:
    rng = np.random.default_rng(0)
    per_stretch = rng.normal(size=(40, 1))
    independent = estimate(per_stretch, np.arange(40))
    repeated = estimate(np.repeat(per_stretch, 25, axis=0), np.repeat(np.arange(40), 25))
    assert independent.low[0] < independent.mean[0] < independent.high[0]
    assert repeated.high[0] - repeated.low[0] == pytest.approx(independent.high[0] - independent.low[0], rel=0.2)
    expected = 2 * 1.96 * per_stretch.std() / np.sqrt(40)
    assert independent.high[0] - independent.low[0] == pytest.approx(expected, rel=0.15)


def test_one_stretch_alone_has_no_interval_and_what_is_unknown_is_left_out() -> None:
    one = estimate(np.array([[1.0, np.nan], [3.0, np.nan]]), np.array([5, 5]))
    assert one.mean[0] == 2.0
    assert np.isnan([one.low[0], one.high[0], one.mean[1]]).all()
    assert one.to_json()["high"] == [None, None]
