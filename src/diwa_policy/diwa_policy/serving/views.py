"""Whether the two cameras show what the world model knows of them: asked once, before the arm moves.

One-step KL (the filter's surprise) hardly notices swapped cameras: with a trained model it came to its bound only after
seconds of motion. What the model decodes tells them apart at the first frame (docs/results/serving.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diwa_conventions.images import ImageArray
from diwa_worldmodel.world_model import WorldModel

_KNOWN_APART = 0.25
"""The model knows its cameras apart where its views differ by this share of what the images differ by."""
_LEAST_LIKENESS = 0.3
"""Between what sound frames and swapped ones come to: docs/results/serving.md."""


@torch.inference_mode()
def likeness(model: WorldModel, latent: Tensor, images: Mapping[str, ImageArray]) -> float | None:
    """Cosine of the difference between the two decoded views and that between the two images, in [-1, 1].

    Positive if each image is more like its own camera's decoded view than like the other's: with views d and images i,
    (d1 - d2) . (i1 - i2) > 0 is |d1 - i1|^2 + |d2 - i2|^2 < |d1 - i2|^2 + |d2 - i1|^2. ``latent`` (1, s), images
    (S, S, 3). None for one camera, or if the model does not know its views apart, as before training.
    """
    if len(images) != 2:
        return None
    first, second = images
    views = model.decode(latent)
    decoded = (views[first][0].float() - views[second][0].float()).flatten()
    seen = (torch.from_numpy(images[first]).float() - torch.from_numpy(images[second]).float()).flatten()
    if not 0.0 < _KNOWN_APART * float(seen.norm()) < float(decoded.norm()):
        return None
    return float(decoded @ seen / (decoded.norm() * seen.norm()))


def unlike(model: WorldModel, latent: Tensor, images: Mapping[str, ImageArray]) -> str:
    """What is wrong with the cameras, in words for a person; "" if nothing is known to be."""
    found = likeness(model, latent, images)
    if found is None or found >= _LEAST_LIKENESS:
        return ""
    if found < 0.0:
        return (
            "the two cameras seem to be swapped: each image is more like what the world model knows of the other one; "
            "check which camera publishes which topic"
        )
    return (
        f"the cameras do not show what the world model knows of them (likeness {found:.2f}, at least "
        f"{_LEAST_LIKENESS:g}); compare them with the data set: diwa calibrate cameras"
    )
