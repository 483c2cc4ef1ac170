"""The recurrent state-space model (DreamerV2, paper III-A and S.2.1): deterministic h and categorical z.

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})      GRU with layer norm
    z_t ~ q(z_t | h_t, x_t)                 posterior, from the frame's embedding
    z_t ~ p(z_t | h_t)                      prior, which dreams use

The policy's latent is s_t = [h_t, z_t]. Every draw takes its uniform numbers from the caller: the same numbers, the
same states, on one process or several, in training, dreams and serving.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diwa_worldmodel.convolutions import compute_dtype
from diwa_worldmodel.scan import STEPS, ScanInputs, ScanWeights, draw_classes, scan_posterior


class State(NamedTuple):
    """State of B models; zeros where nothing was seen yet."""

    deterministic: Tensor
    """h (B, D)."""
    stochastic: Tensor
    """z (B, G * C), one-hot in each of G groups."""

    @property
    def latent(self) -> Tensor:
        """s (B, D + G * C)."""
        return torch.cat([self.deterministic, self.stochastic], dim=-1)

    def where_not(self, reset: Tensor) -> State:
        """Zero where ``reset`` (B,) is true."""
        keep = (~reset).unsqueeze(-1).to(self.deterministic.dtype)
        return State(self.deterministic * keep, self.stochastic * keep)

    def detach(self) -> State:
        return State(self.deterministic.detach(), self.stochastic.detach())


class Trajectory(NamedTuple):
    """What :meth:`RSSM.observe` saw, (B, T, ...) each."""

    deterministic: Tensor
    """(B, T, D)."""
    stochastic: Tensor
    """(B, T, G * C)."""
    posterior: Tensor
    """Logits (B, T, G, C)."""
    prior: Tensor
    """Logits (B, T, G, C)."""

    @property
    def latent(self) -> Tensor:
        """(B, T, D + G * C)."""
        return torch.cat([self.deterministic, self.stochastic], dim=-1)

    @property
    def last(self) -> State:
        return State(self.deterministic[:, -1], self.stochastic[:, -1])


def straight_through(logits: Tensor, uniforms: Tensor | None) -> Tensor:
    """One-hot draws (B, G * C) from logits (B, G, C), with the gradient of the probabilities.

    For ``uniforms`` (B, G) see :func:`~diwa_worldmodel.scan.draw_classes`.
    """
    probabilities = F.softmax(logits.float(), dim=-1)
    chosen = draw_classes(probabilities.detach(), uniforms)
    one_hot = F.one_hot(chosen, logits.shape[-1]).to(probabilities.dtype)
    return (one_hot + (probabilities - probabilities.detach())).flatten(-2)


class LayerNormGRU(nn.Module):
    """GRU cell with layer norm over all gates, biased to keep the old state: -1 on the update gate (DreamerV2)."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + size, 3 * size, bias=False)
        self.norm = nn.LayerNorm(3 * size)

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Inputs (B, I) and state (B, D) to the next state (B, D)."""
        gates = self.norm(self.gates(torch.cat([inputs, state], dim=-1)).float())
        reset, candidate, update = gates.chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1.0)
        return update * candidate + (1.0 - update) * state


class RSSM(nn.Module):
    """Sizes: action A, embedding E, deterministic D, G groups of C classes."""

    def __init__(
        self, action: int, embedding: int, deterministic: int, discrete: int, classes: int, hidden: int
    ) -> None:
        super().__init__()
        self.deterministic, self.discrete, self.classes = deterministic, discrete, classes
        self.fast, self.scan_steps = True, STEPS
        stochastic = discrete * classes
        self.input_stochastic = nn.Linear(stochastic, hidden, bias=False)
        self.input_action = nn.Linear(action, hidden)
        self.input_norm = nn.LayerNorm(hidden)
        self.gru = LayerNormGRU(hidden, deterministic)
        self.prior_hidden = nn.Linear(deterministic, hidden)
        self.prior_norm = nn.LayerNorm(hidden)
        self.prior_logits = nn.Linear(hidden, stochastic)
        self.posterior_deterministic = nn.Linear(deterministic, hidden, bias=False)
        self.posterior_embedding = nn.Linear(embedding, hidden)
        self.posterior_norm = nn.LayerNorm(hidden)
        self.posterior_logits = nn.Linear(hidden, stochastic)

    def initial(self, batch: int, device: torch.device | None = None) -> State:
        """The state before anything was seen: zeros."""
        zeros = torch.zeros(batch, self.deterministic, device=device)
        return State(zeros, zeros.new_zeros(batch, self.discrete * self.classes))

    def advance(self, state: State, action: Tensor) -> Tensor:
        """h_t (B, D) from the state before and the action (B, A) that led on."""
        return self._advance(state, self.input_action(action))

    def _advance(self, state: State, action_part: Tensor) -> Tensor:
        hidden = self.input_stochastic(state.stochastic) + action_part
        new: Tensor = self.gru(F.elu(self.input_norm(hidden)), state.deterministic)
        return new

    def prior(self, deterministic: Tensor) -> Tensor:
        """Logits (..., G, C) of p(z | h) from h (..., D)."""
        hidden = F.elu(self.prior_norm(self.prior_hidden(deterministic)))
        return self._groups(self.prior_logits(hidden))

    def posterior(self, deterministic: Tensor, embedding: Tensor) -> Tensor:
        """Logits (..., G, C) of q(z | h, x) from h (..., D) and the frame's embedding (..., E)."""
        return self._posterior(deterministic, self.posterior_embedding(embedding))

    def _posterior(self, deterministic: Tensor, embedding_part: Tensor) -> Tensor:
        hidden = self.posterior_deterministic(deterministic) + embedding_part
        return self._groups(self.posterior_logits(F.elu(self.posterior_norm(hidden))))

    def _groups(self, logits: Tensor) -> Tensor:
        return torch.unflatten(logits.float(), -1, (self.discrete, self.classes))

    def observe_step(
        self, state: State, action: Tensor, embedding: Tensor, reset: Tensor, uniforms: Tensor | None
    ) -> tuple[State, Tensor]:
        """One step through the posterior: the new state, and the posterior's logits (B, G, C).

        ``action`` (B, A) led to this frame; where ``reset`` (B,) is true, it and the state are taken as zero
        (method.md 20).
        """
        action = action * (~reset).unsqueeze(-1)
        deterministic = self.advance(state.where_not(reset), action)
        logits = self.posterior(deterministic, embedding)
        return State(deterministic, straight_through(logits, uniforms)), logits

    def imagine_step(self, state: State, action: Tensor, uniforms: Tensor | None) -> tuple[State, Tensor]:
        """One step through the prior: the new state, and the prior's logits (B, G, C)."""
        deterministic = self.advance(state, action)
        logits = self.prior(deterministic)
        return State(deterministic, straight_through(logits, uniforms)), logits

    def observe(
        self, embeddings: Tensor, actions: Tensor, reset: Tensor, state: State, uniforms: Tensor | None
    ) -> Trajectory:
        """T steps of :meth:`observe_step`, all that does not depend on the state computed at once.

        ``embeddings`` (B, T, E), ``actions`` (B, T, A) that led to each frame, ``reset`` (B, T), ``uniforms``
        (B, T, G). The fast form and the plain one differ by rounding.
        """
        keep = (~reset).to(torch.float32)
        action_parts = self.input_action(actions * keep.unsqueeze(-1))
        inputs = ScanInputs(action_parts, self.posterior_embedding(embeddings), keep, uniforms)
        if self.fast:
            weights = self._scan_weights().cast(compute_dtype(self.gru.gates.weight))
            deterministic, stochastic, logits = scan_posterior(inputs, *state, weights, self.classes, self.scan_steps)
        else:
            deterministic, stochastic, logits = self._observe_by_steps(inputs, state)
        return Trajectory(deterministic, stochastic, logits, self.prior(deterministic))

    def _observe_by_steps(self, inputs: ScanInputs, state: State) -> tuple[Tensor, Tensor, Tensor]:
        states, posteriors = [], []
        for t in range(inputs.keep.shape[1]):
            keep = inputs.keep[:, t, None]
            state = State(state.deterministic * keep, state.stochastic * keep)
            deterministic = self._advance(state, inputs.action_parts[:, t])
            logits = self._posterior(deterministic, inputs.embedding_parts[:, t])
            uniforms = None if inputs.uniforms is None else inputs.uniforms[:, t]
            state = State(deterministic, straight_through(logits, uniforms))
            states.append(state)
            posteriors.append(logits)
        deterministic, stochastic = (torch.stack(parts, dim=1) for parts in zip(*states, strict=True))
        return deterministic, stochastic, torch.stack(posteriors, dim=1)

    def _scan_weights(self) -> ScanWeights:
        return ScanWeights(
            self.input_stochastic.weight, self.input_norm.weight, self.input_norm.bias,
            self.gru.gates.weight, self.gru.norm.weight, self.gru.norm.bias,
            self.posterior_deterministic.weight, self.posterior_norm.weight, self.posterior_norm.bias,
            self.posterior_logits.weight, self.posterior_logits.bias,
        )  # fmt: skip

    def frozen(self, kind: torch.dtype = torch.float32) -> FrozenDynamics:
        """For dreams by weights that stay as they are now."""
        return FrozenDynamics(self, kind)

    def imagine(self, state: State, actions: Tensor, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents (B, T, D + G * C) and prior logits (B, T, G, C) of T actions (B, T, A), the first from ``state``."""
        latents, priors = [], []
        for t, action in enumerate(actions.unbind(1)):
            state, logits = self.imagine_step(state, action, None if uniforms is None else uniforms[:, t])
            latents.append(state.latent)
            priors.append(logits)
        return torch.stack(latents, dim=1), torch.stack(priors, dim=1)


class FrozenDynamics:
    """:meth:`RSSM.imagine_step` in less time and without gradients, by the weights that the model has now.

    z is looked up in the first layer's weights, a row for each group's class, instead of multiplied with them. Matrices
    are multiplied as ``kind``, the rest is float32; with float32 the numbers are those of the plain form to rounding.
    """

    def __init__(self, model: RSSM, kind: torch.dtype = torch.float32) -> None:
        self.deterministic, self.discrete, self.classes, self.kind = (
            model.deterministic, model.discrete, model.classes, kind,
        )  # fmt: skip
        self._input_norm, self._gates_norm, self._prior_norm = (
            copy.deepcopy(norm).requires_grad_(False) for norm in (model.input_norm, model.gru.norm, model.prior_norm)
        )
        self._action, self._gates, self._prior_hidden, self._prior_logits = (
            copy.deepcopy(layer).requires_grad_(False).to(kind)
            for layer in (model.input_action, model.gru.gates, model.prior_hidden, model.prior_logits)
        )
        # Before each group's rows stands one of zeros, for the state before anything was seen.
        rows = torch.unflatten(model.input_stochastic.weight.detach().t(), 0, (self.discrete, self.classes))
        self._rows = F.pad(rows, (0, 0, 1, 0)).flatten(0, 1).to(kind)
        self._class_numbers = torch.arange(1.0, self.classes + 1.0, device=rows.device)
        self._group_starts = torch.arange(self.discrete, device=rows.device) * (self.classes + 1)

    @torch.no_grad()
    def imagine_step(self, state: State, action: Tensor, uniforms: Tensor | None) -> tuple[State, Tensor]:
        """The new state, and the prior's logits (B, G, C); see :meth:`RSSM.imagine_step`. z is one-hot, or zeros."""
        deterministic = self._advance(state, action)
        hidden = F.elu_(self._prior_norm(self._prior_hidden(deterministic.to(self.kind)).float()))
        logits = self._prior_logits(hidden.to(self.kind)).float()
        logits = torch.unflatten(logits, -1, (self.discrete, self.classes))
        probabilities = F.softmax(logits, dim=-1)
        chosen = draw_classes(probabilities, uniforms).unsqueeze(-1)
        one_hot = torch.zeros_like(probabilities).scatter_(-1, chosen, 1.0)
        return State(deterministic, one_hot.flatten(-2)), logits

    def _advance(self, state: State, action: Tensor) -> Tensor:
        groups = torch.unflatten(state.stochastic, -1, (self.discrete, self.classes))
        rows = (groups @ self._class_numbers).long() + self._group_starts
        hidden = F.embedding_bag(rows, self._rows, mode="sum") + self._action(action.to(self.kind))
        hidden = F.elu_(self._input_norm(hidden.float()))
        joined = torch.cat([hidden, state.deterministic], dim=-1).to(self.kind)
        reset, candidate, update = self._gates_norm(self._gates(joined).float()).chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(state.deterministic, candidate, torch.sigmoid(update - 1.0))


def kl_divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) [nat] from logits (..., G, C), summed over the groups: (...)."""
    log_first, log_second = F.log_softmax(first, dim=-1), F.log_softmax(second, dim=-1)
    return (log_first.exp() * (log_first - log_second)).sum(dim=(-2, -1))


def entropy(logits: Tensor) -> Tensor:
    """Entropy [nat] from logits (..., G, C), summed over the groups: (...)."""
    log_probabilities = F.log_softmax(logits, dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=(-2, -1))


def balanced_kl(posterior: Tensor, prior: Tensor, balance: float) -> Tensor:
    """KL(q || p) whose gradient trains the prior with share ``balance`` and the posterior with the rest (Eq. 11).

    ``balance`` stands before KL(sg(q) || p): 0.8 trains the prior, as the prose and DreamerV2 have it (method.md 3).
    """
    log_q, log_p = F.log_softmax(posterior, dim=-1), F.log_softmax(prior, dim=-1)
    q = log_q.exp()
    train_prior = (q.detach() * (log_q.detach() - log_p)).sum(dim=(-2, -1))
    train_posterior = (q * (log_q - log_p.detach())).sum(dim=(-2, -1))
    return balance * train_prior + (1.0 - balance) * train_posterior
