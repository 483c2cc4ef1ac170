"""Which episodes a world model learns from, and which are held out to test it on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.store import DataSet


@dataclass(frozen=True)
class Split:
    """Episodes under the numbering of the whole data set, recordings one after the other."""

    training: tuple[Episode, ...]
    held_out: tuple[Episode, ...]
    cut_episode: Episode | None
    """Its end is held out, its beginning learned from, where whole episodes do not come near the share."""

    def describe(self) -> str:
        """E.g. ``1 of 20 episodes held out, 2000 of 40000 frames``."""
        held, learned = _frames(self.held_out), _frames(self.training)
        if not self.held_out:
            return f"no episode held out, all {learned} frames are learned from"
        total = len(self.training) + len(self.held_out)
        what = f"{len(self.held_out)} of {total} episodes held out"
        if self.cut_episode:
            which = "the only episode" if total == 2 else "the longest episode"
            what = f"the end of {which} held out, since whole ones do not come near the share"
        return f"{what}, {held} of {held + learned} frames"

    def held_out_to_json(self, data_set: DataSet) -> list[list[Any]]:
        """``[recording id, start in the recording, length]`` of each held-out episode."""
        begins = data_set.recording_begins
        entries: list[list[Any]] = []
        for episode in self.held_out:
            number = bisect_right(begins, episode.start) - 1
            entries.append([data_set.recordings[number].id, episode.start - begins[number], episode.length])
        return entries


def split_episodes(data_set: DataSet, share: float, seed: int, shortest: int = 2) -> Split:
    """Hold out about ``share`` (0 to 0.5) of the frames in whole episodes, the same for the same seed.

    In random order, an episode of at least ``shortest`` frames is held out if that brings their frames nearer to the
    share. Where that gives less than half of it, as with a single long one, the longest is cut and its end is held out.
    """
    episodes = data_set.episodes
    wanted = share * _frames(episodes)
    if share == 0.0:
        return Split(episodes, (), None)
    chosen: set[int] = set()
    held = 0
    for number in np.random.default_rng(seed).permutation(len(episodes)).tolist():
        if shortest <= episodes[number].length < 2.0 * (wanted - held):
            chosen.add(number)
            held += episodes[number].length
    if not chosen or 2 * held < wanted:
        return _cut_longest(data_set, episodes, max(round(wanted), shortest), shortest)
    training = tuple(episode for number, episode in enumerate(episodes) if number not in chosen)
    return Split(training, tuple(episodes[number] for number in sorted(chosen)), None)


def _cut_longest(data_set: DataSet, episodes: tuple[Episode, ...], held: int, shortest: int) -> Split:
    longest = max(episodes, key=lambda episode: episode.length, default=Episode(0, 0))
    if longest.length < held + shortest:
        raise UserError(
            f"{data_set.path} has {_frames(episodes)} frames, {longest.length} in its longest episode; none can be "
            "held out: record more, or set training.validation_share=0"
        )
    kept = Episode(longest.start, longest.length - held)
    training = tuple(kept if episode is longest else episode for episode in episodes)
    return Split(training, (Episode(kept.end, held),), longest)


def episodes_from_json(data_set: DataSet, entries: Sequence[Sequence[Any]]) -> tuple[Episode, ...]:
    """Episodes that :meth:`Split.held_out_to_json` wrote down; UserError for those that the data set does not have."""
    begins = dict(zip((recording.id for recording in data_set.recordings), data_set.recording_begins, strict=True))
    stored = {recording.id: recording.episodes for recording in data_set.recordings}
    found = []
    for entry in entries:
        name, start, length = _checked(entry)
        if name not in begins:
            raise UserError(
                f"held-out episode {name} [{start}, {start + length}) is not in {data_set.path}; its recordings: "
                f"{', '.join(begins)}. Name the data set that the world model was trained on"
            )
        wanted = Episode(start, length)
        if not any(episode.start <= start and wanted.end <= episode.end for episode in stored[name]):
            raise UserError(
                f"{name} in {data_set.path} has no episode with the held-out frames {start} to {wanted.end - 1}; "
                "it is not the recording that the world model was trained on"
            )
        found.append(Episode(begins[name] + start, length))
    return tuple(found)


def _checked(entry: Sequence[Any]) -> tuple[str, int, int]:
    if isinstance(entry, (list, tuple)) and len(entry) == 3:
        name, start, length = entry
        numbers = all(isinstance(one, int) and not isinstance(one, bool) for one in (start, length))
        if isinstance(name, str) and numbers and start >= 0 and length >= 1:
            return name, start, length
    raise UserError(f"held-out episode {entry!r}; expected [recording id, start, length]")


def _frames(episodes: Sequence[Episode]) -> int:
    return sum(episode.length for episode in episodes)
