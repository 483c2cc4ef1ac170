"""How fast batches of a data set are drawn: python benchmarks/sampler.py [DATA_SET] [--frames 20000] [--seconds 3]

Without a data set, makes one of noisy images at 64x64. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine, markdown_table

from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Episode, Source
from diwa_worldmodel.dataset.sampler import DiskFrames, ResidentFrames, StreamSampler, WindowSampler
from diwa_worldmodel.dataset.store import DataSet, create_data_set, open_data_set

EPISODE_FRAMES = 500
BLOCK_FRAMES = 1000


def make(path: Path, frames: int) -> DataSet:
    """Frames of shades with noise in the lower bits, which compress about as badly as a camera's."""
    rng = np.random.default_rng(0)
    size = DataSetConfig().image_size_px
    shade = np.linspace(0, 200, size, dtype=np.uint8)[None, :, None, None] * np.ones((1, size, size, 3), np.uint8)
    with create_data_set(path, DataSetConfig()).add_recording(Source("made", "bag", "0" * 64)) as writer:
        for _ in range(frames // BLOCK_FRAMES):
            noise = rng.integers(0, 8, (BLOCK_FRAMES, size, size, 3), dtype=np.uint8)
            numbers = rng.uniform(-1, 1, (BLOCK_FRAMES, 17))
            stamps = np.arange(BLOCK_FRAMES, dtype=np.int64)
            writer.append(shade + noise, shade + noise[::-1], numbers[:, :10], numbers[:, 10:], stamps)
        writer.finish([Episode(i, EPISODE_FRAMES) for i in range(0, writer.frames, EPISODE_FRAMES)])
    return open_data_set(path)


def rate(sampler: WindowSampler | StreamSampler, seconds: float) -> float:
    """Frames per second."""
    sampler.draw()
    frames, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        frames += sampler.draw()["static"].shape[0] * sampler.length
    return frames / (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_set", nargs="?", type=Path)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--length", type=int, default=50)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_set = open_data_set(words.data_set) if words.data_set else make(Path(folder, "made"), words.frames)
        sources = {"resident": ResidentFrames(data_set.load()), "disk": DiskFrames(data_set)}
        rows = [
            [place, kind.__name__, f"{rate(kind(source, words.batch, words.length), words.seconds):,.0f}"]
            for place, source in sources.items()
            for kind in (WindowSampler, StreamSampler)
        ]
    size = data_set.config.image_size_px
    print(f"{machine()}; {data_set.frames} frames of 2 x {size}x{size}, batches {words.batch} x {words.length}\n")
    print(markdown_table(["frames", "sampler", "frames/s"], rows))


if __name__ == "__main__":
    main()
