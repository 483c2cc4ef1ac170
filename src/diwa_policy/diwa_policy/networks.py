"""Multi-layer perceptrons of policies, critic and classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """The layers between hidden widths, each with SiLU behind it; what comes in is the first width."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers)


def mlp(inputs: int, widths: Sequence[int], outputs: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Linear layers with activations between."""
    layers: list[nn.Module] = []
    for before, after in zip([inputs, *widths], widths, strict=False):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1] if widths else inputs, outputs))
