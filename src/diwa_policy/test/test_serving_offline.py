"""What a policy should do on a recorded run, from the bag; and the comparison with what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_samples import IMAGE_SIZE, SKILL, saved_policy, small_policy, small_world_model

from diwa_conventions import topics
from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.writer import BagWriter
from diwa_conventions.errors import UserError
from diwa_conventions.rates import FRAMES_PER_STEP
from diwa_policy.artefacts import LoadedPolicy
from diwa_policy.policy import draw_noise
from diwa_policy.serving.offline import OfflineStep, read_frames, served_offline
from diwa_policy.serving.parity import TOLERANCE, compare
from diwa_worldmodel.artefact import LoadedWorldModel
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.importing import import_all
from diwa_worldmodel.dataset.store import Frames, open_data_set, open_or_create
from diwa_worldmodel.latent_filter import FilterFrame, LatentFilter, encode_episode

CONFIG = DataSetConfig(image_size_px=IMAGE_SIZE)
SEED = 5
NS = 10**9


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Bag:
    """A short stretch of play, with images at 30 Hz."""
    from diwa_sim.simulate import SimulatePlay

    out = tmp_path_factory.mktemp("play")
    assert SimulatePlay(out=out, frames=24, rate=30.0, image_size=24, workers=1).run() == 0
    return Bag(out / "play_000")


@pytest.fixture(scope="module")
def data(bag: Bag, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """What the importer makes of it: one episode."""
    out = tmp_path_factory.mktemp("data") / "data"
    open_or_create(out, CONFIG)
    assert import_all([bag.path], out, workers=1, quiet=True) == []
    frames = open_data_set(out).load()
    assert len(frames.episodes) == 1 and len(frames.stamp_ns) > 20
    return frames


@pytest.fixture(scope="module")
def policy(world_model: LoadedWorldModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedPolicy:
    """Decides for four frames, executes three of them, and waits two at the beginning."""
    made = small_policy(planned_actions=4, executed_actions=3, warmup_steps=2)
    return saved_policy(tmp_path_factory.mktemp("policy") / "policy", world_model.hash, made)


@pytest.fixture(scope="module")
def steps(bag: Bag, data: Frames, policy: LoadedPolicy, world_model: LoadedWorldModel) -> list[OfflineStep]:
    return served_offline(bag, policy, world_model, int(data.stamp_ns[0]), SEED)


def test_frames_of_a_bag_are_those_of_its_data_set(bag, data):
    frames = read_frames(bag, CONFIG, int(data.stamp_ns[0]))
    for name, mine in (("stamp_ns", frames.stamps_ns), ("static", frames.static), ("gripper", frames.gripper)):
        assert np.array_equal(mine, getattr(data, name)), name
    for name in ("proprio", "action", "scene_state"):
        assert np.array_equal(getattr(frames, name), getattr(data, name)), name


def test_what_is_before_the_first_frame_does_not_count(bag, data):
    frames = read_frames(bag, CONFIG, int(data.stamp_ns[5]), limit=7)
    assert np.array_equal(frames.stamps_ns, data.stamp_ns[5:12])
    assert np.array_equal(frames.action[:-1], data.action[5:11])
    assert np.array_equal(frames.static, data.static[5:12])


def test_grid_begins_with_the_first_frame_wherever_it_is(bag, data):
    images = [
        int(stamp.header.stamp.sec) * NS + int(stamp.header.stamp.nanosec)
        for stamp in map(bag.decode, bag.messages(["/diwa/static_camera/image_raw"]))
    ]
    begin_ns = images[images.index(int(data.stamp_ns[3])) + 2]
    frames = read_frames(bag, CONFIG, begin_ns, limit=5)
    at = images.index(begin_ns)
    assert frames.stamps_ns.tolist() == images[at : at + 5 * FRAMES_PER_STEP : FRAMES_PER_STEP]
    assert set(frames.stamps_ns.tolist()).isdisjoint(data.stamp_ns.tolist())


def test_moment_without_a_frame_is_refused_with_the_next_one(bag, data):
    begin_ns = int(data.stamp_ns[0])
    with pytest.raises(UserError, match=r"no frame .* at \d+ ns that another follows; the next one is 0.020 s later"):
        read_frames(bag, CONFIG, begin_ns - NS // 50)
    with pytest.raises(UserError, match="there is none later"):
        read_frames(bag, CONFIG, bag.end_ns + NS)


def test_latents_and_surprise_are_those_of_the_filter_over_the_data_set(steps, data, world_model):
    frames = [
        FilterFrame({"static": data.static[one], "gripper": data.gripper[one]}, data.proprio[one], data.stamp_ns[one])
        for one in (slice(t, t + 1) for t in range(len(data.stamp_ns)))
    ]
    encoded = encode_episode(LatentFilter(world_model.model), frames, list(data.action[:, None]))
    assert torch.equal(torch.stack([step.latent for step in steps]), encoded.latent)
    assert [step.surprise for step in steps] == encoded.surprise.tolist()


def test_actions_are_those_of_an_evaluation_with_the_same_seed(steps, policy):
    generator = torch.Generator().manual_seed(SEED)
    expected = [np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])] * 2
    for decision in range(2, len(steps), 3):
        noise = draw_noise((1, policy.policy.steps + 1, policy.policy.chunk), generator)
        expected += list(policy.policy.act(steps[decision].latent[None], noise)[0].double().numpy()[:3])
    for step, action in zip(steps, expected, strict=False):
        assert np.array_equal(step.action[:GRIPPER_INDEX], action[:GRIPPER_INDEX])
        assert step.action[GRIPPER_INDEX] == (1.0 if action[GRIPPER_INDEX] >= 0.0 else -1.0)
    assert len({tuple(step.action) for step in steps}) == len(steps) - 1


def test_another_seed_gives_other_actions(bag, data, policy, world_model, steps):
    other = served_offline(bag, policy, world_model, int(data.stamp_ns[0]), SEED + 1, limit=4)
    assert torch.equal(other[3].latent, steps[3].latent)
    assert not np.allclose(other[3].action, steps[3].action)


def test_policy_of_another_world_model_is_refused(bag, data, policy, tmp_path):
    other = small_world_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="name the world model it was made with"):
        served_offline(bag, policy, other, int(data.stamp_ns[0]), SEED)


# Served beside offline


def message(kind: str, stamp_ns: int, **values: Any) -> Any:
    """A message of rosbags' types, zeros where nothing is said."""
    store = typestore()
    time = store.types["builtin_interfaces/msg/Time"]
    header = store.types["std_msgs/msg/Header"](stamp=time(sec=stamp_ns // NS, nanosec=stamp_ns % NS), frame_id="")
    if "frame_ns" in values:
        frame_ns = values.pop("frame_ns")
        values["frame"] = time(sec=frame_ns // NS, nanosec=frame_ns % NS)
    return store.types[kind](header=header, **values)


def status(stamp_ns: int, frame_ns: int, step: int, policy_hash: str, surprise: float, state: int = 2) -> Any:
    numbers = dict.fromkeys(
        (
            "success_probability",
            "success_threshold",
            "surprise_bound",
            "mean_surprise",
            "mean_surprise_bound",
            "latency_s",
            "decision_s",
        ),
        0.0,
    )
    words = {"reason": "", "skill": SKILL, "policy_hash": policy_hash, "world_model_hash": "", "dry_run": True}
    return message(
        topics.POLICY_STATUS.type,
        stamp_ns,
        state=state,
        frame_ns=frame_ns,
        step=step,
        seed=SEED,
        surprise=surprise,
        **words,
        **numbers,
    )  # fmt: skip


def action(stamp_ns: int, values: np.ndarray, sequence: int) -> Any:
    return message(
        topics.SHADOW_ACTION.type,
        stamp_ns,
        source=topics.POLICY_SOURCE,
        sequence=sequence,
        duration_s=1 / 7.5,
        translation=values[:3],
        rotation=values[3:6],
        gripper=float(values[GRIPPER_INDEX]),
    )


def served(
    bag: Bag,
    folder: Path,
    steps: list[OfflineStep],
    policy_hash: str,
    change: Callable[[int, np.ndarray], np.ndarray] = lambda step, values: values,
    first: int = 0,
) -> Bag:
    """The bag with a run in it that did what was computed, but for ``change``; from step ``first`` on."""
    writer, store = BagWriter(folder), typestore()
    channels: dict[str, int] = {}
    for one in bag.messages():
        if one.topic not in channels:
            name = one.topic.removeprefix("/diwa/")
            (topic,) = [topic for topic in topics.TOPICS if topic.name == name]
            channels[one.topic] = writer.add(connection(topic, "diwa"))
        writer.write(channels[one.topic], one.log_ns, one.data)
    said = [writer.add(connection(topic, "diwa")) for topic in (topics.POLICY_STATUS, topics.SHADOW_ACTION)]
    for number, step in enumerate(steps[first:], start=first):
        at_ns = step.stamp_ns + 12_000_000
        values = change(number, step.action.copy())
        told = status(at_ns + 100_000, step.stamp_ns, number, policy_hash, step.surprise)
        if not number:  # it says so too while it waits for the first frame
            waits = status(at_ns - NS // 10, 0, 0, policy_hash, 0.0)
            writer.write(said[0], at_ns, bytes(store.serialize_cdr(waits, topics.POLICY_STATUS.type)))
        writer.write(said[0], at_ns, bytes(store.serialize_cdr(told, topics.POLICY_STATUS.type)))
        acted = action(at_ns, values, number)
        writer.write(said[1], at_ns, bytes(store.serialize_cdr(acted, topics.SHADOW_ACTION.type)))
    writer.close()
    return Bag(folder)


def test_run_that_did_what_was_computed_agrees(bag, steps, policy, world_model, tmp_path):
    (found,) = compare(served(bag, tmp_path / "run", steps[:9], policy.hash), policy, world_model)
    assert (found.seed, found.served, found.compared) == (SEED, 9, 9)
    assert found.action <= TOLERANCE and found.surprise == 0.0 and found.agrees(TOLERANCE)
    assert "9 of 9 served actions compared" in str(found) and str(found).endswith("they agree")


def test_action_that_differs_is_found_and_named(bag, steps, policy, world_model, tmp_path):
    def change(step: int, values: np.ndarray) -> np.ndarray:
        return values + (np.arange(ACTION_DIM) == 2) * (0.001 if step == 6 else 0.0)

    (found,) = compare(served(bag, tmp_path / "run", steps[:9], policy.hash, change), policy, world_model)
    assert found.action == pytest.approx(0.001) and found.where == "step 6, z"
    assert not found.agrees(TOLERANCE) and "they DIFFER" in str(found)


def test_action_that_is_no_number_never_agrees(bag, steps, policy, world_model, tmp_path):
    def change(step: int, values: np.ndarray) -> np.ndarray:
        return np.where((np.arange(ACTION_DIM) == 0) & (step == 4), np.nan, values)

    (found,) = compare(served(bag, tmp_path / "run", steps[:9], policy.hash, change), policy, world_model)
    assert found.where == "step 4, x" and not found.agrees(TOLERANCE)


def test_run_of_another_policy_is_refused(bag, steps, policy, world_model, tmp_path):
    with pytest.raises(UserError, match="holds a run of policy abababababab .* name the one that was served"):
        compare(served(bag, tmp_path / "run", steps[:4], "ab" * 32), policy, world_model)


def test_bag_without_a_run_from_its_beginning_is_refused(bag, steps, policy, world_model, tmp_path):
    with pytest.raises(UserError, match="has no run of a policy from its beginning"):
        compare(bag, policy, world_model)
    with pytest.raises(UserError, match="has no run of a policy from its beginning"):
        compare(served(bag, tmp_path / "run", steps[:9], policy.hash, first=3), policy, world_model)
