"""Where a step of training the world model goes: python benchmarks/world_model.py [DATA_SET] [--presets tiny paper]

Without a data set, makes one of noisy images. Prints a Markdown table: each preset by the plain forms, the fast ones
and, with --compile, the fast ones with a compiled scan, beside the machine's own GEMM peak. Each has a process of its
own; memory is that process's, data included.

python benchmarks/world_model.py --beside       # two minutes: a step on a quiet machine and beside one busy process

prints what a step of the first preset costs with each way in which OpenMP threads can wait for each other. Laps of all
ways alternate, so that other work on the machine disturbs all of them alike.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import diwa_worldmodel  # noqa: F401  (before torch, as every stage does)

# isort: split
import torch
from machine import machine, markdown_table
from sampler import make
from torch.utils.flop_counter import FlopCounterMode

from diwa_worldmodel.config import Preset, WorldModelConfig, load_config
from diwa_worldmodel.dataset.sampler import ResidentFrames
from diwa_worldmodel.dataset.store import open_data_set
from diwa_worldmodel.memory import keep_freed_memory
from diwa_worldmodel.openmp import LIBGOMP_DEFAULT, LIMIT, SPIN_COUNT
from diwa_worldmodel.rssm import State, balanced_kl
from diwa_worldmodel.settings import from_words
from diwa_worldmodel.training.batches import BatchStream
from diwa_worldmodel.training.trainer import make_optimiser, with_precision
from diwa_worldmodel.world_model import WorldModel, WorldModelBatch, quantise_gripper

FORMS = ("plain", "fast", "compiled")
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PARTS = ("load", "encode", "scan", "decode", "backward", "optimiser")
GEMM = (4096, 2048, 2048)
"""(M, K, N) of the product that the peak is measured with."""


class Stopwatch:
    """Times of the parts of a step; on a GPU, what was started counts."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._last_s = self._now_s()
        self.parts_ms: dict[str, list[float]] = {name: [] for name in PARTS}

    def start(self) -> None:
        self._last_s = self._now_s()

    def lap(self, name: str) -> None:
        now_s = self._now_s()
        self.parts_ms[name].append(1e3 * (now_s - self._last_s))
        self._last_s = now_s

    def _now_s(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


class Measured(NamedTuple):
    """Of one form of the model."""

    parameters: int
    flops: float
    """Of a step's forward and backward pass."""
    parts_ms: dict[str, float]
    """Medians."""
    step_ms: float
    wait_share: float
    memory_gb: float


def gemm_peak(kind: torch.dtype, device: torch.device) -> float:
    """The best of 20 products [FLOP/s]."""
    rows, inner, columns = GEMM
    left = torch.randn(rows, inner, device=device).to(kind)
    right = torch.randn(inner, columns, device=device).to(kind)
    clock = Stopwatch(device)
    clock.start()
    for _ in range(20):
        left @ right
        clock.lap("load")
    return 2.0 * rows * inner * columns / (1e-3 * min(clock.parts_ms["load"]))


def autocast(config: WorldModelConfig, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")


def step_flops(model: WorldModel, config: WorldModelConfig, batch: WorldModelBatch, device: torch.device) -> float:
    """Of forward and backward pass, by the plain forms: the fast ones multiply some zeros too."""
    model.use_fast_paths(False)
    counter = FlopCounterMode(display=False)
    with counter:
        with autocast(config, device):
            losses, _ = model(batch, model.rssm.initial(config.training.batch, device))
        losses.total.backward()
    model.zero_grad()
    return float(counter.get_total_flops())


class Training:
    """A preset's training by one of :data:`FORMS`, step by step."""

    def __init__(
        self, data_set: Path, preset: Preset, words: Sequence[str], form: str, device: torch.device, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        config = with_precision(load_config(preset, from_words(words)), "cpu")
        model = WorldModel(config.model).to(device)
        if form != "plain" and device.type == "cpu":
            keep_freed_memory()
        frames = ResidentFrames(open_data_set(data_set).load())
        self.batches = BatchStream(frames, config.model, config.training, device)
        self.flops = step_flops(model, config, next(self.batches), device) if form == "plain" else 0.0
        model.use_fast_paths(form != "plain")
        if form == "compiled":
            model.compile_scan()
        self.model, self._config, self._device = model, config, device
        self._optimiser = make_optimiser(model, config.training)
        self._state = model.rssm.initial(config.training.batch, device)

    def step(self, clock: Stopwatch) -> None:
        self._state = train_step(self.model, self._config, self._optimiser, self.batches, self._state, clock)


def step_times_ms(clock: Stopwatch) -> list[float]:
    return [sum(times) for times in zip(*clock.parts_ms.values(), strict=True)]


def measure(
    data_set: Path,
    preset: Preset,
    words: Sequence[str],
    form: str,
    device: torch.device,
    threads: int,
    seconds: float,
) -> Measured:
    """After two steps that are not counted."""
    training = Training(data_set, preset, words, form, device, threads)
    clock = Stopwatch(device)
    waits_ms: list[float] = []
    began_s = time.perf_counter()
    with training.batches as batches:
        while len(waits_ms) < 5 or time.perf_counter() - began_s < seconds:
            training.step(clock)
            waits_ms.append(1e3 * batches.wait_s)
    parts = {name: statistics.median(times[2:]) for name, times in clock.parts_ms.items()}
    steps = step_times_ms(clock)[2:]
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    wait_share = sum(waits_ms[2:]) / sum(steps)
    return Measured(parameters, training.flops, parts, statistics.median(steps), wait_share, memory_gb(device))


def train_step(
    model: WorldModel,
    config: WorldModelConfig,
    optimiser: torch.optim.Optimizer,
    batches: BatchStream,
    state: State,
    clock: Stopwatch,
) -> State:
    """What :meth:`WorldModel.forward` and the trainer do, in parts."""
    clock.start()
    batch = next(batches)
    clock.lap("load")
    with autocast(config, state.deterministic.device):
        embeddings = model.encode(batch)
        clock.lap("encode")
        actions = quantise_gripper(batch["previous_action"])
        seen = model.rssm.observe(embeddings, actions, batch["reset"], state, batch["uniforms"])
        kl = balanced_kl(seen.posterior, seen.prior, config.model.kl_balance).mean()
        clock.lap("scan")
        errors = model.reconstruction(seen.latent, batch)
        loss = torch.stack([config.model.kl_scale * kl, *errors.values()]).sum()
        clock.lap("decode")
    loss.backward()
    clock.lap("backward")
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.gradient_clip)
    optimiser.step()
    optimiser.zero_grad()
    clock.lap("optimiser")
    return seen.last.detach()


def memory_gb(device: torch.device) -> float:
    """Largest so far: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def apart(*arguments: Any) -> Measured:
    """:func:`measure` in a process of its own: memory that another form took would count here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


# ---- beside a busy process ----

PASSIVE = "OMP_WAIT_POLICY"
LAP_S = 3.0

_training: Training
"""Of this process."""


def begin_training(*arguments: Any) -> None:
    global _training
    _training = Training(*arguments)
    lap(0.0)
    lap(0.0)


def lap(seconds: float) -> list[float]:
    """Times [ms] of steps, at least one."""
    clock = Stopwatch(torch.device("cpu"))
    end_s = time.perf_counter() + seconds
    while not clock.parts_ms["load"] or time.perf_counter() < end_s:
        _training.step(clock)
    return step_times_ms(clock)


def end_training() -> None:
    _training.batches.close()


@contextmanager
def trainings(spin_counts: Sequence[int], arguments: Sequence[Any]) -> Iterator[Mapping[str, ProcessPoolExecutor]]:
    """A process for each spin count and one for the passive policy, ready to run laps."""
    ways = [(SPIN_COUNT, str(count)) for count in spin_counts] + [(PASSIVE, "passive")]
    with ExitStack() as stack:
        pools = {}
        for variable, value in ways:
            os.environ.pop(SPIN_COUNT, None)
            os.environ[variable] = value
            name = f"{variable}={value}"
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_training, tuple(arguments))
            pools[name] = stack.enter_context(pool)
            pool.submit(lap, 0.0).result()
            stack.callback(pool.submit, end_training)
        yield pools


@contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def beside_table(spin_counts: Sequence[int], arguments: Sequence[Any], seconds: float) -> str:
    """Each way has about ``seconds`` on a quiet machine and as many beside a busy process."""
    with trainings(spin_counts, arguments) as pools:
        quiet: dict[str, list[float]] = {name: [] for name in pools}
        beside: dict[str, list[float]] = {name: [] for name in pools}
        end_s = time.perf_counter() + 2 * len(pools) * seconds
        while time.perf_counter() < end_s:
            for name, pool in pools.items():
                quiet[name] += pool.submit(lap, LAP_S).result()
            with busy_process():
                for name, pool in pools.items():
                    beside[name] += pool.submit(lap, LAP_S).result()
    first_ms = statistics.median(next(iter(quiet.values())))
    rows = []
    for name in quiet:
        quiet_ms, mean_ms = statistics.median(quiet[name]), statistics.mean(beside[name])
        rows.append(
            [
                name,
                f"{quiet_ms:,.0f}",
                f"{quiet_ms / first_ms - 1.0:+.1%}",
                f"{statistics.median(beside[name]):,.0f}",
                f"{mean_ms:,.0f}",
                f"{mean_ms / quiet_ms:.1f}",
                f"{len(quiet[name])}, {len(beside[name])}",
            ]  # fmt: skip
        )
    head = ["threads wait by", "quiet ms", "to the first", "beside ms", "beside, mean ms", "mean to quiet", "steps"]
    return markdown_table(head, rows)


# ---- command ----


def row(preset: str, form: str, measured: Measured, flops: float, peak: float) -> list[str]:
    parts = [f"{measured.parts_ms[name]:,.1f}" for name in PARTS]
    share = flops / (1e-3 * measured.step_ms) / peak
    return [
        preset, form, *parts, f"{measured.step_ms:,.0f}", f"{share:.0%}", f"{measured.wait_share:.1%}",
        f"{measured.memory_gb:.1f}",
    ]  # fmt: skip


def main_beside(words: argparse.Namespace) -> None:
    preset = words.presets[0]
    with tempfile.TemporaryDirectory() as folder:
        data_set = words.data_set or make(Path(folder, "made"), min(words.frames, 2_000)).path
        arguments = (data_set, preset, words.set, "fast", torch.device("cpu"), words.threads)
        table = beside_table(words.spin_counts, arguments, words.seconds)
    config = with_precision(load_config(preset, from_words(words.set)), words.device).training
    shape = f"{config.batch} x {config.length} in {config.precision}"
    print(f"{machine()}, PyTorch {torch.__version__}, {words.threads} threads; {preset}, {shape}; medians\n\n{table}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_set", nargs="?", type=Path)
    parser.add_argument("--presets", nargs="+", default=["tiny", "paper"], choices=["tiny", "paper"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="e.g. training.precision=fp32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="also with the scan compiled")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--frames", type=int, default=10_000, help="of the data set that is made")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each form of each preset, or each cell")
    parser.add_argument("--beside", action="store_true", help="steps on a quiet machine and beside one busy process")
    parser.add_argument(
        "--spin-counts", nargs="+", type=int, default=[LIBGOMP_DEFAULT, LIMIT], help="with --beside: libgomp's, ours"
    )
    words = parser.parse_args()
    device = torch.device(words.device)
    torch.set_num_threads(words.threads)
    if words.beside:
        return main_beside(words)
    configs = {
        preset: with_precision(load_config(preset, from_words(words.set)), words.device) for preset in words.presets
    }
    # A CPU without bf16 would need an hour for products that nobody asked for.
    peaks = {kind: gemm_peak(KINDS[kind], device) for kind in {one.training.precision for one in configs.values()}}
    rows, sizes = [], []
    with tempfile.TemporaryDirectory() as folder:
        data_set = words.data_set or make(Path(folder, "made"), words.frames).path
        for preset, config in configs.items():
            peak = peaks[config.training.precision]
            flops = 0.0
            for form in FORMS[: 3 if words.compile else 2]:
                measured = apart(data_set, preset, words.set, form, device, words.threads, words.seconds)
                flops = measured.flops or flops
                rows.append(row(preset, form, measured, flops, peak))
            shape = f"{config.training.batch} x {config.training.length}"
            size = f"{measured.parameters / 1e6:.1f} M parameters, {flops / 1e9:,.0f} GFLOP a step of {shape}"
            sizes.append(f"{preset}: {size}")
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{words.threads} threads"
    print(f"{machine()}, PyTorch {torch.__version__}, {place}; {'; '.join(sizes)}")
    print(f"GEMM peak: {', '.join(f'{name} {peak / 1e9:,.0f} GFLOP/s' for name, peak in peaks.items())}\n")
    print(
        markdown_table(["preset", "form", *(f"{name} ms" for name in PARTS), "step ms", "of peak", "wait", "GB"], rows)
    )


if __name__ == "__main__":
    main()
