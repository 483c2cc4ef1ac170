"""How fast bags become a data set: python benchmarks/import_bags.py [--minutes 1] [--count 2] [BAG ...]

Without bags, makes some of 200x200 images at 30 Hz and states at 120 Hz (what the recorder writes) and, for ``bulk``,
of images at 7.5 Hz in lz4 chunks (what ``diwa simulate play`` writes). Prints a Markdown
table; "per core" is by processor time.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, markdown_table

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.writer import BagWriter
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.importing import import_all
from diwa_worldmodel.dataset.store import open_data_set, open_or_create

START_NS = 1_700_000_000_000_000_000
SIZE_PX = 200


def scene(seed: int) -> np.ndarray:
    """(SIZE, 2 SIZE, 3): shades and edges with the noise of a camera, to move a window over."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE_PX, 0 : 2 * SIZE_PX]
    shade = 90 + 40 * np.sin(x / 37.0) + 40 * np.cos(y / 23.0)
    edges = 40 * ((x // 32 + y // 25) % 2)
    noise = rng.normal(0.0, 1.0, (SIZE_PX, 2 * SIZE_PX, 3))
    return np.clip(shade[..., None] + edges[..., None] + noise, 0, 255).astype(np.uint8)


def messages(seconds: float, camera_hz: float, seed: int) -> Iterator[tuple[topics.Topic, int, bytes]]:
    """Topic, stamp and CDR of a recording, in its order."""
    store, types = typestore(), typestore().types
    picture = scene(seed)

    def made(topic: topics.Topic, at: int, **values: Any) -> tuple[topics.Topic, int, bytes]:
        stamp = types["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="panda_link0")
        return topic, at, bytes(store.serialize_cdr(types[topic.type](header=header, **values), topic.type))

    names = [*topics.ARM_JOINTS, *topics.FINGER_JOINTS]
    position = np.array([0.1] * 7 + [0.02, 0.02])
    turn = types["geometry_msgs/msg/Quaternion"](x=1.0, y=0.0, z=0.0, w=0.0)
    every = round(120 / camera_hz)
    for i in range(int(seconds * 120)):
        at = START_NS + i * 10**9 // 120
        point = types["geometry_msgs/msg/Point"](x=0.4 + 0.1 * np.sin(i / 240), y=0.1 * np.cos(i / 170), z=0.3)
        pose = types["geometry_msgs/msg/Pose"](position=point, orientation=turn)
        yield made(topics.CURRENT_POSE, at, pose=pose)
        yield made(topics.TARGET_POSE, at, pose=pose)
        yield made(topics.JOINT_STATES, at, name=names, position=position, velocity=position, effort=position)
        if i % every:
            continue
        yield made(topics.GRIPPER_COMMAND, at, command=1.0)
        for topic, shift in ((topics.STATIC_IMAGE, i // 2 % SIZE_PX), (topics.GRIPPER_IMAGE, i % SIZE_PX)):
            data = np.ascontiguousarray(picture[:, shift : shift + SIZE_PX]).reshape(-1)
            sizes = {"height": SIZE_PX, "width": SIZE_PX, "step": 3 * SIZE_PX}
            yield made(topic, at, **sizes, encoding="rgb8", is_bigendian=0, data=data)


def write_bag(folder: Path, seconds: float, camera_hz: float, compression: Any, seed: int) -> Path:
    writer = BagWriter(folder, compression=compression)
    channels: dict[str, int] = {}
    for topic, at, data in messages(seconds, camera_hz, seed):
        if topic.name not in channels:
            channels[topic.name] = writer.add(connection(topic, "diwa"))
        writer.write(channels[topic.name], at, data)
    writer.close()
    return folder


def cpu_s() -> float:
    """Processor time of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(bags: list[Path], out: Path, workers: int) -> list[str]:
    """One row of the table."""
    open_or_create(out, DataSetConfig())
    began_s, began_cpu_s = time.perf_counter(), cpu_s()
    failed = import_all(bags, out, workers=workers, quiet=True)
    took_s, took_cpu_s = time.perf_counter() - began_s, cpu_s() - began_cpu_s
    if failed:
        sys.exit("; ".join(failed))
    recorded_s = sum(Bag(bag).duration_s for bag in bags)
    frames = open_data_set(out).frames
    child_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    memory_mib = max(child_kib, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    megabytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    return [
        f"{len(bags)} x {recorded_s / len(bags):.0f} s",
        str(workers),
        f"{took_s:.1f} s",
        f"{recorded_s / took_cpu_s:.0f}",
        f"{frames / took_s:.0f}",
        f"{memory_mib:.0f} MiB",
        f"{megabytes * 1e3 / max(frames, 1):.1f} KB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bags", nargs="*", type=Path)
    parser.add_argument("--minutes", type=float, default=1.0, help="of each bag that is made")
    parser.add_argument("--count", type=int, default=2, help="bags that are made of each kind")
    parser.add_argument("--workers", type=int, default=2)
    words = parser.parse_args()
    head = ["source", "bags", "workers", "time", "x real time, per core", "frames/s", "memory, largest", "per frame"]
    rows = []
    # A new process for each kind: its memory is its own.
    pool = ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory() as folder, pool:
        kinds: dict[str, tuple[float, Any]] = {"30 Hz, no compression": (30.0, "none"), "7.5 Hz, lz4": (7.5, "lz4")}
        sources = {"given": words.bags} if words.bags else {}
        for number, (kind, (rate, compression)) in enumerate({} if words.bags else kinds.items()):
            args = [
                (Path(folder, f"{number}_{i}"), words.minutes * 60, rate, compression, i) for i in range(words.count)
            ]
            sources[kind] = [write_bag(*arg) for arg in args]
        for number, (kind, bags) in enumerate(sources.items()):
            rows.append([kind, *pool.submit(measure, bags, Path(folder, f"out{number}"), words.workers).result()])
    print(f"{machine()}\n\n{markdown_table(head, rows)}")


if __name__ == "__main__":
    main()
