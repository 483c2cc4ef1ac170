"""Demonstrations as latents: what is an attempt, what of it is imitated, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import (
    FRAMES,
    LATENT,
    OTHER_SKILL,
    SKILL,
    long_recording,
    small_demonstrations,
    small_world_model,
)

from diwa_conventions.errors import UserError
from diwa_policy import demonstrations
from diwa_policy.demonstrations import (
    LONGEST_ATTEMPT,
    Attempt,
    attempts_at,
    imitation_pairs,
    load_demonstrations,
    split_attempts,
)
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.dataset.records import Annotation, Episode
from diwa_worldmodel.latent_cache import EncodedEpisode


def episode(frames: int, *marks: tuple[int, str, bool]) -> EncodedEpisode:
    """h is the frame's number, and so is the first component of its action."""
    number = torch.arange(float(frames))
    action = torch.zeros(frames, 7)
    action[:, 0], action[:, 6] = number, 1.0
    return EncodedEpisode(
        "play", Episode(0, frames), number[:, None], torch.zeros(frames, 1, dtype=torch.uint8), 2, number, number,
        torch.arange(frames), action, tuple(Annotation(*mark) for mark in marks),
    )  # fmt: skip


def found(*episodes: EncodedEpisode) -> list[tuple[int, int, bool]]:
    """First and last frame, and outcome, of each attempt at SKILL."""
    return [
        (int(attempt.latents[0, 0]), int(attempt.latents[-1, 0]), attempt.success)
        for attempt in attempts_at(SKILL, episodes)
    ]


