"""One decision of a policy: from a latent and noise to a chunk of actions, by ONNX Runtime or by PyTorch.

On a CPU ONNX Runtime needs a quarter of PyTorch's time, and its worst case is as good as its usual one
(docs/results/serving.md). The latent filter stays PyTorch's: its latents have to equal those of training bit for bit,
and of two classes that are nearly as probable another rounding can choose the other.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diwa_conventions.errors import UserError
from diwa_policy.policy import Policy, draw_noise

Backend: TypeAlias = Literal["auto", "onnx", "torch"]
Decide: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Latent (1, s) and noise (1, K + 1, C) to a chunk (T_p, 7) in [-1, 1], all on the CPU."""

TOLERANCE = 1e-4
"""How far the exported policy's actions may be from PyTorch's; 1e-6 is usual."""
_TRIALS = 8


@dataclass(frozen=True)
class Inference:
    """How decisions are computed."""

    decide: Decide
    backend: Literal["onnx", "torch"]
    note: str
    """For a person: what computes, and why not the other."""


def inference(policy: Policy, backend: Backend = "auto", device: torch.device | str = "cpu") -> Inference:
    """``auto``: PyTorch on a GPU; on a CPU ONNX Runtime, or PyTorch where that fails or its actions differ.

    UserError if ONNX Runtime was asked for by name and cannot do it.
    """
    place = torch.device(device)
    if backend == "torch" or (backend == "auto" and place.type != "cpu"):
        return Inference(_with_torch(policy, place), "torch", f"PyTorch on {place.type}")
    try:
        decide = _with_onnx(policy)
        worst = difference(decide, _with_torch(policy, torch.device("cpu")), policy)
        if worst > TOLERANCE:
            raise UserError(f"its actions differ from PyTorch's by {worst:.2g}; expected at most {TOLERANCE:g}")
    except Exception as error:  # whatever an exporter may raise: there is another way to compute the same
        text = " ".join(str(error).split())[:300] or type(error).__name__
        if backend == "onnx":
            raise UserError(f"ONNX Runtime cannot compute this policy ({text}); use inference torch or auto") from None
        return Inference(
            _with_torch(policy, place), "torch", f"PyTorch on {place.type}, as ONNX Runtime cannot: {text}"
        )
    return Inference(decide, "onnx", f"ONNX Runtime; its actions differ from PyTorch's by {worst:.1g} at most")


def difference(one: Decide, other: Decide, policy: Policy) -> float:
    """The largest difference of any action's component over some latents and noise."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(_TRIALS):
        latent = torch.randn((1, policy.latent), generator=generator)
        noise = draw_noise((1, policy.steps + 1, policy.chunk), generator)
        worst = max(worst, float((one(latent, noise) - other(latent, noise)).abs().max()))
    return worst if np.isfinite(worst) else float("inf")


def _with_torch(policy: Policy, place: torch.device) -> Decide:
    served = policy.to(place)

    @torch.inference_mode()
    def decide(latent: Tensor, noise: Tensor) -> Tensor:
        return served.act(latent.to(place), noise.to(place))[0].cpu()

    return decide


class _Act(nn.Module):
    """The policy's whole chain, as one graph."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, latent: Tensor, noise: Tensor) -> Tensor:
        return self.policy.act(latent, noise)


def _with_onnx(policy: Policy) -> Decide:
    """One thread: several wait for each other after every layer."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported(policy), options, providers=["CPUExecutionProvider"])

    def decide(latent: Tensor, noise: Tensor) -> Tensor:
        given = {"latent": _numbers(latent), "noise": _numbers(noise)}
        return torch.from_numpy(session.run(None, given)[0][0])

    return decide


def _numbers(values: Tensor) -> npt.NDArray[np.float32]:
    return values.detach().cpu().numpy()


def exported(policy: Policy) -> bytes:
    """The policy as an ONNX model: ``latent`` (1, s) and ``noise`` (1, K + 1, C) to ``chunk`` (1, T_p, 7)."""
    latent = torch.zeros(1, policy.latent)
    noise = torch.zeros(1, policy.steps + 1, policy.chunk)
    with _quiet():
        program = torch.onnx.export(
            _Act(policy).eval(),
            (latent, noise),
            input_names=["latent", "noise"],
            output_names=["chunk"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells its steps and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
