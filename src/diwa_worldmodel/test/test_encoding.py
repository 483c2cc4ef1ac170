"""``diwa encode``: the filter's latents on disk, made once, found again, made anew when they are damaged."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from world_model_samples import IMAGE_SIZE, SCENE_STATE_NAMES, full_disk, small_config, small_data_set

from diwa_conventions.errors import UserError
from diwa_worldmodel import encoding, latent_cache
from diwa_worldmodel.artefact import LoadedWorldModel, WorldModelMetadata, load_world_model, save_world_model
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Annotation, Episode, Source
from diwa_worldmodel.dataset.store import DataSet, create_data_set, open_data_set
from diwa_worldmodel.encoding import Encode, encode_data_set
from diwa_worldmodel.latent_cache import FilterSettings, Latents, open_latents
from diwa_worldmodel.latent_filter import THREADS, FilterFrame, FilterLimits, LatentFilter
from diwa_worldmodel.world_model import WorldModel


def trained(folder: Path, seed: int = 0, **model: Any) -> LoadedWorldModel:
    """A world model that has learned nothing, saved and loaded."""
    config = small_config(**model)
    names = SCENE_STATE_NAMES if config.model.scene_state else ()
    metadata = WorldModelMetadata(("0" * 64,), DataSetConfig(image_size_px=IMAGE_SIZE), names)
    torch.manual_seed(seed)
    save_world_model(folder, WorldModel(config.model), config, metadata)
    return load_world_model(folder)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two recordings with three episodes of 10 frames each; read only."""
    return small_data_set(tmp_path_factory.mktemp("data") / "play", frames=60, episodes=6, scene_state=True)


@pytest.fixture
def model(tmp_path: Path) -> LoadedWorldModel:
    return trained(tmp_path / "world_model")