def attempt(frames: int = 6, success: bool = True, first_step: int = 0) -> Attempt:
    """Frame t has the latent (t, 0), the action t / 100 in all of motion and a gripper that closes half-way."""
    number = torch.arange(float(frames))
    actions = (number / 100.0)[:, None].repeat(1, 7)
    actions[:, 6] = torch.where(number < frames // 2, 1.0, -1.0)
    latents = torch.stack([number, torch.zeros(frames)], dim=1)
    steps = torch.arange(first_step, first_step + frames)
    return Attempt(latents, actions, number, number, steps, success)


# What is an attempt


def test_an_episode_that_ends_in_a_mark_is_an_attempt() -> None:
    assert found(episode(10, (9, SKILL, True)), episode(8, (7, SKILL, False))) == [(0, 9, True), (0, 7, False)]


def test_what_comes_after_the_mark_does_not_belong_to_it() -> None:
    assert found(episode(30, (9, SKILL, True))) == [(0, 9, True)]


def test_several_marks_in_a_long_recording_are_several_attempts() -> None:
    marks = ((9, SKILL, True), (15, SKILL, False), (29, SKILL, True))
    assert found(episode(40, *marks)) == [(0, 9, True), (10, 15, False), (16, 29, True)]


def test_an_attempt_begins_where_another_skill_ended() -> None:
    marks = ((9, OTHER_SKILL, True), (19, SKILL, True), (24, OTHER_SKILL, False), (29, SKILL, False))
    assert found(episode(30, *marks)) == [(10, 19, True), (25, 29, False)]


def test_marks_need_not_be_in_order() -> None:
    assert found(episode(20, (15, SKILL, False), (5, SKILL, True))) == [(0, 5, True), (6, 15, False)]


def test_a_frame_may_end_attempts_at_two_skills() -> None:
    marks = ((5, OTHER_SKILL, True), (9, OTHER_SKILL, True), (9, SKILL, True), (15, SKILL, False))
    assert found(episode(20, *marks)) == [(6, 9, True), (10, 15, False)]


def test_of_two_marks_of_the_skill_at_a_frame_the_last_holds() -> None:
    assert found(episode(20, (9, SKILL, True), (9, SKILL, False))) == [(0, 9, False)]


def test_a_mark_that_nothing_led_to_is_no_attempt() -> None:
    assert found(episode(20, (0, SKILL, True), (8, SKILL, True), (9, SKILL, True))) == [(1, 8, True)]


def test_what_lies_long_before_the_mark_does_not_belong_to_it() -> None:
    last = LONGEST_ATTEMPT + 49
    assert found(episode(last + 1, (last, SKILL, True))) == [(50, last, True)]


def test_an_attempt_has_all_that_was_encoded_of_its_frames() -> None:
    (_, one) = attempts_at(SKILL, [episode(30, (9, SKILL, True), (19, SKILL, True))])
    assert one.frames == 10 and one.latents.shape == (10, 3) and one.actions.shape == (10, 7)
    for values in (one.actions[:, 0], one.surprise, one.prior_entropy, one.steps):
        assert values.tolist() == list(range(10, 20))


@given(
    frames=st.integers(2, 300),
    marks=st.lists(st.tuples(st.integers(0, 299), st.sampled_from([SKILL, OTHER_SKILL]), st.booleans()), max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_attempts_end_in_marks_never_overlap_and_hold_no_other_mark(
    frames: int, marks: list[tuple[int, str, bool]]
) -> None:
    marks = [mark for mark in marks if mark[0] < frames]
    attempts = found(episode(frames, *marks))
    for begin, end, success in attempts:
        assert (end, SKILL, success) in marks and 1 <= end - begin < LONGEST_ATTEMPT
        assert not any(begin <= frame < end for frame, _, _ in marks)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(attempts))


# What is imitated


def test_every_frame_but_the_last_is_a_decision_with_the_actions_that_followed() -> None:
    latents, chunks = imitation_pairs([attempt(6)], 3, 0)
    assert latents[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert chunks.shape == (5, 21)
    torch.testing.assert_close(chunks[1].reshape(3, 7)[:, 0], torch.tensor([0.01, 0.02, 0.03]))


def test_behind_the_end_the_arm_stands_still_and_the_gripper_stays_as_it_is() -> None:
    _, chunks = imitation_pairs([attempt(6)], 4, 0)
    last = chunks[-1].reshape(4, 7)
    torch.testing.assert_close(last[0, :6], torch.full((6,), 0.04))
    assert last[1:, :6].abs().max() == 0.0
    assert last[:, 6].tolist() == [-1.0] * 4


def test_the_action_behind_the_last_frame_is_never_imitated() -> None:
    one = attempt(6)
    one.actions[-1] = torch.nan
    assert bool(imitation_pairs([one], 4, 0)[1].isfinite().all())


def test_a_plan_longer_than_the_attempt_is_padded() -> None:
    _, chunks = imitation_pairs([attempt(2)], 16, 0)
    assert chunks.shape == (1, 16 * 7)
    assert chunks[0].reshape(16, 7)[1:, :6].abs().max() == 0.0


def test_frames_before_the_filter_has_warmed_up_are_left_out() -> None:
    assert imitation_pairs([attempt(6)], 3, 2)[0][:, 0].tolist() == [2, 3, 4]
    assert imitation_pairs([attempt(6, first_step=40)], 3, 2)[0][:, 0].tolist() == [0, 1, 2, 3, 4]
    latents, chunks = imitation_pairs([attempt(6)], 3, 100)
    assert (latents.shape, chunks.shape) == ((0, 2), (0, 21))


@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=4), planned=st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_pairs_are_as_many_as_steps_whatever_is_planned(lengths: list[int], planned: int) -> None:
    latents, chunks = imitation_pairs([attempt(length) for length in lengths], planned, 0)
    assert len(latents) == len(chunks) == sum(lengths) - len(lengths)
    torch.testing.assert_close(chunks[:, 0], latents[:, 0] / 100.0)


# Which are held out


@given(
    successes=st.integers(0, 30), failures=st.integers(0, 30), share=st.floats(0.0, 0.5), seed=st.integers(0, 2**31 - 1)
)
@settings(max_examples=50, deadline=None)
def test_the_share_of_successes_and_of_failures_is_held_out_alike(
    successes: int, failures: int, share: float, seed: int
) -> None:
    attempts = [attempt(2 + n, n < successes) for n in range(successes + failures)]
    learned, held_out = split_attempts(attempts, share, seed)
    assert sorted(one.frames for one in learned + held_out) == [one.frames for one in attempts]
    assert sum(one.success for one in held_out) == round(share * successes)
    assert sum(not one.success for one in held_out) == round(share * failures)


def test_the_same_seed_holds_out_the_same() -> None:
    attempts = [attempt(2 + n) for n in range(20)]

    def held_out(seed: int) -> list[int]:
        return [one.frames for one in split_attempts(attempts, 0.25, seed)[1]]

    assert held_out(3) == held_out(3) and len({tuple(held_out(seed)) for seed in range(5)}) > 1


# From disk


def test_a_data_set_gives_the_attempts_at_the_task_asked_for(
    world_model: LoadedWorldModel, demonstrations_path: Path
) -> None:
    found = load_demonstrations(world_model, demonstrations_path, SKILL)
    assert (found.skill, found.source) == (SKILL, str(demonstrations_path)) and len(found.data_set_hash) == 64
    assert (len(found.successes), len(found.failures)) == (6, 3)
    assert all(one.latents.shape == (FRAMES, LATENT) for one in found.attempts)
    # Pushes to the left: the first component of the actions is negative.
    assert all(float(one.actions[:5, 0].max()) < 0.0 for one in found.attempts)


def test_marks_of_a_long_recording_are_found_where_they_are(tmp_path: Path, world_model: LoadedWorldModel) -> None:
    marks = [Annotation(9, OTHER_SKILL, True), Annotation(19, SKILL, True), Annotation(29, SKILL, False)]
    data_set = long_recording(tmp_path / "long", 40, marks)
    attempts = load_demonstrations(world_model, data_set.path, SKILL).attempts
    assert [(one.frames, one.success) for one in attempts] == [(10, True), (10, False)]
    recorded = torch.from_numpy(data_set.recordings[0].action[10:20])
    assert torch.equal(attempts[0].actions, recorded)
    assert attempts[0].steps.tolist() == list(range(10, 20))


def test_frames_are_encoded_once(
    tmp_path: Path, world_model: LoadedWorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_demonstrations(tmp_path / "d", successes=2, failures=0).path
    first = load_demonstrations(world_model, path, SKILL)
    monkeypatch.setattr(demonstrations, "encode_data_set", lambda *words, **names: pytest.fail("encoded again"))
    again = load_demonstrations(world_model, path, SKILL)
    assert torch.equal(first.attempts[0].latents, again.attempts[0].latents)


class TestRefused:
    def test_a_task_without_marks_with_the_nearest(
        self, world_model: LoadedWorldModel, demonstrations_path: Path
    ) -> None:
        with pytest.raises(UserError, match="unknown task in .*: 'push-lift'; did you mean 'push-left'. known: push-l"):
            load_demonstrations(world_model, demonstrations_path, "push-lift")

    def test_a_data_set_without_marks(self, tmp_path: Path, world_model: LoadedWorldModel) -> None:
        path = long_recording(tmp_path / "play", 20, []).path
        with pytest.raises(
            UserError, match="play has no annotations; mark the attempts at 'push-left' .*diwa annotate"
        ):
            load_demonstrations(world_model, path, SKILL)

    def test_attempts_that_all_failed(self, tmp_path: Path, world_model: LoadedWorldModel) -> None:
        path = small_demonstrations(tmp_path / "d", successes=0, failures=3, skills=[SKILL]).path
        with pytest.raises(
            UserError, match="none of the 3 attempts at 'push-left' in .* succeeded; .* demonstrate more"
        ):
            load_demonstrations(world_model, path, SKILL)

    def test_images_of_another_size(self, tmp_path: Path, world_model: LoadedWorldModel) -> None:
        path = small_demonstrations(tmp_path / "d", successes=1, failures=0, image_size=24).path
        with pytest.raises(UserError, match="images of 24 px, the world model expects 16 px"):
            load_demonstrations(world_model, path, SKILL)

    def test_a_world_model_that_takes_several_actions_a_step(self, tmp_path: Path, demonstrations_path: Path) -> None:
        chunked = small_world_model(tmp_path / "chunked", action_chunk=4)
        with pytest.raises(UserError, match="takes 4 actions a step .* --set model.action_chunk=1"):
            load_demonstrations(chunked, demonstrations_path, SKILL)

    def test_latents_that_are_no_numbers(
        self, world_model: LoadedWorldModel, demonstrations_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoiled(skill: str, episodes: Sequence[EncodedEpisode]) -> list[Attempt]:
            one = attempt()
            return [replace(one, latents=one.latents * torch.nan)]

        monkeypatch.setattr(demonstrations, "attempts_at", spoiled)
        with pytest.raises(UserError, match="makes latents of .* no finite numbers; train the world model anew"):
            load_demonstrations(world_model, demonstrations_path, SKILL)
