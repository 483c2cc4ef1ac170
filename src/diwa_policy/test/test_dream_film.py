"""The film of a fine-tuned policy's dream."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch
from policy_samples import LATENT, small_classifier, small_policy, small_world_model

from diwa_policy.dream import DreamDiffusionMDP, DreamRules
from diwa_policy.finetune.dream_film import FilmedDreams, dream_frames, median_dream, write_dream_film
from diwa_policy.finetune.trust import dream
from diwa_worldmodel.world_model import WorldModel

DECISIONS = 3
HOLD = 4


@pytest.fixture(scope="module")
def world_model(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    return small_world_model(tmp_path_factory.mktemp("model") / "world_model").model


def dreams_of(world_model: WorldModel, threshold: float = 0.999) -> DreamDiffusionMDP:
    classifier = small_classifier()
    classifier.threshold.fill_(threshold)
    return DreamDiffusionMDP(world_model, classifier, DreamRules(0.99, "threshold"), torch.Generator().manual_seed(0))


def starts(count: int) -> torch.Tensor:
    return torch.zeros(count, LATENT)


def frames_of(path: Path) -> int:
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 7.5)
        return sum(1 for _ in film.decode(stream))


def test_frames_are_those_of_the_dreams_that_are_judged(world_model: WorldModel) -> None:
    """With a policy that executes one action of each chunk, both draw the same numbers in the same order."""
    policy = small_policy(executed_actions=1)
    filmed = dream_frames(policy, dreams_of(world_model), starts(4), DECISIONS)
    judged = dream(policy, dreams_of(world_model), starts(4), DECISIONS)
    assert torch.equal(filmed.probability.amax(dim=1), judged.confidence)


def test_every_executed_action_is_a_frame(world_model: WorldModel) -> None:
    policy = small_policy()
    filmed = dream_frames(policy, dreams_of(world_model), starts(2), DECISIONS)
    frames = 1 + DECISIONS * policy.config.executed_actions
    assert filmed.latents.shape == (2, frames, LATENT) and filmed.probability.shape == (2, frames)
    assert torch.equal(filmed.latents[:, 0], starts(2))


def test_neither_the_best_nor_the_worst_dream_is_filmed() -> None:
    probability = torch.tensor([[0.0, 0.9], [0.0, 0.1], [0.5, 0.2]])
    assert median_dream(FilmedDreams(torch.zeros(3, 2, LATENT), probability)) == 2


def test_a_film_goes_on_to_the_end_of_a_dream_without_success(world_model: WorldModel, tmp_path: Path) -> None:
    policy = small_policy()
    write_dream_film(tmp_path / "dream.mp4", world_model, policy, dreams_of(world_model), starts(20), DECISIONS)
    assert frames_of(tmp_path / "dream.mp4") == 1 + DECISIONS * policy.config.executed_actions + HOLD


def test_a_film_ends_with_the_success(world_model: WorldModel, tmp_path: Path) -> None:
    mdp = dreams_of(world_model, threshold=0.0)  # the first dreamed frame already
    write_dream_film(tmp_path / "dream.mp4", world_model, small_policy(), mdp, starts(2), DECISIONS)
    assert frames_of(tmp_path / "dream.mp4") == 2 + HOLD
