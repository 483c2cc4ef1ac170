"""What a world model is measured on: episodes it has not seen, and episodes to fit probes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diwa_conventions.errors import UserError
from diwa_worldmodel.artefact import LoadedWorldModel, WorldModelMetadata
from diwa_worldmodel.dataset.chunked import in_chunks
from diwa_worldmodel.dataset.quality import counted
from diwa_worldmodel.dataset.records import Episode
from diwa_worldmodel.dataset.sampler import FrameSource, SomeEpisodes
from diwa_worldmodel.dataset.store import DataSet
from diwa_worldmodel.dataset.verdicts import Verdict
from diwa_worldmodel.evaluation.quantities import Quantity, quantities
from diwa_worldmodel.training.frames import open_frames
from diwa_worldmodel.training.split import episodes_from_json, split_episodes

OTHER_DATA_SHARE = 0.25
"""Of a data set whose split is not known so much is measured on; probes are fitted to the rest."""


@dataclass(frozen=True)
class Play:
    """What a model is measured on."""

    held_out: FrameSource
    """The model has not seen its episodes."""
    training: FrameSource
    """What probes are fitted on, and what the mean frame is of."""
    quantities: tuple[Quantity, ...]


@dataclass(frozen=True)
class OpenedPlay:
    """With what there is to say about it."""

    play: Play
    about: str
    """E.g. ``1 held-out episode of play40k, 2000 frames``."""
    warning: Verdict | None


def open_play(loaded: LoadedWorldModel, data_set: DataSet) -> OpenedPlay:
    """The episodes that the world model's metadata holds out, if they are there, else a quarter of the data set.

    Images stay on disk. UserError for numbers that are not finite, for damaged files, and if all is held out.
    """
    held_out, about, warning = choose_held_out(loaded.metadata, data_set)
    frames = open_frames(data_set, "disk")
    chunk = loaded.config.model.action_chunk
    rest = rest_of(data_set.episodes, held_out)
    if not rest:
        raise UserError(
            f"{data_set.path} has only held-out episodes, and probes are fitted to others; name the data set that the "
            "world model was trained on"
        )
    measured, learned = (in_chunks(SomeEpisodes(frames, episodes), chunk) for episodes in (held_out, rest))
    named = quantities(data_set.scene_state_names or (), frames.numbers.scene_state)
    return OpenedPlay(Play(measured, learned, named), about, warning)


def choose_held_out(metadata: WorldModelMetadata, data_set: DataSet) -> tuple[tuple[Episode, ...], str, Verdict | None]:
    """Episodes to measure on, what they are, and what there is to warn of."""
    known = data_set.hash() in metadata.data_set_hashes
    name = data_set.path.resolve().name
    if metadata.held_out and {entry[0] for entry in metadata.held_out} <= {one.id for one in data_set.recordings}:
        held_out = episodes_from_json(data_set, metadata.held_out)
        changed = Verdict(
            "data", "warn", f"{name} has changed since the training; its held-out episodes are still there"
        )
        return held_out, _about(held_out, "held-out episode", name), None if known else changed
    held_out = split_episodes(data_set, OTHER_DATA_SHARE, seed=0).held_out
    if known:
        sentence = "no episode was held out: this is play that the model has learned from, and says little"
        return held_out, _about(held_out, "training episode", name), Verdict("data", "bad", sentence)
    sentence = f"{name} is not what the model was trained on; probes were fitted to the rest of it"
    return held_out, _about(held_out, "episode", f"{name}, another data set"), Verdict("data", "warn", sentence)


def _about(episodes: Sequence[Episode], what: str, name: str) -> str:
    frames = sum(episode.length for episode in episodes)
    return f"{counted(len(episodes), what)} of {name}, {counted(frames, 'frame')}"


def rest_of(episodes: Sequence[Episode], held_out: Sequence[Episode]) -> tuple[Episode, ...]:
    """What of the episodes is not held out; of one whose end is held out, its beginning."""
    rest = []
    for episode in episodes:
        inside = [one for one in held_out if episode.start <= one.start < episode.end]
        end = min((one.start for one in inside), default=episode.end)
        if end > episode.start:
            rest.append(Episode(episode.start, end - episode.start))
    return tuple(rest)
