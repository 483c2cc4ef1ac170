"""Demonstrations of a skill as latents: what to imitate, what success looks like, where dreams begin.

An attempt at the skill is an episode, or the part of one since the mark before it (of whichever skill), that ends in a
mark of the skill. Successful ones are imitated; failed ones tell the classifier and the trust check what failure looks
like.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX
from diwa_conventions.errors import UserError, unknown
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.dataset.records import Annotation
from diwa_worldmodel.dataset.store import DataSet, open_data_set
from diwa_worldmodel.encoding import encode_data_set
from diwa_worldmodel.latent_cache import EncodedEpisode, Latents, open_latents

LONGEST_ATTEMPT = 120
"""Frames: what lies farther before a mark in a long recording does not belong to the attempt."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at the skill, T frames up to its mark."""

    latents: Tensor
    """(T, s) float32, as the filter gave them."""
    actions: Tensor
    """(T, 7) from each frame to the next; the last frame's is not part of the attempt."""
    surprise: Tensor
    """(T,) one-step KL [nat]."""
    prior_entropy: Tensor
    """(T,) [nat]"""
    steps: Tensor
    """(T,) since the filter began."""
    success: bool

    @property
    def frames(self) -> int:
        return len(self.latents)

    def ready(self, warmup_steps: int) -> Tensor:
        """Indices of frames whose latent the filter has warmed up for."""
        return torch.nonzero(self.steps >= warmup_steps).flatten()


@dataclass(frozen=True)
class Demonstrations:
    """All attempts at one skill, encoded by one world model."""

    skill: str
    attempts: tuple[Attempt, ...]
    source: str
    """Of messages: the data set's path."""
    data_set_hash: str

    @property
    def successes(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.success)

    @property
    def failures(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if not attempt.success)


def load_demonstrations(world_model: LoadedWorldModel, path: Path, skill: str, quiet: bool = True) -> Demonstrations:
    """Encode the data set where that is not done yet, and take out the attempts at ``skill``.

    UserError for a skill that no mark names, where none of its attempts succeeded, and for a world model whose latents
    are no good for a policy.
    """
    _check_world_model(world_model)
    data_set = open_data_set(path)
    _check_skill(data_set, skill)
    attempts = tuple(attempts_at(skill, _latents(world_model, data_set, quiet)))
    if not any(attempt.success for attempt in attempts):
        raise UserError(
            f"none of the {len(attempts)} attempts at {skill!r} in {path} succeeded; a policy needs some that did: "
            "demonstrate more"
        )
    if not all(bool(attempt.latents.isfinite().all()) for attempt in attempts):
        raise UserError(
            f"{world_model.folder} makes latents of {path} that are no finite numbers; train the world model anew"
        )
    return Demonstrations(skill, attempts, str(path), data_set.hash())


def _latents(world_model: LoadedWorldModel, data_set: DataSet, quiet: bool) -> Latents:
    """Those that are there, else encoded now: several stages may read at once, but one alone may write."""
    try:
        return open_latents(world_model, data_set)
    except UserError:  # that some are missing; for another reason encoding refuses as well
        encode_data_set(world_model, data_set, quiet=quiet)
        return open_latents(world_model, data_set)


def _check_world_model(world_model: LoadedWorldModel) -> None:
    chunk = world_model.config.model.action_chunk
    if chunk != 1:
        raise UserError(
            f"{world_model.folder} takes {chunk} actions a step (model.action_chunk); policies are learned and "
            "fine-tuned on one that takes a single action: train it with --set model.action_chunk=1"
        )


def _check_skill(data_set: DataSet, skill: str) -> None:
    """Before minutes are spent on encoding."""
    skills = sorted({mark.skill for recording in data_set.recordings for mark in recording.annotations})
    if not skills:
        raise UserError(
            f"{data_set.path} has no annotations; mark the attempts at {skill!r} while recording: diwa annotate"
        )
    if skill not in skills:
        raise unknown(f"task in {data_set.path}:", skill, skills)


def attempts_at(skill: str, episodes: Iterable[EncodedEpisode]) -> Iterator[Attempt]:
    """The attempts at a skill in encoded episodes, in their order; of two marks of the skill at a frame the last holds.

    What was marked at its first frame is no attempt: nothing led to it.
    """
    for episode in episodes:
        begin = 0
        for frame, marks in groupby(sorted(episode.annotations, key=_frame), key=_frame):
            own = [mark for mark in marks if mark.skill == skill]
            end = frame + 1
            if own and end - begin >= 2:
                yield _cut(episode, max(begin, end - LONGEST_ATTEMPT), end, own[-1].success)
            begin = end


def _frame(mark: Annotation) -> int:
    return mark.frame


def _cut(episode: EncodedEpisode, begin: int, end: int, success: bool) -> Attempt:
    part = slice(begin, end)
    return Attempt(
        episode.latent(part), episode.action[part], episode.surprise[part], episode.prior_entropy[part],
        episode.steps[part], success,
    )  # fmt: skip


def split_attempts(attempts: Sequence[Attempt], share: float, seed: int) -> tuple[list[Attempt], list[Attempt]]:
    """Attempts to learn from and attempts held out, the share of successes and of failures alike."""
    rng = np.random.default_rng(seed)
    learned, held_out = list[Attempt](), list[Attempt]()
    for kind in (True, False):
        own = [attempt for attempt in attempts if attempt.success == kind]
        count = round(share * len(own))
        chosen = set(rng.permutation(len(own))[:count].tolist())
        for number, attempt in enumerate(own):
            (held_out if number in chosen else learned).append(attempt)
    return learned, held_out


def imitation_pairs(attempts: Sequence[Attempt], planned: int, warmup_steps: int) -> tuple[Tensor, Tensor]:
    """Latents (M, s) of at least one attempt, and the chunks (M, planned x 7) that followed them.

    Behind an attempt's end the arm stands still and the gripper stays as it is.
    """
    latents, chunks = [], []
    for attempt in attempts:
        at = attempt.ready(warmup_steps)
        at = at[at < attempt.frames - 1]
        after = attempt.actions[-2:-1].clone()
        after[:, :GRIPPER_INDEX] = 0.0
        padded = torch.cat([attempt.actions[:-1], after.expand(planned - 1, ACTION_DIM)])
        latents.append(attempt.latents[at])
        chunks.append(padded[at[:, None] + torch.arange(planned)].flatten(1))
    return torch.cat(latents), torch.cat(chunks)
