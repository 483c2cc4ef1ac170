from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_samples import LATENT, OTHER_SKILL, SKILL, saved_reward, small_classifier, small_policy, small_world_model
from room_samples import LIMIT, ROOM, SQUARE_ROOM, STEP, SquareRoom, pusher

from diwa_conventions.actions import ActionScale
from diwa_conventions.errors import UserError
from diwa_policy.evaluation.environments import ENVIRONMENTS, EnvironmentOptions, World
from diwa_policy.evaluation.trial_pool import Job, PolicyWeights, TrialPool
from diwa_policy.evaluation.trials import Trial, TrialRoom, episode_seed
from diwa_worldmodel.latent_filter import FilterFrame, LatentFilter


@pytest.fixture(scope="module")
def world_model(tmp_path_factory):
    return small_world_model(tmp_path_factory.mktemp("made") / "world_model")


@pytest.fixture(scope="module")
def world(world_model) -> World:
    return World(world_model.folder, world_model.hash, ROOM, SKILL, {"image_size_px": 16})


@pytest.fixture
def room(world):
    opened = TrialRoom(world)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def two_processes(world):
    with TrialPool(world, 2) as pool:
        yield pool


def steps_to_goal(seed: int, speed: float) -> int:
    """How often an action of ``speed`` must push to the left."""
    room, steps = SquareRoom(), 0
    room.reset(seed=seed, options={"task": SKILL})
    while room.position[0] > -0.6:
        room.position[0] -= speed * STEP
        steps += 1
    return steps


def test_an_episode_ends_with_success(room):
    episode = room.run(pusher(-0.7), Trial(3))
    assert episode.success and episode.terminated
    assert episode.frames == steps_to_goal(3, 0.7) < LIMIT


def test_an_episode_without_success_is_cut_off_and_not_terminated(room):
    episode = room.run(pusher(0.7), Trial(3))
    assert not episode.success and not episode.terminated
    assert episode.frames == LIMIT


def test_success_is_that_of_the_task(world):
    room = TrialRoom(replace(world, task=OTHER_SKILL))
    assert room.run(pusher(0.7), Trial(3)).success
    assert not room.run(pusher(-0.7), Trial(3)).success


