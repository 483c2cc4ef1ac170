"""PPO on the Dream Diffusion MDP (paper III-E, S.2.4, Table S.5; method.md 1, 2, 8, 10 to 13), top to bottom.

dreams    N dreams of up to M decisions; of every chain the last K' + 1 links are kept
returns   generalised advantages, a step of which is a decision
update    clipped surrogate per denoising step, critic, behaviour cloning against the frozen policy
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diwa_policy.config import FineTuningConfig
from diwa_policy.networks import mlp
from diwa_policy.policy import Policy, draw_noise, log_likelihood

_AVERAGED = "averaged/"
_SCALE, _MOMENTS = "reward_scale", ("step", "exp_avg", "exp_avg_sq")


class Decided(Protocol):
    """What a world gives back for N decisions; see :class:`diwa_policy.dream.Outcome`."""

    @property
    def latents(self) -> Tensor: ...

    @property
    def reward(self) -> Tensor: ...

    @property
    def terminated(self) -> Tensor: ...

    @property
    def probability(self) -> Tensor: ...

    @property
    def prior_entropy(self) -> Tensor: ...


class Rollout(NamedTuple):
    """M decisions of N dreams, (M, N, ...) each."""

    latents: Tensor
    """s, at the decision."""
    chains: Tensor
    """(M, N, K' + 1, C): a^{K'} to a^0."""
    imitated: Tensor
    """(M, N, K' + 1, C): as ``chains``, from the same a^{K'}, by the frozen policy."""
    log_probs: Tensor
    """(M, N, K') of ``chains`` under the policy that drew them, mean over C."""
    reward: Tensor
    last_latents: Tensor
    """Behind the decision, in the same dream (method.md 8)."""
    terminated: Tensor
    """bool: there is no value behind the decision."""
    ended: Tensor
    """bool: terminated or truncated; the next row is another dream."""
    valid: Tensor
    """bool: false for what would follow the end of a dream."""
    probability: Tensor
    """(M, N, T_a)"""
    prior_entropy: Tensor
    """(M, N, T_a)"""


Decide = Callable[[Tensor, Tensor], Decided]
"""Latents (N, s) and chunks (N, C) to the outcome."""


@torch.no_grad()
def roll_out(
    policy: Policy, decide: Decide, starts: Tensor, decisions: int, config: FineTuningConfig, generator: torch.Generator
) -> Rollout:
    """N dreams from latents (N, s); one ends where success ends it, or after ``decisions``, and is not begun anew.

    Once all have ended nothing more is dreamed: M is the length of the longest.
    """
    latents, alive = starts, torch.ones(len(starts), dtype=torch.bool, device=starts.device)
    rows: list[tuple[Tensor, ...]] = []
    for number in range(decisions):
        noise = draw_noise((len(latents), policy.steps + 1, policy.chunk), generator, config.noise_clip)
        chain = policy.sample(latents, noise, config.sampling_std)[:, -policy.fine_tuned_steps - 1 :]
        imitated = imitate(policy, latents, chain[:, 0], config, generator)
        log_probs = chain_log_probs(policy, latents, chain, config.log_prob_std)
        outcome = decide(latents, chain[:, -1])
        ended = outcome.terminated | (number == decisions - 1)
        rows.append((
            latents, chain, imitated, log_probs, outcome.reward, outcome.latents, outcome.terminated, ended, alive,
            outcome.probability, outcome.prior_entropy,
        ))  # fmt: skip
        alive = alive & ~outcome.terminated
        if not alive.any():
            break
        latents = outcome.latents
    return Rollout(*(torch.stack(column) for column in zip(*rows, strict=True)))


def imitate(
    policy: Policy, latents: Tensor, noisy: Tensor, config: FineTuningConfig, generator: torch.Generator
) -> Tensor:
    """The last K' steps by the frozen network (N, K' + 1, C), from a^{K'} (N, C)."""
    network, chain = policy.pretrained, [noisy]
    condition = network.condition(latents)
    for k in range(policy.fine_tuned_steps, 0, -1):
        mean, std = policy.step(network, condition, noisy, k, config.sampling_std)
        noisy = mean + std * draw_noise(tuple(mean.shape), generator, config.noise_clip)
        chain.append(noisy)
    return torch.stack(chain, dim=1)


def chain_log_probs(policy: Policy, latents: Tensor, chains: Tensor, floor: float) -> Tensor:
    """log pi(a^{k-1} | a^k, s) of the fine-tuned steps (B, K'), mean over C, from chains (B, K' + 1, C).

    The latent half of the first layer is computed once per chunk and shared over its steps.
    """
    network = policy.tuned or policy.pretrained
    steps = torch.arange(policy.fine_tuned_steps, 0, -1, device=chains.device).expand(len(chains), -1)
    condition = network.condition(latents).unsqueeze(1).expand(-1, policy.fine_tuned_steps, -1)
    step = policy.step(network, condition, chains[:, :-1], steps, floor)
    return log_likelihood(step, chains[:, 1:]) / policy.chunk


class RewardScale:
    """Running standard deviation of the discounted return, which rewards are divided by (method.md 10)."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.sums = torch.zeros(3, dtype=torch.float64)
        """Of ones, returns and squared returns."""

    def see(self, reward: Tensor, valid: Tensor) -> None:
        """Rewards (M, N) of dreams that begin at the first row."""
        running = torch.zeros_like(reward[0])
        for now, counts in zip(reward, valid, strict=True):
            running = self.gamma * running + now
            seen = running[counts].double()
            self.sums += torch.stack([torch.ones_like(seen), seen, seen.square()]).sum(dim=1).cpu()

    @property
    def std(self) -> float:
        """1 before anything was seen."""
        count, total, squares = self.sums.tolist()
        return max(squares / count - (total / count) ** 2, 1e-8) ** 0.5 if count else 1.0


def advantages(
    reward: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates (M, N); a step is a decision, and nothing comes from another dream.

    ``next_values`` are those of the dream's own next latent, also where it is truncated (method.md 8).
    """
    delta = reward + gamma * next_values * ~terminated - values
    result = torch.zeros_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + gamma * lam * running * ~ended[t]
        result[t] = running
    return result


def clip_ranges(config: FineTuningConfig, steps: int) -> Tensor:
    """(K',) from the first fine-tuned step, ``clip_first``, to the last, ``clip``: exponential (method.md 10)."""
    share = torch.linspace(0.0, 1.0, steps) if steps > 1 else torch.ones(1)
    return config.clip_first * (config.clip / config.clip_first) ** share if config.clip_first else share * config.clip


def denoising_discounts(config: FineTuningConfig, steps: int) -> Tensor:
    """(K',) from the first fine-tuned step, gamma_denoise^(K' - 1), to the last, 1 (method.md 12)."""
    return config.gamma_denoise ** torch.arange(steps - 1, -1, -1)


@dataclass
class Update:
    """Means over an iteration's minibatches."""

    actor_loss: float = 0.0
    critic_loss: float = 0.0
    bc_loss: float = 0.0
    clipped: float = 0.0
    """Share of ratios out of range."""
    ratio_change: float = 0.0
    """Mean |ratio - 1|."""
    explained: float = 0.0
    """Share of the returns' variance that the critic explains, before its update."""


class PPO:
    """Fine-tunes ``policy.tuned`` and a critic on latents."""

    def __init__(self, policy: Policy, config: FineTuningConfig, generator: torch.Generator) -> None:
        assert policy.tuned is not None, "call begin_fine_tuning first"
        self.policy, self.config, self.generator = policy, config, generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.critic = mlp(policy.latent, config.critic_mlp, 1).to(generator.device)
        self.actor_optimiser = _adam(policy.tuned, config.actor_learning_rate)
        self.critic_optimiser = _adam(self.critic, config.critic_learning_rate)
        self._trained = {"actor": (policy.tuned, self.actor_optimiser), "critic": (self.critic, self.critic_optimiser)}
        self.scale = RewardScale(config.gamma)
        self.averaged = copy.deepcopy(policy)
        """Acts with the running average of the actor's weights; not trained."""
        self.iteration = 0
        """Updates that were made."""

    def update(self, rollout: Rollout) -> Update:
        """One iteration: ``epochs`` passes over the rollout."""
        config = self.config
        self.scale.see(rollout.reward, rollout.valid)
        values, advantage = self.values_and_advantages(rollout)
        keep = rollout.valid.flatten()
        flat = {
            "latents": rollout.latents, "chains": rollout.chains, "imitated": rollout.imitated,
            "log_probs": rollout.log_probs, "advantage": advantage, "returns": advantage + values,
        }  # fmt: skip
        data = {name: value.flatten(0, 1)[keep] for name, value in flat.items()}
        result = Update(explained=_explained(values.flatten()[keep], data["returns"]))
        parts = [rows for _ in range(config.epochs) for rows in self._minibatches(int(keep.sum()))]
        for rows in parts:
            self._step({name: value[rows] for name, value in data.items()}, result, len(parts))
        self._average()
        self.iteration += 1
        return result

    @torch.no_grad()
    def _average(self) -> None:
        assert self.policy.tuned is not None and self.averaged.tuned is not None
        for average, weight in zip(self.averaged.tuned.parameters(), self.policy.tuned.parameters(), strict=True):
            average.lerp_(weight, 1.0 - self.config.actor_average)

    @torch.no_grad()
    def values_and_advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(M, N) each: what the critic makes of the decisions' latents, and by how much what was done is better.

        Behind a dream's last decision counts the critic's value of its own last latents, unless success ended it.
        """
        config, values = self.config, self._value(rollout.latents)
        advantage = advantages(
            rollout.reward / self.scale.std, values, self._value(rollout.last_latents), rollout.terminated,
            rollout.ended, config.gamma, config.gae_lambda,
        )  # fmt: skip
        return values, advantage

    def _minibatches(self, decisions: int) -> tuple[Tensor, ...]:
        """Row numbers of one pass, in parts of equal size (but for one); all steps of a decision come together.

        ``batch`` counts denoising steps, and is not exceeded. There is no small rest, in which normalised advantages
        would be noise.
        """
        size = max(self.config.batch // self.policy.fine_tuned_steps, 1)
        rows = torch.randperm(decisions, generator=self.generator, device=self.generator.device)
        return torch.tensor_split(rows, math.ceil(decisions / size))

    def _value(self, latents: Tensor) -> Tensor:
        value: Tensor = self.critic(latents).squeeze(-1)
        return value

    def _step(self, data: dict[str, Tensor], result: Update, parts: int) -> None:
        config = self.config
        critic_loss = 0.5 * (self._value(data["latents"]) - data["returns"]).square().mean()
        _descend(self.critic_optimiser, config.value_coefficient * critic_loss, config.gradient_clip)
        result.critic_loss += float(critic_loss.detach()) / parts
        if self.iteration < config.critic_warmup:
            return
        actor_loss, ratio, clipped = self.surrogate(data)
        bc_loss = -chain_log_probs(self.policy, data["latents"], data["imitated"], config.log_prob_std).mean()
        _descend(self.actor_optimiser, actor_loss + config.bc_coefficient * bc_loss, config.gradient_clip)
        result.actor_loss += float(actor_loss.detach()) / parts
        result.bc_loss += float(bc_loss.detach()) / parts
        result.clipped += float(clipped) / parts
        result.ratio_change += float((ratio.detach() - 1.0).abs().mean()) / parts

    def surrogate(self, data: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The negated clipped objective (Eq. 7; method.md 2), the ratios (B, K'), the share out of range."""
        config, steps = self.config, self.policy.fine_tuned_steps
        # A minibatch may hold a single decision: then there is no advantage over others.
        spread = data["advantage"].std(correction=0)
        advantage = (data["advantage"] - data["advantage"].mean()) / (spread + 1e-8)
        weighted = advantage.unsqueeze(-1) * denoising_discounts(config, steps).to(advantage.device)
        log_probs = chain_log_probs(self.policy, data["latents"], data["chains"], config.log_prob_std)
        ratio = (log_probs - data["log_probs"]).exp()
        width = clip_ranges(config, steps).to(ratio.device)
        bounded = torch.minimum(torch.maximum(ratio, 1.0 - width), 1.0 + width)
        loss = -torch.minimum(ratio * weighted, bounded * weighted).mean()
        return loss, ratio, ((ratio - 1.0).abs() > width).float().mean()

    def tensors(self) -> dict[str, Tensor]:
        """What it takes to go on: actor, its average, critic, the optimisers' moments, the reward scale."""
        assert self.averaged.tuned is not None
        content = {_SCALE: self.scale.sums}
        content |= {f"{_AVERAGED}{name}": tensor for name, tensor in self.averaged.tuned.state_dict().items()}
        for part, (module, optimiser) in self._trained.items():
            content |= {f"{part}/weights/{name}": tensor for name, tensor in module.state_dict().items()}
            for name, parameter in module.named_parameters():
                moments = optimiser.state.get(parameter, {})  # none during the critic's warm-up
                content |= {f"{part}/{kind}/{name}": moment for kind, moment in moments.items()}
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in content.items()}

    def restore(self, iteration: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` returned after ``iteration`` updates."""
        self.iteration = iteration
        assert self.averaged.tuned is not None
        self.scale.sums = tensors[_SCALE].clone()
        names = self.averaged.tuned.state_dict()
        self.averaged.tuned.load_state_dict({name: tensors[f"{_AVERAGED}{name}"] for name in names})
        for part, (module, optimiser) in self._trained.items():
            module.load_state_dict({name: tensors[f"{part}/weights/{name}"] for name in module.state_dict()})
            for name, parameter in module.named_parameters():
                keys = {kind: f"{part}/{kind}/{name}" for kind in _MOMENTS}
                if all(key in tensors for key in keys.values()):
                    moments = {kind: tensors[key].clone() for kind, key in keys.items()}
                    # Adam counts its steps on the CPU.
                    optimiser.state[parameter] = {
                        kind: moment.to(parameter.device) if moment.ndim else moment for kind, moment in moments.items()
                    }


def _adam(module: nn.Module, rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(module.parameters(), rate, weight_decay=0.0)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([weight for group in optimiser.param_groups for weight in group["params"]], clip)
    optimiser.step()


def _explained(values: Tensor, returns: Tensor) -> float:
    return float(1.0 - (returns - values).var(correction=0) / returns.var(correction=0).clamp(min=1e-8))
