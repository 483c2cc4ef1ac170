"""How fast policies dream, learn from dreams and play: python benchmarks/dreams.py [--presets tiny paper] [--seconds 4]

Prints three Markdown tables, of untrained models on one thread unless --threads says otherwise: whole decisions in
dreams (K denoising steps, T_a frames through the prior, the classifier), one PPO update on 7,500 transitions, and N
robots served together (filter and policy). Medians of wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from machine import machine, markdown_table
from torch import Tensor

from diwa_policy import ppo
from diwa_policy.config import Config, Preset, load_config
from diwa_policy.dream import DreamDiffusionMDP, DreamRules
from diwa_policy.policy import Policy, draw_noise, log_likelihood
from diwa_policy.ppo import PPO, Rollout, chain_log_probs, roll_out
from diwa_policy.reward import RewardClassifier
from diwa_worldmodel.config import load_config as load_world_model_config
from diwa_worldmodel.latent_filter import FilterFrame, LatentFilter
from diwa_worldmodel.memory import keep_freed_memory
from diwa_worldmodel.world_model import PROPRIO_DIM, WorldModel

DREAMS = (1, 16, 64, 256)
ROBOTS = (1, 16, 64)
TRANSITIONS = 7500
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEP_NS = 133_333_333


@dataclass
class Setup:
    """An untrained world model with policy and classifier, of a preset's sizes."""

    config: Config
    model: WorldModel
    policy: Policy
    classifier: RewardClassifier
    generator: torch.Generator

    @property
    def executed(self) -> int:
        return self.config.policy.executed_actions

    def mdp(self, kind: torch.dtype) -> DreamDiffusionMDP:
        rules = DreamRules(self.config.fine_tuning.gamma, "probability")
        return DreamDiffusionMDP(self.model, self.classifier, rules, self.generator, kind)

    def starts(self, count: int) -> Tensor:
        return self.model.rssm.initial(count, self.generator.device).latent


def setup(preset: Preset, device: torch.device) -> Setup:
    torch.manual_seed(0)
    config = load_config(preset)
    model = WorldModel(load_world_model_config(preset).model).to(device).eval()
    latent = model.config.latent
    policy = Policy(config.policy, latent, config.fine_tuning.fine_tuned_steps).to(device)
    classifier = RewardClassifier(config.reward, latent).to(device)
    return Setup(config, model, policy, classifier, torch.Generator(device).manual_seed(0))