def test_the_policy_acts_on_what_the_filter_makes_of_frames_and_executed_actions(room, world_model):
    """Asked for is more than 0.8, executed is 0.8: the latents are those of the executed actions."""
    policy = pusher(0.95, executed_actions=3)
    decisions = room.run(policy, Trial(5, keep="decisions")).decisions
    square, latent_filter, latents = SquareRoom(), LatentFilter(world_model.model), []
    seen, _ = square.reset(seed=5, options={"task": SKILL})
    executed = None
    for step in range(LIMIT + 1):
        images = {name: seen[name][None] for name in ("static", "gripper")}
        frame = FilterFrame(images, seen["proprio"][None], np.array([round(step / 7.5 * 1e9)]))
        latents.append(latent_filter.update(frame, executed).latent[0].numpy())
        chunk = decisions.chains[min(step, LIMIT - 1) // 3, -1].clip(-1.0, 1.0).reshape(-1, 7)
        seen, _, _, _, info = square.step(chunk[step % 3])
        executed = info["executed_action"][None].astype(np.float32)
    np.testing.assert_array_equal(decisions.latents, np.stack(latents)[[0, 3, 6, 9]])
    np.testing.assert_array_equal(decisions.last_latents, np.stack(latents)[[3, 6, 9, 10]])


def test_reward_is_told_frame_by_frame_and_is_nothing_behind_the_end(room):
    episode = room.run(pusher(-0.7), Trial(3, keep="decisions"))
    reward = episode.decisions.reward
    assert reward.shape == (-(-episode.frames // 4), 4)
    assert np.flatnonzero(reward).tolist() == [episode.frames - 1]
    assert reward.sum() == 1.0


def test_only_fine_tuned_links_of_a_chain_are_told(room):
    policy = small_policy(fine_tuned_steps=2)
    chains = room.run(policy, Trial(0, sampling_std=0.1, keep="decisions")).decisions.chains
    assert chains.shape[1:] == (3, policy.chunk)


def test_a_policy_acts_by_its_own_sampler(room):
    """DDIM adds no noise on its way, and the floor under it says nothing."""
    for sampler, same in (("ddim", True), ("ddpm", False)):
        policy = small_policy(sampler=sampler, ddim_steps=3)
        calm, wild = (room.run(policy, Trial(7, std, keep="pictures")).pictures[-1] for std in (0.0, 1.0))
        assert np.array_equal(calm, wild) == same


def test_learning_needs_the_steps_between(room):
    policy = small_policy(sampler="ddim", ddim_steps=3, fine_tuned_steps=2)
    calm, wild = (room.run(policy, Trial(7, std, keep="decisions")).decisions.chains for std in (0.0, 1.0))
    assert not np.array_equal(calm[0], wild[0])


def test_the_arm_stands_still_until_the_filter_has_warmed_up(room):
    episode = room.run(pusher(-0.7, warmup_steps=3), Trial(3, keep="decisions"))
    assert episode.frames == 3 + steps_to_goal(3, 0.7)
    assert len(episode.decisions.latents) == -(-(episode.frames - 3) // 4)


def test_an_episode_that_ends_before_the_first_decision_has_nothing_to_learn_from(room):
    policy = pusher(-0.7, warmup_steps=LIMIT)
    assert room.run(policy, Trial(3)).frames == LIMIT
    with pytest.raises(UserError, match="before the policy's first decision"):
        room.run(policy, Trial(3, keep="decisions"))


def test_the_same_seed_gives_the_same_episode_and_another_one_another(room):
    policy = small_policy()
    once, again, other = (room.run(policy, Trial(seed, keep="decisions")).decisions for seed in (7, 7, 8))
    for one, same in zip(once, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(once.chains[0], other.chains[0])


def test_all_policies_start_from_the_same(room):
    one, other = (room.run(policy, Trial(7, keep="pictures")) for policy in (small_policy(), pusher(0.5)))
    np.testing.assert_array_equal(one.pictures[0], other.pictures[0])
    assert not np.array_equal(one.pictures[-1], other.pictures[-1])
    assert not np.array_equal(one.pictures[0], room.run(pusher(0.5), Trial(8, keep="pictures")).pictures[0])


def test_seeds_of_sets_do_not_meet():
    assert episode_seed(0, 999_999) + 1 == episode_seed(1, 0)
    with pytest.raises(ValueError, match="expected 0 to"):
        episode_seed(0, 1_000_000)


def test_the_highest_probability_counts_and_not_that_of_the_start(world, world_model, tmp_path):
    reward = saved_reward(tmp_path / "reward", world_model.hash)
    room = TrialRoom(replace(world, reward=reward.folder))
    policy = pusher(0.7, executed_actions=1)
    episode = room.run(policy, Trial(3, keep="decisions"))
    seen = torch.from_numpy(episode.decisions.last_latents)
    with torch.no_grad():
        highest = small_classifier().probability(seen).max()
    assert episode.probability == pytest.approx(float(highest), abs=1e-6)


def test_surprise_is_told_of_frames_for_which_the_filter_was_ready(room):
    long, short = room.run(pusher(0.7), Trial(3)), room.run(pusher(-0.7), Trial(3))
    assert long.frames > 8 and long.surprise > 0.0
    assert short.frames < 8 and short.surprise is None


def test_pictures_show_start_and_end(room):
    episode = room.run(pusher(-0.7), Trial(3, keep="pictures"))
    assert [picture.shape for picture in episode.pictures] == [(16, 32, 3)] * (episode.frames + 1)
    assert episode.pictures[0].tolist() != episode.pictures[-1].tolist()


def test_weights_go_to_another_process_whole():
    policy = small_policy(fine_tuned_steps=2)
    with torch.no_grad():
        policy.tuned.noise.bias.add_(1.0)
    copy, latents = PolicyWeights.of(policy).policy(), torch.randn(3, LATENT)
    noise = torch.randn(3, policy.steps + 1, policy.chunk)
    assert torch.equal(copy.sample(latents, noise), policy.sample(latents, noise))


def test_processes_give_the_same_episodes_as_one_does(world, two_processes):
    policies = [small_policy(), pusher(-0.7)]
    jobs = [Job(policy, Trial(seed, keep="decisions")) for seed in range(5) for policy in (0, 1)]
    with TrialPool(world, 1) as here:
        alone = dict(here.run(policies, jobs))
    shared = dict(two_processes.run(policies, jobs))
    assert sorted(shared) == sorted(alone) == list(range(10))
    for number, one in alone.items():
        other = shared[number]
        assert (one.seed, one.frames, one.success) == (other.seed, other.frames, other.success)
        for mine, theirs in zip(one.decisions, other.decisions, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_other_policies_can_be_sent_to_the_same_processes(two_processes):
    for speed, success in ((-0.7, True), (0.7, False)):
        episodes = dict(two_processes.run([pusher(speed)], [Job(0, Trial(3))]))
        assert {number: episode.success for number, episode in episodes.items()} == {0: success}


def test_a_pool_that_is_stopped_finishes_what_it_has_begun(two_processes):
    done = []
    jobs = [Job(0, Trial(seed)) for seed in range(20)]
    for number, _ in two_processes.run([pusher(-0.7)], jobs, lambda: len(done) >= 4):
        done.append(number)
    assert sorted(done) == list(range(len(done)))
    assert len(done) in (4, 5)


def test_ctrl_c_is_for_the_parent_alone(two_processes):
    """A terminal sends it to all of them, also while they are starting."""
    list(two_processes.run([pusher(-0.7)], [Job(0, Trial(3))] * 2))
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
    assert len(dict(two_processes.run([pusher(-0.7)], [Job(0, Trial(3))] * 4))) == 4


def test_one_process_is_stopped_between_episodes(world):
    done = []
    with TrialPool(world, 1) as pool:
        for number, _ in pool.run([pusher(-0.7)], [Job(0, Trial(3))] * 9, lambda: len(done) >= 2):
            done.append(number)
    assert done == [0, 1]


def test_a_mistake_of_the_users_comes_out_of_a_process_as_it_was(world):
    with TrialPool(replace(world, environment="room_samples:diwa_test/Locked-v0"), 2) as pool:
        with pytest.raises(UserError, match=r"^the room is locked; unlock it$"):
            list(pool.run([pusher(0.5)], [Job(0, Trial(0))]))


def test_a_fault_in_a_process_is_told_with_its_traceback(world):
    with TrialPool(replace(world, environment="room_samples:diwa_test/Broken-v0"), 2) as pool:
        with pytest.raises(RuntimeError, match="ZeroDivisionError: the floor gave way"):
            list(pool.run([pusher(0.5)], [Job(0, Trial(0))]))


def test_a_process_that_is_killed_is_told_of(world):
    before = set(multiprocessing.active_children())
    with TrialPool(world, 2) as pool:
        list(pool.run([pusher(0.7)], [Job(0, Trial(3))]))
        (child,) = set(multiprocessing.active_children()) - before
        child.kill()
        child.join()
        with pytest.raises(UserError, match=r"ended before its time .* fewer --workers"):
            list(pool.run([pusher(0.7)], [Job(0, Trial(3))]))


def test_another_world_model_in_its_place_is_refused(world):
    with pytest.raises(UserError, match="was replaced while it was used"):
        TrialRoom(replace(world, world_model_hash="0" * 64))


def test_an_environment_that_is_not_installed_is_said_to_be_so(world):
    with pytest.raises(UserError, match=r"not_there:Room-v0 is not installed here \(No module named 'not_there'"):
        TrialRoom(replace(world, environment="not_there:Room-v0"))


def test_the_environment_has_the_world_models_image_size_and_action_scale(world_model, monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS, "square", SQUARE_ROOM)
    world = EnvironmentOptions("square", workers=1).world(world_model, SKILL)
    made = world.make().unwrapped
    assert (made.size, made.scale) == (16, ActionScale())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lok=hard", "unknown playroom setting 'lok'"),
        ("max_episode_steps=0", "max_episode_steps is 0; expected at least 1"),
        ("config=mine", r"Playroom-v0 refuses its settings \(.*; change those of --env-set"),
        ("task=open-drawer", "--env-set task=open-drawer: the policy decides that; leave it out"),
        ("image_size_px=32", "--env-set image_size_px=32: the world model decides that"),
        ("scale=2", "--env-set scale=2: the world model decides that"),
        ("render_mode=human", "--env-set render_mode=human: this command decides that"),
    ],
)
def test_settings_that_the_environment_cannot_have_are_refused(world_model, word, message):
    with pytest.raises(UserError, match=message):
        EnvironmentOptions(env_set=(word,)).world(world_model, "open-drawer")


def test_episodes_can_be_longer_than_the_environments_own(world_model):
    made = EnvironmentOptions(env_set=("max_episode_steps=200",)).world(world_model, "open-drawer").make()
    assert made.unwrapped.config.max_episode_steps == 200
    made.close()


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        (EnvironmentOptions("kitchen"), "open-drawer", "unknown environment 'kitchen'; known: playroom"),
        (EnvironmentOptions(), "open-draw", "unknown task 'open-draw'; did you mean 'open-drawer'"),
        (EnvironmentOptions(workers=-1), "open-drawer", "--workers is -1"),
    ],
)
def test_unknown_places_and_tasks_are_refused(options, task, message):
    with pytest.raises(UserError, match=message):
        options.check(task)


def test_world_models_that_take_several_actions_a_step_are_refused(tmp_path):
    chunked = small_world_model(tmp_path / "chunked", action_chunk=2)
    with pytest.raises(UserError, match="takes 2 actions a step"):
        EnvironmentOptions().world(chunked, "open-drawer")


def test_policies_can_be_tried_in_the_playroom(world_model):
    world = EnvironmentOptions(env_set=("max_episode_steps=12",)).world(world_model, "open-drawer")
    with TrialPool(world, 1) as pool:
        episodes = dict(pool.run([small_policy()], [Job(0, Trial(seed, keep="pictures")) for seed in (0, 1)]))
    for episode in episodes.values():
        assert (episode.frames, episode.success) == (12, False)
        assert len(episode.pictures) == 13 and episode.pictures[0].shape == (200, 400, 3)
        assert episode.surprise > 0.0
    assert not np.array_equal(episodes[0].pictures[0], episodes[1].pictures[0])
