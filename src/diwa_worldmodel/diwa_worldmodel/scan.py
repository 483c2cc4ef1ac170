"""The posterior's recurrence with its gradient written by hand: the numbers of :meth:`RSSM.observe`, in less time.

Autograd records some forty operations a step and adds to every weight's gradient at every step. Written out, a step
needs fewer, and each weight's gradient is one product over all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_Stats = tuple[Tensor, Tensor]
_EPS = 1e-5


class ScanWeights(NamedTuple):
    """Of the layers within the recurrence. Sizes: H hidden, D deterministic, Z = G * C stochastic."""

    stochastic: Tensor
    """(H, Z)"""
    input_scale: Tensor
    input_shift: Tensor
    gates: Tensor
    """(3 D, H + D)"""
    gates_scale: Tensor
    gates_shift: Tensor
    deterministic: Tensor
    """(H, D)"""
    posterior_scale: Tensor
    posterior_shift: Tensor
    logits: Tensor
    """(Z, H)"""
    logits_bias: Tensor

    def cast(self, kind: torch.dtype) -> ScanWeights:
        """What matrices are multiplied with as ``kind``; norms stay as they are."""
        return self._replace(
            **{name: getattr(self, name).to(kind) for name in ("stochastic", "gates", "deterministic", "logits")},
            logits_bias=self.logits_bias.to(kind),
        )


class ScanInputs(NamedTuple):
    """What enters the recurrence at each step, (B, T, ...)."""

    action_parts: Tensor
    """(B, T, H)"""
    embedding_parts: Tensor
    """(B, T, H)"""
    keep: Tensor
    """(B, T) 0 where the state is taken as zero, else 1, float32."""
    uniforms: Tensor | None
    """(B, T, G); None: the most probable class."""


class Step(NamedTuple):
    """What the backward pass needs of a step, (B, ...)."""

    keep: Tensor
    stochastic: Tensor
    """z before the step, where kept."""
    deterministic_before: Tensor
    joined: Tensor
    """What the GRU is given: (B, H + D)."""
    input_sum: Tensor
    input_stats: _Stats
    hidden: Tensor
    gates_sum: Tensor
    gates_stats: _Stats
    reset: Tensor
    raw_candidate: Tensor
    candidate: Tensor
    update: Tensor
    deterministic: Tensor
    """h as it is multiplied with."""
    posterior_sum: Tensor
    posterior_stats: _Stats
    posterior_hidden: Tensor
    probabilities: Tensor
    """(B, G, C)"""


class StepGradient(NamedTuple):
    """Of the sums and norms of a step: what the weights' gradients are made of."""

    input_sum: Tensor
    input_norm: Tensor
    gates_sum: Tensor
    gates_norm: Tensor
    posterior_sum: Tensor
    posterior_norm: Tensor
    logits: Tensor


