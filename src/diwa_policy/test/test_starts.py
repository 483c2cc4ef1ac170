"""Where dreams begin: recorded latents alone, first frames mostly."""

from __future__ import annotations

import pytest
import torch

from diwa_conventions.errors import UserError
from diwa_policy.demonstrations import Attempt
from diwa_policy.finetune.draws import Purpose, reseed
from diwa_policy.finetune.starts import find_starts


def attempt(number: int, frames: int = 8, steps_before: int = 0, success: bool = True) -> Attempt:
    """Its latents (T, 2) say which attempt and frame they are."""
    at = torch.arange(frames)
    latents = torch.stack([torch.full((frames,), float(number)), at.float()], dim=1)
    nothing = torch.zeros(frames)
    return Attempt(latents, torch.zeros(frames, 7), nothing, nothing, at + steps_before, success)


def drawn(share: float, count: int = 2000, **kwargs) -> torch.Tensor:
    starts = find_starts([attempt(0), attempt(1, frames=5, success=False)], **{"warmup_steps": 0, **kwargs})
    return starts.draw(count, share, torch.Generator().manual_seed(0))


def test_first_frames_come_with_their_share_and_all_alike():
    found = drawn(0.7)
    first = found[found[:, 1] == 0.0]
    assert len(first) / len(found) == pytest.approx(0.7, abs=0.04)
    assert float((first[:, 0] == 0.0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_later_frames_reach_up_to_half_of_the_attempt():
    places = {tuple(one) for one in drawn(0.0).tolist()}
    assert places == {(0.0, 1.0), (0.0, 2.0), (0.0, 3.0), (1.0, 1.0)}


def test_frames_that_the_filter_has_not_warmed_up_for_are_no_starts():
    assert {tuple(one) for one in drawn(0.5, warmup_steps=2).tolist()} == {(0.0, 2.0), (0.0, 3.0), (1.0, 2.0)}


def test_attempts_in_the_middle_of_a_recording_are_warm_from_the_beginning():
    starts = find_starts([attempt(0, steps_before=10)], warmup_steps=4)
    assert starts.first.tolist() == [[0.0, 0.0]]


def test_attempts_without_a_later_frame_give_their_first():
    starts = find_starts([attempt(0, frames=3)], warmup_steps=0)
    assert starts.draw(5, 0.0, torch.Generator()).tolist() == [[0.0, 0.0]] * 5


def test_fixed_starts_are_as_many_dreams_from_each_first_frame():
    starts = find_starts([attempt(number) for number in range(3)], warmup_steps=0)
    assert starts.fixed(8)[..., 0].tolist() == [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]


def test_more_first_frames_than_dreams_are_thinned_evenly():
    starts = find_starts([attempt(number) for number in range(9)], warmup_steps=0)
    assert starts.fixed(3)[..., 0].tolist() == [[0.0, 4.0, 8.0]]


def test_halves_have_no_first_frame_in_common_and_of_one_there_is_no_half():
    starts = find_starts([attempt(number) for number in range(5)], warmup_steps=0)
    assert [half.first[:, 0].tolist() for half in starts.halves()] == [[0.0, 2.0, 4.0], [1.0, 3.0]]
    single = find_starts([attempt(0)], warmup_steps=0)
    assert single.halves() == (single, single)


def test_no_warm_frame_at_all_is_refused():
    with pytest.raises(UserError, match="none of the 1 attempts has a frame behind policy.warmup_steps 50"):
        find_starts([attempt(0)], warmup_steps=50)


def test_every_purpose_and_iteration_has_its_own_numbers():
    generator = torch.Generator()
    keys = [(seed, purpose, number) for seed in (0, 1) for purpose in Purpose for number in (0, 1, 2)]
    numbers = [float(torch.rand(1, generator=reseed(generator, *key))) for key in keys]
    assert len(set(numbers)) == len(keys)
    assert numbers == [float(torch.rand(1, generator=reseed(generator, *key))) for key in keys]
