"""Where dreams begin: at recorded latents alone, so that fine-tuning touches no environment (method.md 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_policy.demonstrations import Attempt


@dataclass(frozen=True)
class Starts:
    """Latents to begin at, successful attempts' and failed ones' alike."""

    first: Tensor
    """(A, s) of each attempt's first frame that the filter has warmed up for."""
    later: Tensor
    """(L, s) of those behind it, up to half of the attempt; maybe none."""

    def to(self, device: torch.device) -> Starts:
        return Starts(self.first.to(device), self.later.to(device))

    def draw(self, count: int, first_frame_share: float, generator: torch.Generator) -> Tensor:
        """(count, s): first frames with probability ``first_frame_share``, later ones else."""
        device = generator.device
        chosen = self.first[torch.randint(len(self.first), (count,), generator=generator, device=device)]
        if not len(self.later):
            return chosen
        other = self.later[torch.randint(len(self.later), (count,), generator=generator, device=device)]
        begins = torch.rand(count, 1, generator=generator, device=device) < first_frame_share
        return torch.where(begins, chosen, other)

    def halves(self) -> tuple[Starts, Starts]:
        """Every other first frame; of a single one there is no half."""
        if len(self.first) < 2:
            return self, self
        one, other = (Starts(self.first[number::2], self.later) for number in range(2))
        return one, other

    def fixed(self, count: int) -> Tensor:
        """(R, A, s), at most ``count``: R dreams from each of A first frames, spread evenly if they are too many."""
        frames = min(len(self.first), count)
        chosen = torch.linspace(0, len(self.first) - 1, frames, device=self.first.device).round().long()
        return self.first[chosen].expand(count // frames, -1, -1)


def find_starts(attempts: Sequence[Attempt], warmup_steps: int) -> Starts:
    """Of all attempts. UserError if the filter has warmed up in none of them."""
    first, later = [], []
    for attempt in attempts:
        ready = attempt.ready(warmup_steps)
        if len(ready):
            first.append(attempt.latents[ready[0]])
            later.append(attempt.latents[ready[(ready > ready[0]) & (ready < attempt.frames // 2)]])
    if not first:
        raise UserError(
            f"no dream can begin: none of the {len(attempts)} attempts has a frame behind policy.warmup_steps "
            f"{warmup_steps}; demonstrate longer, or pre-train a policy with fewer"
        )
    return Starts(torch.stack(first), torch.cat(later))
