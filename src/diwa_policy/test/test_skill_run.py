"""A run of a skill: the same latents and actions as a trial, and every reason to stop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_samples import small_policy
from serving_lab import Lab, always, lab, served

from diwa_conventions.errors import UserError
from diwa_policy.policy import draw_noise
from diwa_policy.serving.served import SurpriseBounds
from diwa_policy.serving.skill_run import End, RunLimits, SkillRun
from diwa_worldmodel.latent_filter import FilterFrame, LatentFilter
from diwa_worldmodel.world_model import WorldModel


def a_run(loaded, limits=None, seed=7, time_limit_s=60.0):
    return SkillRun(loaded, LatentFilter(loaded.world_model.model), limits or RunLimits(), seed, time_limit_s)


def seen(run, room: Lab, frames: int):
    return [run.see(frame) for frame in room.run(4 * frames + 1)]


def by_hand(loaded, frames, seed):
    """Actions as trials.py computes them: every T_a frames a chunk on the filter's latent."""
    policy, generator = loaded.policy.policy, torch.Generator().manual_seed(seed)
    latent_filter, actions, chunk = LatentFilter(loaded.world_model.model), [], None
    for number, frame in enumerate(frames):
        images = {name: image[None] for name, image in frame.images.items()}
        stamp = np.array([frame.stamp_ns])
        executed = None if frame.executed is None else frame.executed[None].astype(np.float32)
        output = latent_filter.update(FilterFrame(images, frame.proprio[None].astype(np.float32), stamp), executed)
        if number % policy.config.executed_actions == 0:
            noise = draw_noise((1, policy.steps + 1, policy.chunk), generator)
            chunk = policy.act(output.latent, noise)[0].double().numpy()
        action = chunk[number % policy.config.executed_actions].copy()
        action[6] = 1.0 if action[6] >= 0.0 else -1.0
        actions.append(action)
    return actions


def test_actions_are_those_of_a_trial_bit_for_bit(tmp_path):
    loaded = served(tmp_path)
    run, frames = a_run(loaded, seed=11), lab().run(41)
    np.testing.assert_array_equal([run.see(frame).action for frame in frames], by_hand(loaded, frames, 11))


def test_same_seed_same_actions_another_seed_others(tmp_path):
    loaded, frames = served(tmp_path), lab().run(9)
    first, again, other = (
        [a.see(frame).action for frame in frames] for a in (a_run(loaded), a_run(loaded), a_run(loaded, seed=8))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.array(first) - np.array(other)).max() > 1e-3


def test_decides_every_t_a_frames_or_as_configured(tmp_path):
    loaded = served(tmp_path)
    assert [one.decided for one in seen(a_run(loaded), lab(), 8)] == [True, False, False, False] * 2 + [True]
    often = seen(a_run(loaded, RunLimits(executed_actions=1)), lab(), 3)
    assert [one.decided for one in often] == [True] * 4


def test_stands_still_until_the_filter_has_warmed_up(tmp_path):
    loaded = served(tmp_path, small_policy(warmup_steps=2))
    first = seen(a_run(loaded), lab(), 4)
    np.testing.assert_array_equal([one.action for one in first[:2]], [[0, 0, 0, 0, 0, 0, 1]] * 2)
    assert [one.decided for one in first] == [False, False, True, False, False]


def test_more_actions_than_planned_are_refused(tmp_path):
    with pytest.raises(UserError, match="executed_actions is 9; expected at most 4"):
        a_run(served(tmp_path), RunLimits(executed_actions=9))


def test_classifier_ends_the_run_but_not_at_its_first_frame(tmp_path):
    first, second = seen(a_run(served(tmp_path, classifier=always())), lab(), 1)
    assert first.action is not None and first.end is None
    assert (second.action, second.end) == (None, End.SUCCESS)
    assert second.reason.startswith("success: the classifier gives 0.")


def test_classifier_only_watches_where_it_may_not_stop(tmp_path):
    run = a_run(served(tmp_path, classifier=always()), RunLimits(stop_on_success=False))
    found = seen(run, lab(), 4)
    assert all(one.action is not None for one in found)
    assert run.best_probability == max(one.probability for one in found[1:])


def test_without_a_classifier_only_time_ends_it(tmp_path):
    found = seen(a_run(served(tmp_path, rewarded=False), time_limit_s=0.4), lab(), 3)
    assert [one.end for one in found] == [None, None, None, End.TIME]
    assert np.isnan(found[-1].probability) and found[-1].reason == "time limit: 0.4 s"


