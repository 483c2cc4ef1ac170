"""The reward classifier's network and loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diwa_policy.config import RewardConfig, load_config
from diwa_policy.reward import RewardClassifier, Scores, nt_xent, reward_loss

LATENT = 6


def randoms(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brute_nt_xent(embeddings: Tensor, labels: Tensor, temperature: float) -> float:
    """Eq. 13 pair by pair: the mean over a sample's partners, then over the samples that have one."""
    losses = []
    for i in range(len(labels)):
        similar = [
            math.exp(float(F.cosine_similarity(embeddings[i], embeddings[k], dim=0)) / temperature)
            for k in range(len(labels))
        ]
        rest = sum(similar) - similar[i]
        own = [-math.log(similar[j] / rest) for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        if own:
            losses.append(sum(own) / len(own))
    return sum(losses) / len(losses)


def test_table_s4_is_the_paper_preset() -> None:
    config = load_config("paper").reward
    assert (config.embedding_mlp, config.classification_mlp) == ((512, 512), (512, 512))
    assert (config.epochs, config.batch, config.learning_rate, config.temperature) == (100, 32, 1e-6, 0.5)


def test_the_classifier_is_two_mlps_with_relu_of_table_s4() -> None:
    classifier = RewardClassifier(RewardConfig(), LATENT)
    layers = [part for part in classifier.modules() if isinstance(part, torch.nn.Linear)]
    shapes = [(layer.in_features, layer.out_features) for layer in layers]
    assert shapes == [(LATENT, 512), (512, 512), (512, 512), (512, 512), (512, 1)]
    assert any(isinstance(part, torch.nn.ReLU) for part in classifier.modules())


def test_probability_is_the_sigmoid_of_the_logit_for_any_leading_shape() -> None:
    classifier = RewardClassifier(replace(RewardConfig(), embedding_mlp=(8, 4), classification_mlp=(4,)), LATENT)
    latents = torch.randn(3, 5, LATENT, generator=randoms())
    scores = classifier(latents)
    assert scores.logit.shape == (3, 5) and scores.embedding.shape == (3, 5, 4)
    assert torch.equal(classifier.probability(latents), torch.sigmoid(scores.logit))


def test_the_threshold_is_saved_with_the_weights() -> None:
    classifier = RewardClassifier(RewardConfig(), LATENT)
    classifier.threshold.fill_(0.25)
    other = RewardClassifier(RewardConfig(), LATENT)
    other.load_state_dict(classifier.state_dict())
    assert float(other.threshold) == 0.25


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_equation_13_over_all_pairs_of_a_label(temperature: float) -> None:
    embeddings = torch.randn(7, 4, generator=randoms())
    labels = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    expected = brute_nt_xent(embeddings, labels, temperature)
    assert float(nt_xent(embeddings, labels, temperature)) == pytest.approx(expected, rel=1e-5)


def test_nt_xent_leaves_out_a_sample_without_a_partner() -> None:
    embeddings = torch.randn(4, 4, generator=randoms())
    labels = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert float(nt_xent(embeddings, labels, 0.5)) == pytest.approx(brute_nt_xent(embeddings, labels, 0.5), rel=1e-5)


def test_a_sample_alone_in_its_batch_has_no_nt_xent_and_a_finite_gradient() -> None:
    embedding = torch.randn(1, 4, generator=randoms()).requires_grad_()
    loss = nt_xent(embedding, torch.ones(1), 0.5)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert embedding.grad is not None and bool(embedding.grad.isfinite().all())


def test_descending_nt_xent_draws_a_label_together_and_labels_apart() -> None:
    embeddings = torch.randn(8, 4, generator=randoms()).requires_grad_()
    labels = torch.tensor([0.0, 1.0] * 4)

    def cosine(same: bool) -> float:
        unit = F.normalize(embeddings.detach(), dim=-1)
        pairs = (labels[:, None] == labels[None]) & ~torch.eye(8, dtype=torch.bool)
        return float((unit @ unit.T)[pairs if same else labels[:, None] != labels[None]].mean())

    before = cosine(True), cosine(False)
    optimiser = torch.optim.SGD([embeddings], lr=0.5)
    for _ in range(20):
        optimiser.zero_grad()
        nt_xent(embeddings, labels, 0.5).backward()
        optimiser.step()
    assert cosine(True) > before[0]
    assert cosine(False) < before[1]


def test_cross_entropy_weighs_both_classes_alike_however_rare() -> None:
    config = replace(RewardConfig(), contrastive_coefficient=0.0)
    labels = torch.tensor([1.0] + [0.0] * 9)
    logits = torch.randn(10, generator=randoms())
    single = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    expected = 0.5 * single[0] + 0.5 * single[1:].mean()
    assert float(reward_loss(Scores(logits, torch.ones(10, 2)), labels, config)) == pytest.approx(float(expected))


def test_a_batch_of_one_class_has_a_finite_loss() -> None:
    logits, embeddings = torch.randn(5, generator=randoms()), torch.randn(5, 3, generator=randoms(1))
    for label in (0.0, 1.0):
        assert bool(reward_loss(Scores(logits, embeddings), torch.full((5,), label), RewardConfig()).isfinite())


def test_the_loss_is_cross_entropy_and_nt_xent_by_its_coefficient() -> None:
    logits, embeddings = torch.randn(6, generator=randoms()), torch.randn(6, 3, generator=randoms(1))
    labels, scores = torch.tensor([0.0, 1.0] * 3), Scores(logits, embeddings)
    parts = [
        reward_loss(scores, labels, replace(RewardConfig(), contrastive_coefficient=weight)) for weight in (0.0, 2.0)
    ]
    assert float(parts[1] - parts[0]) == pytest.approx(2.0 * float(nt_xent(embeddings, labels, 0.5)), rel=1e-5)
