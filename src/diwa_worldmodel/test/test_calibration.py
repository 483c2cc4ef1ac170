"""Signals against true errors, the KL after a start, and the bound on surprise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from world_model_samples import small_batch, small_config

from diwa_worldmodel.evaluation.calibration import fit_map, rank_correlation, reliability, settling
from diwa_worldmodel.evaluation.surprise import (
    FAULT_STEPS,
    NO_FAULT,
    SOUND_STEPS,
    SWAPPED,
    bound_surprise,
    faults,
    filtered_kl,
    running_mean,
)
from diwa_worldmodel.world_model import WorldModel


def test_the_map_rises_and_goes_through_the_means_of_a_true_relation() -> None:
    rng = np.random.default_rng(0)
    signal = rng.uniform(0, 10, 4000)
    fitted = fit_map(signal, 2.0 * signal + rng.normal(0, 1.0, 4000))
    assert (np.diff(fitted.error) >= 0).all()
    np.testing.assert_allclose(fitted(np.array([2.0, 5.0, 8.0])), [4.0, 10.0, 16.0], atol=0.3)


def test_the_map_of_a_falling_relation_is_flat() -> None:
    signal = np.linspace(0, 10, 500)
    fitted = fit_map(signal, 10.0 - signal)
    np.testing.assert_allclose(fitted.error, 5.0)
    assert fitted(np.array([-100.0])) == pytest.approx(5.0)


def test_a_calibrated_signal_lies_on_the_diagonal_of_play_that_the_map_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    signal = rng.gamma(2.0, 1.0, (60, 40))
    error = signal**2 + rng.normal(0, 0.1, signal.shape)
    found = reliability(("kl", "mse"), "", signal, error, np.arange(60))
    assert found is not None
    np.testing.assert_allclose(found.expected, found.true.mean, rtol=0.1, atol=0.1)
    assert found.rank_correlation > 0.95
    assert (found.true.low < found.true.high).all()


def test_a_signal_that_only_follows_the_horizon_tells_nothing_at_equal_horizon() -> None:
    rng = np.random.default_rng(0)
    horizon = np.broadcast_to(np.arange(30.0), (50, 30))
    signal, error = horizon + 0.1 * rng.normal(size=(50, 30)), horizon + rng.normal(size=(50, 30))
    found = reliability(("entropy", "mse"), "", signal, error, np.arange(50))
    assert found is not None
    assert found.rank_correlation > 0.9
    assert abs(found.at_equal_horizon) < 0.1


def test_windows_of_one_stretch_leave_nothing_to_check_with() -> None:
    assert reliability(("kl", "mse"), "", np.ones((3, 4)), np.ones((3, 4)), np.zeros(3)) is None


def test_rank_correlation_ignores_scale_and_is_unknown_for_a_constant() -> None:
    values = np.random.default_rng(0).normal(size=100)
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1.0)
    assert rank_correlation(values, -values) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(values, np.ones(100)))


def test_the_kl_settles_where_it_stays_near_its_later_level() -> None:
    kl = np.full((20, 40), 5.0) + np.random.default_rng(0).normal(0, 0.1, (20, 40))
    kl[:, :4] = [30.0, 20.0, 10.0, 7.0]
    found = settling(kl, np.arange(20))
    assert found.warmup_steps == 4
    assert found.level == pytest.approx(5.0, abs=0.1)
    assert settling(kl[:, 4:], np.arange(20)).warmup_steps == 0


def test_running_means_are_over_neighbours() -> None:
    values = np.array([[1.0, 2.0, 3.0, 10.0]])
    np.testing.assert_allclose(running_mean(values, 2), [[1.5, 2.5, 6.5]])
    np.testing.assert_allclose(running_mean(values, 1), values)


def test_the_bound_is_passed_by_one_sound_frame_in_a_thousand_and_by_faults() -> None:
    rng = np.random.default_rng(0)
    sound = rng.gamma(4.0, 2.0, (100, 200))
    length = SOUND_STEPS + FAULT_STEPS
    faulty = {NO_FAULT: rng.gamma(4.0, 2.0, (50, length)), SWAPPED: rng.gamma(4.0, 2.0, (50, length))}
    faulty[SWAPPED][:, SOUND_STEPS:] += 10.0
    found = bound_surprise(sound, faulty, warmup_steps=3)
    assert (sound > found.one_step.bound).mean() == pytest.approx(0.001, abs=2e-4)
    assert found.one_step.false_alarm_share == pytest.approx(0.001, abs=1e-3)
    assert found.one_step.false_alarm_steps_per_minute == pytest.approx(450 * found.one_step.false_alarm_share)
    assert found.mean.bound < found.one_step.bound
    assert found.mean.of(SWAPPED).detected == 1.0
    assert found.mean.of(NO_FAULT).detected < 0.1
    assert found.one_step.samples == 20_000
    delay = found.mean.of(SWAPPED).median_delay_s
    assert 0.0 < delay <= 1.0
    chunked = bound_surprise(sound, faulty, warmup_steps=3, step_s=4 / 7.5).mean
    assert chunked.of(SWAPPED).median_delay_s == pytest.approx(4 * delay)
    assert chunked.false_alarm_steps_per_minute == pytest.approx(found.mean.false_alarm_steps_per_minute / 4)
    assert (found.mean.within_s, chunked.within_s) == pytest.approx((FAULT_STEPS / 7.5, 4 * FAULT_STEPS / 7.5))


@pytest.mark.parametrize("cameras", [["static"], ["static", "gripper"]])
def test_faults_change_what_they_are_called_and_only_after_the_sound_steps(cameras: list[str]) -> None:
    config = small_config(cameras=cameras, training={"length": SOUND_STEPS + FAULT_STEPS})
    model, batch = WorldModel(config.model).eval(), small_batch(config)
    tried = faults(model, batch)
    assert list(tried)[0] == NO_FAULT
    assert (SWAPPED in tried) == (len(cameras) > 1)
    sound = filtered_kl(model, batch)
    for name, fault in tried.items():
        made = fault(batch)
        changed = filtered_kl(model, made)
        if name == NO_FAULT:
            assert torch.equal(changed, sound)
        elif name != SWAPPED:
            assert torch.equal(changed[:, :SOUND_STEPS], sound[:, :SOUND_STEPS])
            assert not torch.equal(changed[:, SOUND_STEPS:], sound[:, SOUND_STEPS:])
    if len(cameras) > 1:
        swapped = tried[SWAPPED](batch)["images"]
        assert torch.equal(swapped["static"], batch["images"]["gripper"])
        assert torch.equal(swapped["gripper"], batch["images"]["static"])


def test_a_frozen_camera_shows_its_last_sound_picture() -> None:
    config = small_config(training={"length": SOUND_STEPS + FAULT_STEPS})
    batch = small_batch(config)
    frozen = faults(WorldModel(config.model), batch)["gripper camera frozen"](batch)["images"]
    assert (frozen["gripper"][:, SOUND_STEPS:] == frozen["gripper"][:, SOUND_STEPS - 1 : SOUND_STEPS]).all()
    assert torch.equal(frozen["static"], batch["images"]["static"])
    assert not torch.equal(frozen["gripper"], batch["images"]["gripper"])