def files(folder: Path) -> dict[Path, int]:
    """Times of the latents' files."""
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def streamed(world_model: LoadedWorldModel, data_set: DataSet) -> list[torch.Tensor]:
    """Latents (T, s) of each episode by a filter that is fed frame by frame, as when serving."""
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    chunk, hybrid = world_model.config.model.action_chunk, world_model.config.model.scene_state > 0
    episodes = []
    for recording in data_set.recordings:
        scene = np.asarray(recording.scene_state[:]) if recording.scene_state is not None else None
        for episode in recording.episodes:
            latent_filter = LatentFilter(world_model.model, limits=FilterLimits(warmup_steps=3))
            latents, executed = [], None
            for t in range(episode.start, episode.start + episode.length // chunk * chunk, chunk):
                now = slice(t, t + 1)
                images = {name: np.asarray(getattr(recording, name)[now]) for name in world_model.config.model.cameras}
                state = scene[now] if hybrid and scene is not None else None
                frame = FilterFrame(
                    images, np.asarray(recording.proprio[now]), np.asarray(recording.stamp_ns[now]), state
                )
                latents.append(latent_filter.update(frame, executed).latent)
                executed = np.asarray(recording.action[t : t + chunk]).reshape(1, -1)
            episodes.append(torch.cat(latents))
    torch.set_num_threads(torch_threads)
    return episodes


@pytest.mark.parametrize("variant", [{}, {"action_chunk": 4}, {"scene_state": 3}, {"cameras": ["gripper"]}])
def test_cached_latents_are_those_of_serving_bit_for_bit(
    tmp_path: Path, play: DataSet, variant: dict[str, Any]
) -> None:
    world_model = trained(tmp_path / "world_model", **variant)
    encoded = encode_data_set(world_model, play)
    assert (encoded.frames, encoded.kept, encoded.gaps) == (60, 0, 0)
    served = streamed(world_model, play)
    found = list(open_latents(world_model, play))
    assert len(found) == len(served) == 6
    for own, expected in zip(found, served, strict=True):
        assert torch.equal(own.latent(), expected)
        assert own.steps.tolist() == list(range(len(expected)))


def test_worker_processes_make_the_same(tmp_path: Path, play: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    world_model = trained(tmp_path / "world_model")
    encode_data_set(world_model, play)
    monkeypatch.setattr(encoding, "_WORKER_FRAMES", 1)
    encode_data_set(world_model, play, tmp_path / "elsewhere", workers=2)
    for one, other in zip(
        open_latents(world_model, play), open_latents(world_model, play, tmp_path / "elsewhere"), strict=True
    ):
        assert torch.equal(one.latent(), other.latent()) and torch.equal(one.surprise, other.surprise)


def test_episodes_come_with_actions_surprise_and_a_choice_of_frames(model: LoadedWorldModel, play: DataSet) -> None:
    encode_data_set(model, play)
    latents = open_latents(model, play)
    assert latents.episodes == 6
    for found, (recording, episode) in zip(
        latents, [(one, own) for one in play.recordings for own in one.episodes], strict=True
    ):
        assert (found.recording, found.episode) == (recording.id, episode)
        assert np.array_equal(found.action.numpy(), np.asarray(recording.action[episode.start : episode.end]))
        assert found.surprise.shape == found.prior_entropy.shape == (10,) and bool((found.surprise > 0).all())
        assert torch.equal(found.latent([2, 5]), found.latent()[[2, 5]])
        assert torch.equal(found.latent(3), found.latent()[3])


@pytest.mark.parametrize("chunk, expected", [(1, [3, 9]), (4, [0, 1])])
def test_annotations_count_from_the_episodes_first_latent(tmp_path: Path, chunk: int, expected: list[int]) -> None:
    world_model = trained(tmp_path / "world_model", action_chunk=chunk)
    data_set = create_data_set(tmp_path / "play", DataSetConfig(image_size_px=IMAGE_SIZE))
    marks = [Annotation(2, "wave", True), Annotation(13, "open-drawer", True), Annotation(19, "open-drawer", False)]
    write(data_set, [10, 10], marks)
    data_set = open_data_set(tmp_path / "play")
    encode_data_set(world_model, data_set)
    second = list(open_latents(world_model, data_set))[1]
    assert [mark.frame for mark in second.annotations] == expected
    assert [mark.success for mark in second.annotations] == [True, False]
    assert len(second.latent()) == len(second.action) == 10 // chunk


def write(data_set: DataSet, lengths: list[int], marks: list[Annotation], jump_ns: int = 0) -> None:
    """A recording of black pictures; ``jump_ns`` before its fourth frame."""
    total = sum(lengths)
    image = np.zeros((total, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    numbers = np.zeros((total, 10), np.float32), np.zeros((total, 7), np.float32)
    stamps = np.arange(total) * 133_333_333 + np.where(np.arange(total) >= 3, jump_ns, 0)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
    with data_set.writing(), data_set.add_recording(Source("black", "bag", "ab" * 32)) as writer:
        writer.append(image, image, *numbers, stamps)
        writer.finish([Episode(start, length) for start, length in zip(starts, lengths, strict=True)], marks)


def test_gaps_inside_episodes_are_counted(tmp_path: Path, model: LoadedWorldModel) -> None:
    write(create_data_set(tmp_path / "play", DataSetConfig(image_size_px=IMAGE_SIZE)), [10], [], jump_ns=10**9)
    data_set = open_data_set(tmp_path / "play")
    encoded = encode_data_set(model, data_set)
    assert encoded.gaps == 1 and "gaps inside episodes, where the filter began anew: 1" in encoded.line(data_set)
    assert next(iter(open_latents(model, data_set))).steps.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]


class TestCache:
    def test_the_same_command_again_does_nothing(self, model: LoadedWorldModel, play: DataSet) -> None:
        first = encode_data_set(model, play)
        before = files(first.folder)
        again = encode_data_set(model, play)
        assert (again.frames, again.kept) == (0, 60) and files(first.folder) == before

    def test_an_added_recording_is_encoded_alone(self, tmp_path: Path, model: LoadedWorldModel) -> None:
        encode_data_set(model, small_data_set(tmp_path / "play", frames=20, episodes=2))
        more = small_data_set(tmp_path / "play", frames=30, episodes=2, seed=1)
        assert (encode_data_set(model, more).frames, encode_data_set(model, more).kept) == (30, 50)
        assert open_latents(model, more).episodes == 4

    def test_an_interrupted_run_goes_on(
        self, model: LoadedWorldModel, play: DataSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(latent_cache, "PART_FRAMES", 10)
        written = encoding.write_part
        count = 0

        def stops(part: latent_cache.Part, tensors: dict[str, torch.Tensor]) -> None:
            nonlocal count
            count += 1
            if count == 4:
                part.path.parent.mkdir(exist_ok=True)
                (part.path.parent / ".partial-00000000.safetensors").write_bytes(b"half")
                raise KeyboardInterrupt
            written(part, tensors)

        monkeypatch.setattr(encoding, "write_part", stops)
        with pytest.raises(KeyboardInterrupt):
            encode_data_set(model, play)
        with pytest.raises(UserError, match="30 of 60 frames of .* are not encoded by"):
            open_latents(model, play)
        monkeypatch.setattr(encoding, "write_part", written)
        encoded = encode_data_set(model, play)
        assert (encoded.frames, encoded.kept) == (30, 30)
        assert not list(encoded.folder.rglob(".partial*"))

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[: len(content) // 2],
            lambda content: content[:-1] + bytes([content[-1] ^ 1]),
            lambda content: content[:60] + bytes([content[60] ^ 255]) + content[61:],
            lambda content: b"",
        ],
    )
    def test_damaged_files_are_noticed_and_made_anew(self, model: LoadedWorldModel, play: DataSet, damage: Any) -> None:
        folder = encode_data_set(model, play).folder
        sound = [episode.latent() for episode in open_latents(model, play)]
        path = min(folder.rglob("*.safetensors"))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(UserError, match="is damaged; make it anew with"):
            list(open_latents(model, play))
        mended = encode_data_set(model, play)
        assert (mended.frames, mended.mended) == (30, 1) and "damaged files made anew: 1" in mended.line(play)
        assert all(map(torch.equal, sound, [episode.latent() for episode in open_latents(model, play)]))

    def test_latents_of_another_model_setting_or_content_are_not_taken(self, tmp_path: Path, play: DataSet) -> None:
        model, out = trained(tmp_path / "world_model"), tmp_path / "latents"
        encode_data_set(model, play, out)
        other = trained(tmp_path / "other", seed=1)
        drawn = FilterSettings("sample", seed=3)
        changed = small_data_set(tmp_path / "changed", frames=60, episodes=3, scene_state=True)
        assert [one.id for one in changed.recordings] == [one.id for one in play.recordings]
        for missing in (
            lambda: open_latents(other, play, out),
            lambda: open_latents(model, play, out, drawn),
            lambda: open_latents(model, changed, out),
        ):
            with pytest.raises(UserError, match="60 of 60 frames .* are not encoded"):
                missing()
        encode_data_set(model, play, out, drawn)
        same_hash = FilterSettings("mode", seed=3)  # the mode needs no seed
        plain, sampled = (open_latents(model, play, out, settings) for settings in (same_hash, drawn))
        assert not torch.equal(*(next(iter(latents)).latent() for latents in (plain, sampled)))

    def test_model_and_data_set_can_be_moved(self, tmp_path: Path) -> None:
        data_set = small_data_set(tmp_path / "play", frames=20, episodes=2)
        encode_data_set(trained(tmp_path / "world_model"), data_set)
        shutil.move(tmp_path / "world_model", tmp_path / "elsewhere")
        shutil.move(tmp_path / "play", tmp_path / "there")
        moved = open_latents(load_world_model(tmp_path / "elsewhere"), open_data_set(tmp_path / "there"))
        assert isinstance(moved, Latents) and len(list(moved)) == 2

    def test_one_process_at_a_time(self, model: LoadedWorldModel, play: DataSet) -> None:
        folder = encode_data_set(model, play).folder
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="is being written by another diwa encode; wait"):
                encode_data_set(model, play)

    def test_full_disk_is_one_line_and_keeps_what_was_complete(
        self, model: LoadedWorldModel, play: DataSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(part: latent_cache.Part, tensors: dict[str, torch.Tensor]) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(encoding, "write_part", full)
        with pytest.raises(UserError, match="disk of .* is full; make room and encode again"):
            encode_data_set(model, play)

    def test_file_that_was_not_finished_takes_no_room(self, model: LoadedWorldModel, play: DataSet) -> None:
        folder = latent_cache.cache_folder(model, play, None, latent_cache.MODE)
        with full_disk(1000), pytest.raises(OSError, match="File too large"):
            encode_data_set(model, play)
        assert [path.name for path in folder.rglob("*") if path.is_file()] == [".lock"]

    def test_number_that_is_none_is_named_before_anything_is_encoded(
        self, tmp_path: Path, model: LoadedWorldModel
    ) -> None:
        path = small_data_set(tmp_path / "play", frames=60, episodes=6).path
        second = open_data_set(path).recordings[1]
        array = zarr.open_group(path / "recordings" / second.id, mode="r+")["proprio"]
        array[13, 2] = np.nan
        with pytest.raises(UserError, match=f"recording {second.id}, episode 1, frame 3 of it .*proprio z is nan"):
            encode_data_set(model, open_data_set(path))
        assert not list(model.folder.rglob("*.safetensors"))[1:]


class TestStage:
    def test_says_what_it_did(self, model: LoadedWorldModel, play: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
        assert Encode(model.folder, play.path).run() == 0
        said = capsys.readouterr().out
        assert said.startswith(f"{play.path}: 60 frames encoded in ") and "frames/s), 0 were there already" in said
        assert f"latents in {model.folder / 'latents'}" in said
        assert Encode(model.folder, play.path).run() == 0
        assert "0 frames encoded, 60 were there already" in capsys.readouterr().out

    def test_refuses_a_data_set_that_does_not_fit(self, tmp_path: Path, model: LoadedWorldModel) -> None:
        other = small_data_set(tmp_path / "play", frames=20, episodes=2, image_size=32)
        with pytest.raises(UserError, match="images of 32 px, the world model expects 16 px"):
            Encode(model.folder, other.path).run()
        assert not (model.folder / "latents").exists()

    def test_refuses_bad_options(self, model: LoadedWorldModel, play: DataSet) -> None:
        with pytest.raises(UserError, match="--workers is -1"):
            Encode(model.folder, play.path, workers=-1).run()
        with pytest.raises(UserError, match="--seed is -1"):
            Encode(model.folder, play.path, seed=-1).run()

    def test_missing_latents_name_the_command(self, model: LoadedWorldModel, play: DataSet) -> None:
        with pytest.raises(UserError, match=f"run: diwa encode {model.folder} {play.path}"):
            open_latents(model, play)


def test_the_callers_threads_stay_as_they_are(model: LoadedWorldModel, play: DataSet) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, len(os.sched_getaffinity(0))))
    try:
        encode_data_set(model, play)
        assert torch.get_num_threads() == max(2, len(os.sched_getaffinity(0)))
    finally:
        torch.set_num_threads(before)
