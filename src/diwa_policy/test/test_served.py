"""What acts is checked to belong together before anything moves."""

import json
import math

import pytest
from policy_samples import SKILL, saved_policy, saved_reward, small_world_model

from diwa_conventions.errors import UserError
from diwa_policy.serving.served import EVALUATION, load_served, rehearse


@pytest.fixture
def folder(tmp_path, world_model):
    saved_policy(tmp_path / "policy", world_model.hash)
    saved_reward(tmp_path / "reward", world_model.hash)
    return tmp_path


def evaluated(world_model, content):
    path = world_model.folder / EVALUATION
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def bounds_of(world_model_hash):
    bound = {"one_step": {"bound": 80.0}, "mean": {"bound": 40.0, "steps": 8}, "warmup_steps": 3}
    return {"world_model": {"hash": world_model_hash}, "surprise": bound}


def test_everything_is_loaded_and_told(folder, world_model):
    served = load_served(folder / "policy", world_model.folder, folder / "reward", "torch")
    assert (served.skill, served.threshold, served.inference.backend) == (SKILL, 0.5, "torch")
    rehearse(served)


def test_what_is_missing_is_a_warning_with_its_command(folder, world_model):
    served = load_served(folder / "policy", world_model.folder, None, "torch")
    assert math.isnan(served.threshold) and math.isinf(served.bounds.mean)
    first, second = served.warnings
    assert "diwa evaluate world-model" in first and "no reward classifier" in second


def test_a_policy_that_was_not_promoted_is_served_with_a_warning(folder, world_model):
    saved_policy(folder / "refused", world_model.hash, promoted=False, reasons=("it dreams success",))
    served = load_served(folder / "refused", world_model.folder, folder / "reward", "torch")
    assert any("was not promoted by its fine-tuning: it dreams success" in line for line in served.warnings)


def test_inference_is_made_once_for_a_policy(folder, world_model):
    known = {}
    first = load_served(folder / "policy", world_model.folder, None, "torch", known=known)
    again = load_served(folder / "policy", world_model.folder, None, "torch", known=known)
    assert first.inference is again.inference


def test_bounds_come_from_the_world_models_evaluation(tmp_path):
    world_model = small_world_model(tmp_path / "world_model")
    saved_policy(tmp_path / "policy", world_model.hash)
    evaluated(world_model, bounds_of(world_model.hash))
    bounds = load_served(tmp_path / "policy", world_model.folder, None, "torch").bounds
    assert (bounds.one_step, bounds.mean, bounds.mean_steps, bounds.warmup_steps) == (80.0, 40.0, 8, 3)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", "cannot be read"),
        ({"surprise": {}}, "has no bounds on surprise"),
        (bounds_of("ef" * 32), "is about another world model"),
    ],
)
def test_bounds_of_another_or_broken_evaluation_are_refused(tmp_path, content, line):
    world_model = small_world_model(tmp_path / "world_model")
    saved_policy(tmp_path / "policy", world_model.hash)
    evaluated(world_model, content)
    with pytest.raises(UserError, match=line) as error:
        load_served(tmp_path / "policy", world_model.folder, None, "torch")
    assert "diwa evaluate world-model" in str(error.value)


def test_policies_of_another_world_model_are_refused(folder, tmp_path):
    other = small_world_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="on the latents of world model"):
        load_served(folder / "policy", other.folder, None, "torch")


@pytest.mark.parametrize(
    ("settings", "line"), [({"scene_state": 12}, "hybrid"), ({"action_chunk": 2}, "takes 2 actions a step")]
)
def test_world_models_that_need_what_a_robot_lacks_are_refused(tmp_path, settings, line):
    world_model = small_world_model(tmp_path / "world_model", **settings)
    saved_policy(tmp_path / "policy", world_model.hash)
    with pytest.raises(UserError, match=line):
        load_served(tmp_path / "policy", world_model.folder, None, "torch")