class ScanSteps(NamedTuple):
    """The two functions that run once for each step."""

    forward: Callable[..., tuple[Step, Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[StepGradient, Tensor, Tensor]]

    def compiled(self, mode: str) -> ScanSteps:
        """By ``torch.compile``, e.g. with ``reduce-overhead``: CUDA graphs. The first call takes its time."""
        how: dict[str, Any] = {"mode": mode, "dynamic": False, "fullgraph": True}
        return ScanSteps(torch.compile(self.forward, **how), torch.compile(self.backward, **how))


def draw_classes(probabilities: Tensor, uniforms: Tensor | None) -> Tensor:
    """Classes (..., G) from probabilities (..., G, C).

    ``uniforms`` (..., G) in [0, 1) choose them by the inverse of the cumulated probabilities; None takes each group's
    most probable class.
    """
    if uniforms is None:
        return probabilities.argmax(dim=-1)
    # The last class is what is left: rounding must not lead beyond it.
    below = probabilities.cumsum(dim=-1)[..., :-1] <= uniforms.unsqueeze(-1)
    return below.sum(dim=-1)


def scan_posterior(
    inputs: ScanInputs,
    deterministic: Tensor,
    stochastic: Tensor,
    weights: ScanWeights,
    classes: int,
    steps: ScanSteps | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """h (B, T, D), z (B, T, Z) and the posterior's logits (B, T, G, C) after T steps from h (B, D) and z (B, Z).

    The type of the matrices in ``weights`` is what products are computed in; the rest is float32.
    """
    outputs: tuple[Tensor, Tensor, Tensor] = _Scan.apply(  # type: ignore[no-untyped-call]
        *inputs, deterministic, stochastic, classes, steps or STEPS, *weights
    )
    return outputs


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        action_parts: Tensor,
        embedding_parts: Tensor,
        keep: Tensor,
        uniforms: Tensor | None,
        deterministic: Tensor,
        stochastic: Tensor,
        classes: int,
        functions: ScanSteps,
        *arrays: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = ScanWeights(*arrays)
        kind = weights.gates.dtype
        ctx.steps, ctx.weights, ctx.functions = [], weights, functions
        h, z = deterministic, stochastic.to(kind)
        all_h, all_z, all_logits = [], [], []
        with torch.autocast(h.device.type, enabled=False):
            for t in range(keep.shape[1]):
                parts = action_parts[:, t].to(kind), embedding_parts[:, t].to(kind)
                drawn_with = None if uniforms is None else uniforms[:, t]
                step, h, z, logits = functions.forward(weights, parts, keep[:, t, None], drawn_with, h, z, classes)
                ctx.steps.append(step)
                all_h.append(h)
                all_z.append(z)
                all_logits.append(logits)
        return torch.stack(all_h, dim=1), torch.stack(all_z, dim=1).float(), torch.stack(all_logits, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, steps = ctx.weights, ctx.steps
        by_h, by_z, by_logits = gradients
        h_gradient, z_gradient = torch.zeros_like(by_h[:, 0]), torch.zeros_like(by_z[:, 0])
        done: list[StepGradient] = []
        for t in reversed(range(len(steps))):
            h_gradient, z_gradient = h_gradient + by_h[:, t], z_gradient + by_z[:, t]
            one, h_gradient, z_gradient = ctx.functions.backward(
                weights, steps[t], h_gradient, z_gradient, by_logits[:, t]
            )
            done.append(one)
        done.reverse()
        parts = (torch.stack([getattr(one, name) for one in done], dim=1) for name in ("input_sum", "posterior_sum"))
        return (*parts, None, None, h_gradient, z_gradient, None, None, *_weights_gradient(weights, steps, done))


def _forward(
    weights: ScanWeights,
    parts: tuple[Tensor, Tensor],
    keep: Tensor,
    uniforms: Tensor | None,
    deterministic: Tensor,
    stochastic: Tensor,
    classes: int,
) -> tuple[Step, Tensor, Tensor, Tensor]:
    """What is kept of a step, h, z and logits after it; as :meth:`RSSM.observe_step` does it."""
    kind = weights.gates.dtype
    before, z = deterministic * keep, stochastic * keep.to(kind)
    input_sum = torch.addmm(parts[0], z, weights.stochastic.t()).float()
    normed, input_stats = _norm(input_sum, weights.input_scale, weights.input_shift)
    hidden = F.elu_(normed)
    joined = torch.cat([hidden, before], dim=-1).to(kind)
    gates_sum = (joined @ weights.gates.t()).float()
    gates, gates_stats = _norm(gates_sum, weights.gates_scale, weights.gates_shift)
    reset, raw_candidate, update = gates.chunk(3, dim=-1)
    reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1.0)
    candidate = torch.tanh(reset * raw_candidate)
    after = torch.lerp(before, candidate, update)
    h = after.to(kind)
    posterior_sum = torch.addmm(parts[1], h, weights.deterministic.t()).float()
    normed, posterior_stats = _norm(posterior_sum, weights.posterior_scale, weights.posterior_shift)
    posterior_hidden = F.elu_(normed)
    logits = torch.addmm(weights.logits_bias, posterior_hidden.to(kind), weights.logits.t())
    grouped = torch.unflatten(logits.float(), -1, (-1, classes))
    probabilities = F.softmax(grouped, dim=-1)
    chosen = draw_classes(probabilities, uniforms).unsqueeze(-1)
    drawn = torch.zeros_like(probabilities, dtype=kind).scatter_(-1, chosen, 1.0).flatten(1)
    step = Step(
        keep, z, before, joined, input_sum, input_stats, hidden, gates_sum, gates_stats, reset, raw_candidate,
        candidate, update, h, posterior_sum, posterior_stats, posterior_hidden, probabilities,
    )  # fmt: skip
    return step, after, drawn, grouped


def _backward(
    weights: ScanWeights, step: Step, by_h: Tensor, by_z: Tensor, by_logits: Tensor
) -> tuple[StepGradient, Tensor, Tensor]:
    """Gradients within a step and by h and z before it, from those by h (B, D), z (B, Z) and logits (B, G, C) after."""
    kind = weights.gates.dtype
    by_probabilities = by_z.view_as(step.probabilities)
    logits = torch._softmax_backward_data(by_probabilities, step.probabilities, -1, torch.float32) + by_logits
    logits = logits.flatten(1).to(kind)
    posterior_norm = _elu_backward((logits @ weights.logits).float(), step.posterior_hidden)
    posterior_sum = _norm_backward(
        posterior_norm, step.posterior_sum, step.posterior_stats, weights.posterior_scale, weights.posterior_shift
    ).to(kind)
    by_h = by_h + posterior_sum @ weights.deterministic
    by_candidate = by_h * step.update
    by_gated = torch.ops.aten.tanh_backward(by_candidate, step.candidate)
    by_update = by_h * (step.candidate - step.deterministic_before)
    gates_norm = torch.cat(
        [
            torch.ops.aten.sigmoid_backward(by_gated * step.raw_candidate, step.reset),
            by_gated * step.reset,
            torch.ops.aten.sigmoid_backward(by_update, step.update),
        ],
        dim=-1,
    )
    gates_sum = _norm_backward(
        gates_norm, step.gates_sum, step.gates_stats, weights.gates_scale, weights.gates_shift
    ).to(kind)
    by_hidden, by_before = torch.split(
        (gates_sum @ weights.gates).float(), [step.hidden.shape[-1], by_h.shape[-1]], dim=-1
    )
    input_norm = _elu_backward(by_hidden, step.hidden)
    input_sum = _norm_backward(
        input_norm, step.input_sum, step.input_stats, weights.input_scale, weights.input_shift
    ).to(kind)
    gradient = StepGradient(input_sum, input_norm, gates_sum, gates_norm, posterior_sum, posterior_norm, logits)
    by_h_before = (by_h - by_candidate + by_before) * step.keep
    return gradient, by_h_before, (input_sum @ weights.stochastic).float() * step.keep


def _weights_gradient(
    weights: ScanWeights, steps: Sequence[Step], gradients: Sequence[StepGradient]
) -> tuple[Tensor, ...]:
    def kept(name: str) -> Tensor:
        return torch.cat([getattr(step, name) for step in steps])

    def gradient(name: str) -> Tensor:
        return torch.cat([getattr(one, name) for one in gradients])

    def norm(name: str, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        stats = [getattr(step, f"{name}_stats") for step in steps]
        mean, deviation = (torch.cat(parts) for parts in zip(*stats, strict=True))
        _, by_scale, by_shift = torch.ops.aten.native_layer_norm_backward(
            gradient(f"{name}_norm"), kept(f"{name}_sum"), scale.shape, mean, deviation, scale, shift,
            [False, True, True],
        )  # fmt: skip
        return by_scale, by_shift

    logits = gradient("logits")
    return (
        gradient("input_sum").t() @ kept("stochastic"),
        *norm("input", weights.input_scale, weights.input_shift),
        gradient("gates_sum").t() @ kept("joined"),
        *norm("gates", weights.gates_scale, weights.gates_shift),
        gradient("posterior_sum").t() @ kept("deterministic"),
        *norm("posterior", weights.posterior_scale, weights.posterior_shift),
        logits.t() @ kept("posterior_hidden").to(logits.dtype),
        logits.float().sum(0).to(weights.logits_bias.dtype),
    )


def _norm(values: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, _Stats]:
    """Normalised values (B, N), and mean and inverse deviation (B, 1)."""
    normed, mean, deviation = torch.native_layer_norm(values, scale.shape, scale, shift, _EPS)
    return normed, (mean, deviation)


def _norm_backward(by_normed: Tensor, values: Tensor, stats: _Stats, scale: Tensor, shift: Tensor) -> Tensor:
    by_values: Tensor = torch.ops.aten.native_layer_norm_backward(
        by_normed, values, scale.shape, *stats, scale, shift, [True, False, False]
    )[0]
    return by_values


def _elu_backward(by_result: Tensor, result: Tensor) -> Tensor:
    by_input: Tensor = torch.ops.aten.elu_backward(by_result, 1, 1, 1, True, result)
    return by_input


STEPS = ScanSteps(_forward, _backward)