def median_s(act: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Of calls for about so many seconds, at least five, after two that are not counted."""
    times: list[float] = []
    began_s = time.perf_counter()
    while len(times) < 7 or time.perf_counter() - began_s < seconds:
        start_s = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times[2:])


@torch.no_grad()
def decision(made: Setup, mdp: DreamDiffusionMDP, latents: Tensor, kind: torch.dtype) -> Tensor:
    """Of N dreams: from noise to chunk, and what it leads to."""
    policy = made.policy
    noise = draw_noise((len(latents), policy.steps + 1, policy.chunk), made.generator)
    with torch.autocast(latents.device.type, kind, enabled=kind is not torch.float32):
        chunks = policy.sample(latents, noise, made.config.fine_tuning.sampling_std)[:, -1]
    return mdp.decide(latents, chunks.float(), made.executed).latents


def dream_rates(made: Setup, count: int, seconds: float) -> list[str]:
    """Dreamed steps/s: the plain form of the world model, and the fast one as fp32 and bf16."""
    rates = []
    for form in ("plain", *KINDS):
        kind = KINDS.get(form, torch.float32)
        mdp, latents = made.mdp(kind), made.starts(count)
        if form == "plain":
            mdp.dynamics = made.model.rssm  # type: ignore[assignment]  # with the same methods

        def act(mdp: DreamDiffusionMDP = mdp, latents: Tensor = latents, kind: torch.dtype = kind) -> Tensor:
            return decision(made, mdp, latents, kind)

        rates.append(count * made.executed / median_s(act, seconds, latents.device))
    return [f"{rate:,.0f}" for rate in rates]


def each_by_itself(policy: Policy, latents: Tensor, chains: Tensor, floor: float) -> Tensor:
    """:func:`chain_log_probs` with every denoising step a transition of its own, its latent's first layer included."""
    assert policy.tuned is not None
    steps = policy.fine_tuned_steps
    numbers = torch.arange(steps, 0, -1, device=chains.device).repeat(len(chains))
    rows = latents.repeat_interleave(steps, dim=0)
    step = policy.step(policy.tuned, policy.tuned.condition(rows), chains[:, :-1].flatten(0, 1), numbers, floor)
    return log_likelihood(step, chains[:, 1:].flatten(0, 1)).unflatten(0, (-1, steps)) / policy.chunk


@contextmanager
def log_probs_by(function: Callable[[Policy, Tensor, Tensor, float], Tensor]) -> Iterator[None]:
    ppo.chain_log_probs = function
    try:
        yield
    finally:
        ppo.chain_log_probs = chain_log_probs


def update_times(made: Setup, seconds: float) -> list[str]:
    """Milliseconds of an update on one minibatch: actor, critic and imitation, forwards and backwards."""
    steps = made.config.fine_tuning.fine_tuned_steps
    decisions = TRANSITIONS // steps
    config = replace(
        made.config.fine_tuning, dreams=decisions, decisions=1, epochs=1, batch=TRANSITIONS, critic_warmup=0
    )
    mdp, device = made.mdp(torch.float32), made.generator.device
    dreamed: Rollout = roll_out(
        made.policy, lambda latents, chunks: mdp.decide(latents, chunks, made.executed), made.starts(decisions), 1,
        config, made.generator,
    )  # fmt: skip
    times = []
    for function in (each_by_itself, chain_log_probs):
        for kind in KINDS.values():
            learner = PPO(made.policy, config, made.generator)

            def act(learner: PPO = learner, kind: torch.dtype = kind) -> object:
                with torch.autocast(device.type, kind, enabled=kind is not torch.float32):
                    return learner.update(dreamed)

            with log_probs_by(function):
                times.append(median_s(act, seconds, device))
    return [f"{1e3 * one:,.0f}" for one in times]


def serving_rates(made: Setup, count: int, seconds: float) -> list[str]:
    """Frames/s, and the milliseconds of a frame of all robots, every ``executed``-th with a decision."""
    size, rng = made.model.config.image_size_px, np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (count, size, size, 3), np.uint8) for name in made.model.config.cameras}
    filter_, policy = LatentFilter(made.model, count), made.policy
    proprio, actions, frames = np.zeros((count, PROPRIO_DIM), np.float32), np.zeros((count, 7), np.float32), [0]

    def act() -> None:
        for _ in range(made.executed):
            stamps = np.full(count, frames[0] * STEP_NS, np.int64)
            latents = filter_.update(FilterFrame(images, proprio, stamps), actions if frames[0] else None).latent
            frames[0] += 1
        noise = draw_noise((count, policy.steps + 1, policy.chunk), made.generator)
        with torch.inference_mode():
            policy.act(latents, noise)

    chunk_s = median_s(act, seconds, made.generator.device)
    return [f"{count * made.executed / chunk_s:,.0f}", f"{1e3 * chunk_s / made.executed:,.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["tiny", "paper"], choices=["tiny", "paper"])
    parser.add_argument("--dreams", nargs="+", type=int, default=DREAMS, help="side by side")
    parser.add_argument("--robots", nargs="+", type=int, default=ROBOTS, help="served together")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each figure")
    words = parser.parse_args()
    device = torch.device(words.device)
    torch.set_num_threads(words.threads)
    if device.type == "cpu":
        keep_freed_memory()
    setups = {preset: setup(preset, device) for preset in words.presets}
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{words.threads} thread(s)"
    print(f"{machine()}, PyTorch {torch.__version__}, {place}\n\nDreamed environment steps/s\n")
    rows = [
        [name, str(count), *dream_rates(made, count, words.seconds)]
        for name, made in setups.items()
        for count in words.dreams
    ]
    print(markdown_table(["preset", "dreams", "plain fp32", "fast fp32", "fast bf16"], rows))
    print(f"\nPPO update on {TRANSITIONS:,} transitions [ms]\n")
    rows = [[name, *update_times(made, words.seconds)] for name, made in setups.items()]
    print(markdown_table(["preset", "each by itself fp32", "bf16", "grouped fp32", "bf16"], rows))
    if device.type == "cpu":  # where policies are served
        print("\nServing: filter and policy\n")
        rows = [
            [name, str(count), *serving_rates(made, count, words.seconds)]
            for name, made in setups.items()
            for count in words.robots
        ]
        print(markdown_table(["preset", "robots", "frames/s", "ms a frame of all"], rows))


if __name__ == "__main__":
    main()
