"""Early warnings: not finite, KL collapse, gradient spikes."""

import math

import pytest

from diwa_worldmodel.training.health import COLLAPSE_STEPS, SPIKE_STEPS, DivergedError, Health


def numbers(kl: float = 3.0, reconstruction: float = 50.0, norm: float = 10.0) -> dict[str, float]:
    parts = {"reconstruction_static": reconstruction, "reconstruction_gripper": reconstruction}
    return {"loss": 2 * reconstruction + kl, "kl": kl, **parts, "gradient_norm": norm}


def warnings_of(kl: float, reconstructions: list[float]) -> list[str]:
    health = Health()
    seen = [health.see(step, numbers(kl, value)) for step, value in enumerate(reconstructions, 1)]
    return [line for line in seen if line]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["kl", "reconstruction_gripper", "gradient_norm"])
def test_number_that_is_none_stops_the_training_and_is_named(name, bad):
    with pytest.raises(DivergedError, match=f"step 12: {name} not finite"):
        Health().see(12, {**numbers(), name: bad})


def test_kl_near_zero_without_progress_is_warned_of_once():
    (line,) = warnings_of(0.02, [50.0] * (3 * COLLAPSE_STEPS))
    assert f"step {COLLAPSE_STEPS}:" in line and "0.02 nat" in line and "model.kl_scale" in line


def test_kl_near_zero_is_no_alarm_while_the_reconstruction_falls():
    assert warnings_of(0.02, [100.0 * 0.999**step for step in range(3 * COLLAPSE_STEPS)]) == []


def test_kl_near_zero_is_an_alarm_as_soon_as_the_reconstruction_stands_still():
    falling = [100.0 * 0.999**step for step in range(COLLAPSE_STEPS)]
    assert len(warnings_of(0.02, falling + [falling[-1]] * COLLAPSE_STEPS)) == 1


def test_latent_that_is_used_is_no_alarm_when_the_reconstruction_stands_still():
    assert warnings_of(0.5, [50.0] * (3 * COLLAPSE_STEPS)) == []


def test_beginning_is_no_alarm():
    assert warnings_of(0.0, [50.0] * (COLLAPSE_STEPS - 1)) == []


def test_gradient_spikes_are_counted_against_the_median():
    health = Health()
    for step in range(1, SPIKE_STEPS + 1):
        health.see(step, numbers(norm=10.0))
    for step, norm in enumerate((99.0, 101.0, 10.0, 5000.0), SPIKE_STEPS + 1):
        health.see(step, numbers(norm=norm))
    assert health.gradient_spikes == 2


def test_first_steps_are_no_spikes():
    health = Health()
    for step in range(1, SPIKE_STEPS):
        health.see(step, numbers(norm=10.0**step if step < 10 else 1.0))
    assert health.gradient_spikes == 0