def test_lost_frames_end_it(tmp_path):
    run = a_run(served(tmp_path))
    outcomes = [run.see(frame) for frame in lab(missing=frozenset(range(6, 15))).run(17)]
    assert outcomes[-1].end is End.FAULT and outcomes[-1].action is None
    assert "frames were lost" in outcomes[-1].reason


def test_a_jump_of_the_arm_ends_it(tmp_path):
    run, frames = a_run(served(tmp_path)), lab().run(9)
    run.see(frames[0])
    far = replace(frames[1].pose, position=frames[1].pose.position + [0.0, 0.6, 0.0])
    end = run.see(replace(frames[1], pose=far))
    assert (end.end, end.action) == (End.FAULT, None)
    assert "state jumped by 0.60 m" in end.reason


def test_values_that_are_not_finite_end_it_with_their_place(tmp_path):
    run, frames = a_run(served(tmp_path)), lab().run(5)
    run.see(frames[0])
    end = run.see(replace(frames[1], proprio=frames[1].proprio * np.nan))
    assert end.end is End.FAULT and "proprio[0, 0] is nan" in end.reason


def test_a_policy_whose_action_is_not_finite_moves_nothing(tmp_path):
    loaded = served(tmp_path)
    broken = replace(loaded.inference, decide=lambda latent, noise: torch.full((4, 7), torch.nan))
    end = a_run(replace(loaded, inference=broken)).see(lab().run(1)[0])
    assert (end.end, end.action) == (End.FAULT, None)


def test_surprise_above_its_bound_ends_it(tmp_path):
    bounds = SurpriseBounds(one_step=1e-3, mean=1e-6, mean_steps=2, warmup_steps=1)
    end = seen(a_run(served(tmp_path, bounds=bounds)), lab(), 2)[-1]
    assert end.end is End.FAULT and end.reason.startswith("the world model is surprised: ")
    assert end.mean_surprise > 1.5e-6


def test_a_factor_of_zero_lets_surprise_stop_nothing(tmp_path):
    bounds = SurpriseBounds(one_step=1e-3, mean=1e-6, mean_steps=2, warmup_steps=1)
    run = a_run(served(tmp_path, bounds=bounds), RunLimits(surprise_factor=0.0))
    assert all(one.end is None for one in seen(run, lab(), 6))


def swapped(frame):
    return replace(frame, images={"static": frame.images["gripper"], "gripper": frame.images["static"]})


def knows(monkeypatch, frame):
    """The model decodes what the sound frame shows, whatever it sees."""
    views = {name: torch.from_numpy(image)[None] for name, image in frame.images.items()}
    monkeypatch.setattr(WorldModel, "decode", lambda self, latents: views)


def test_swapped_cameras_end_it_before_the_arm_moves(tmp_path, monkeypatch):
    loaded, frames = served(tmp_path), lab().run(5)
    knows(monkeypatch, frames[0])
    assert a_run(loaded).see(frames[0]).end is None
    end = a_run(loaded).see(swapped(frames[0]))
    assert (end.end, end.action) == (End.FAULT, None)
    assert end.reason.startswith("the two cameras seem to be swapped")
    assert a_run(loaded, RunLimits(check_views=False)).see(swapped(frames[0])).end is None


def test_cameras_are_looked_at_when_the_filter_has_warmed_up(tmp_path, monkeypatch):
    loaded, frames = served(tmp_path, small_policy(warmup_steps=2)), lab().run(17)
    knows(monkeypatch, frames[0])
    run = a_run(loaded)
    assert [run.see(swapped(frame)).end for frame in frames[:3]] == [None, None, End.FAULT]


def test_surprise_names_the_cameras_where_they_are_the_reason(tmp_path, monkeypatch):
    bounds = SurpriseBounds(one_step=1e-3, mean=1e-6, mean_steps=1, warmup_steps=1)
    loaded, frames = served(tmp_path, bounds=bounds), lab().run(9)
    knows(monkeypatch, frames[0])
    run = a_run(loaded, RunLimits(check_views=False))
    end = [run.see(swapped(frame)) for frame in frames][-1]
    assert end.reason.startswith("the world model is surprised") and "cameras seem to be swapped" in end.reason
