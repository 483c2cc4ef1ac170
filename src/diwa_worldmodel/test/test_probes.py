"""Linear probes: ridge regression, quantities with units, and how readings are judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from world_model_samples import SCENE_STATE_NAMES, small_config, small_data_set

from diwa_conventions.actions import rotation_6d
from diwa_worldmodel.dataset.sampler import ResidentFrames
from diwa_worldmodel.evaluation.probes import (
    Probe,
    Readings,
    RidgeSums,
    all_targets,
    balance_classes,
    fit_probe,
    fit_ridge,
    frame_numbers,
    judge_probe,
    with_constant,
)
from diwa_worldmodel.evaluation.quantities import Quantity, quantities
from diwa_worldmodel.evaluation.windows import choose_windows, observe, read_windows
from diwa_worldmodel.world_model import WorldModel

NUMBER = Quantity("drawer_m", "number", (0,), "mm", 10.0, 1000.0)
LAMP = Quantity("lamp", "two-valued", (0,), "", 0.5)


def _rows(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    targets = features[:, :2] * 3.0 + 1.0 + 0.1 * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return features, targets


def _sums(features: torch.Tensor, targets: torch.Tensor) -> RidgeSums:
    sums = RidgeSums(features.shape[1], targets.shape[1])
    for first in range(0, len(features), 7):
        sums.add(features[first : first + 7], targets[first : first + 7])
    return sums


def test_ridge_from_sums_is_ridge_from_all_rows_at_once() -> None:
    features, targets = _rows(200)
    weights = _sums(features, targets).solve(5.0)
    centred = features - features.mean(dim=0)
    expected = torch.linalg.solve(centred.T @ centred + 5.0 * torch.eye(6), centred.T @ (targets - targets.mean(dim=0)))
    torch.testing.assert_close(weights[1:], expected, rtol=1e-6, atol=1e-8)
    residual = (with_constant(features) @ weights - targets).mean(dim=0)
    torch.testing.assert_close(residual, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_squared_error_from_sums_is_that_of_the_rows() -> None:
    features, targets = _rows(100)
    other_features, other_targets = _rows(50, seed=1)
    weights = _sums(features, targets).solve(1.0)
    expected = (with_constant(other_features) @ weights - other_targets).square().sum(dim=0)
    torch.testing.assert_close(_sums(other_features, other_targets).squared_error(weights), expected)


def test_the_penalty_is_chosen_on_other_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 40, generator=generator, dtype=torch.float64)
    unrelated = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    related = noise[:, :1].clone()
    targets = torch.cat([unrelated, related], dim=1)
    _, penalties = fit_ridge(_sums(noise[:48], targets[:48]), _sums(noise[48:], targets[48:]))
    assert penalties[0] > penalties[1]


def test_a_rare_value_is_read_as_often_as_a_common_one() -> None:
    generator = torch.Generator().manual_seed(0)
    lit = (torch.rand(2000, 1, generator=generator) < 0.05).double()
    features = lit + 0.4 * torch.randn(2000, 1, generator=generator)
    sums = _sums(features, lit)
    weights = sums.solve(1.0)

    def found(weights: torch.Tensor) -> float:
        return float(((with_constant(features) @ weights)[lit > 0.5] > 0.5).double().mean())

    before = found(weights)
    balance_classes(weights, sums, 0)
    assert before < 0.6
    assert found(weights) > 0.8


def test_quantities_take_units_from_names_and_leave_out_what_never_changes() -> None:
    scene = np.array([[0.0, 0.0, 1.0, 7.0, 0.1], [0.2, 1.0, 1.0, 9.5, 3.0], [0.1, 0.0, 1.0, 8.0, -3.0]], np.float32)
    found = {one.name: one for one in quantities(("drawer_m", "led", "stuck", "knob", "cube_yaw_rad"), scene)}
    assert list(found) == ["position", "rotation", "gripper_width", "drawer_m", "led", "knob", "cube_yaw_rad"]
    assert [found[name].kind for name in ("drawer_m", "led", "knob", "cube_yaw_rad")] == [
        "number", "two-valued", "number", "angle"
    ]  # fmt: skip
    assert found["drawer_m"].unit == "mm"
    assert found["led"].columns == (11,)
    assert [one.name for one in quantities((), None)] == ["position", "rotation", "gripper_width"]


def test_errors_are_in_millimetres_and_degrees() -> None:
    position, rotation, width = quantities((), None)
    assert position.error(np.array([0.1, 0.0, 0.2]), np.array([0.1, 0.03, 0.24])) == pytest.approx(50.0)
    assert width.error(np.array([0.05]), np.array([0.08])) == pytest.approx(30.0)
    before, after = Rotation.identity(), Rotation.from_rotvec([0.0, np.radians(30.0), 0.0])
    six = [rotation_6d(one.as_matrix()) for one in (before, after)]
    assert rotation.error(2.0 * six[0], six[1]) == pytest.approx(30.0)
    yaw = Quantity("yaw_rad", "angle", (0,), "deg", 10.0)
    ends = [yaw.targets(np.array([angle])) for angle in (np.pi - 0.1, -np.pi + 0.1)]
    assert yaw.error(*ends) == pytest.approx(np.degrees(0.2))


def test_two_values_are_told_apart_midway_between_them() -> None:
    pump = Quantity("pump", "two-valued", (0,), "", 0.5, levels=(2.0, 6.0))
    np.testing.assert_array_equal(pump.targets(np.array([[2.0], [6.0]])), [[0.0], [1.0]])
    np.testing.assert_array_equal(pump.error(np.array([[0.4], [0.6]]), np.array([[1.0], [1.0]])), [1.0, 0.0])


def _probe(quantity: Quantity, mean: float, variance: float) -> Probe:
    return Probe((quantity,), torch.zeros(2, 1), np.array([mean]), np.array([variance]), 100, (1.0,))


def test_r2_is_one_for_the_truth_and_zero_for_the_training_mean() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0.1, 0.05, (30, 3, 1))
    readings = Readings(truth, closed=truth, open=truth + 0.02, held=truth[:, :1])
    result = judge_probe(_probe(NUMBER, 0.1, 0.05**2), readings, np.arange(30), 0)[0]
    np.testing.assert_allclose(result.r2["closed_loop"], 1.0)
    np.testing.assert_allclose(result.r2["training_mean"], 0.0)
    np.testing.assert_allclose(result.errors["open_loop"].mean, 20.0)
    assert result.errors["value_held"].mean[0] == 0.0
    assert (result.moved["count"][1:] > 15).all()


def test_r2_is_not_told_of_what_hardly_varies() -> None:
    truth = np.full((30, 2, 1), 0.1) + np.random.default_rng(0).normal(0, 1e-4, (30, 2, 1))
    readings = Readings(truth, truth, truth, truth[:, :1])
    result = judge_probe(_probe(NUMBER, 0.1, 0.05**2), readings, np.arange(30), 0)[0]
    assert np.isnan(result.r2["open_loop"]).all()


def test_balanced_accuracy_counts_both_values_alike() -> None:
    truth = np.zeros((10, 1, 1))
    truth[0] = 1.0
    always_off = np.zeros_like(truth)
    result = judge_probe(_probe(LAMP, 0.1, 0.09), Readings(truth, truth, always_off, truth), np.arange(10), 0)[0]
    assert result.balanced_accuracy["open_loop"][0] == pytest.approx(0.5)
    assert result.errors["open_loop"].mean[0] == pytest.approx(0.1)
    assert result.balanced_accuracy["closed_loop"][0] == 1.0
    assert not result.r2


def test_a_probe_finds_what_is_in_the_latent(tmp_path_factory: pytest.TempPathFactory) -> None:
    source = ResidentFrames(small_data_set(tmp_path_factory.mktemp("play"), scene_state=True).load())
    torch.manual_seed(0)
    model = WorldModel(small_config().model).eval()
    named = quantities(SCENE_STATE_NAMES, source.numbers.scene_state)
    probe = fit_probe(model, source, choose_windows(source.episodes, 20, 24), named, 0, torch.device("cpu"))
    assert probe.frames == 24 * 18
    assert probe.columns(named[1]) == slice(3, 9)
    width = probe.columns(named[2])
    assert probe.mean[width][0] == pytest.approx(0.04, abs=0.02)
    # Also of a random network h holds the position that it was fed: better than guessing the mean.
    batch = read_windows(source, choose_windows(source.episodes, 20, 24), 1, model.config.discrete)
    truth = all_targets(named, frame_numbers(batch))[:, 2:]
    found = probe.read(observe(model, batch, batch["uniforms"]).latent)[:, 2:]
    for name in ("square_x", "square_y"):
        column = probe.columns(next(one for one in named if one.name == name)).start
        left = np.square(found - truth)[..., column].sum() / np.square(probe.mean - truth)[..., column].sum()
        assert left < 0.6
    again = fit_probe(model, source, choose_windows(source.episodes, 20, 24), named, 0, torch.device("cpu"))
    assert torch.equal(probe.weights, again.weights)
