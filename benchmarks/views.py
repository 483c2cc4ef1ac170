"""How well swapped cameras are told from sound ones at the first frame, before the arm moves.

python benchmarks/views.py --world-model runs/model/world_model --data data/play
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from machine import machine, markdown_table

from diwa_policy.serving.views import likeness
from diwa_worldmodel.artefact import load_world_model
from diwa_worldmodel.dataset.store import open_data_set
from diwa_worldmodel.latent_filter import FilterFrame, LatentFilter


@dataclass(frozen=True)
class Benchmark:
    """Each frame is a first one, straight and with the cameras swapped."""

    world_model: Path
    data: Path
    every: int = 37
    """Frames from one that is looked at to the next."""


def main(benchmark: Benchmark) -> None:
    print(f"{machine()}\n")
    torch.set_num_threads(1)
    model = load_world_model(benchmark.world_model).model
    found: dict[str, list[float]] = {"sound": [], "swapped": []}
    for recording in open_data_set(benchmark.data).recordings:
        statics, grippers = np.asarray(recording.static[:]), np.asarray(recording.gripper[:])
        for row in range(0, recording.frames, benchmark.every):
            static, gripper = statics[row], grippers[row]
            proprio, stamp = np.asarray(recording.proprio[row])[None], np.asarray(recording.stamp_ns[row])[None]
            for name, views in (("sound", (static, gripper)), ("swapped", (gripper, static))):
                images = dict(zip(("static", "gripper"), views, strict=True))
                rows = {camera: image[None] for camera, image in images.items()}
                output = LatentFilter(model).update(FilterFrame(rows, proprio, stamp))
                known = likeness(model, output.latent, images)
                assert known is not None, "the world model does not know its cameras apart"
                found[name].append(known)
    table = [
        [name, str(len(values)), *(f"{value:.2f}" for value in np.quantile(values, [0.0, 0.01, 0.5, 0.99, 1.0]))]
        for name, values in found.items()
    ]
    print(markdown_table(["cameras", "frames", "least", "1%", "median", "99%", "most"], table))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
