"""The numbers of the quality report, against ones that are computed here in another way."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_samples import add_recording, empty_data_set, noise_images, reports, walk

from diwa_worldmodel.dataset import samples
from diwa_worldmodel.dataset.measuring import absolute_percentiles, measure, measure_skew, measure_workspace
from diwa_worldmodel.dataset.motion import load_motion, still_frames
from diwa_worldmodel.dataset.quality import Quality, Skill
from diwa_worldmodel.dataset.records import Annotation, Histogram, Statistics
from diwa_worldmodel.dataset.samples import film_strip, look_at_images
from diwa_worldmodel.dataset.store import DataSet


def _quality(data_set: DataSet) -> Quality:
    return measure(data_set, "test", load_motion(data_set.recordings), look_at_images(data_set))


def test_frames_steps_and_time_count_at_both_rates(tmp_path: Path) -> None:
    add_recording(tmp_path / "set", "a", 60, [(0, 40), (40, 20)])
    quality = _quality(add_recording(tmp_path / "set", "b", 16))

    assert (quality.frames, quality.steps, quality.steps_30_hz) == (76, 73, 292)
    assert quality.usable_s == pytest.approx(73 / 7.5)
    assert quality.recorded_s == pytest.approx(76 / 7.5)
    assert quality.episodes.count == 3
    assert quality.episodes.short == 2
    assert quality.episodes.short_frames == 36
    assert sum(quality.episodes.lengths_s.counts) == 3


def test_topics_of_several_recordings_are_added_and_the_worst_is_named(tmp_path: Path) -> None:
    add_recording(tmp_path / "set", "good", 10, statistics=Statistics(topics=reports(3000, 0)))
    quality = _quality(add_recording(tmp_path / "set", "poor", 10, statistics=Statistics(topics=reports(900, 100))))

    assert [topic.role for topic in quality.topics] == ["static_image", "gripper_image"]
    assert quality.topics[0].messages == 3900
    assert quality.topics[0].dropped_share == pytest.approx(100 / 4000)
    assert quality.topics[0].worst_recording == "poor"
    assert quality.topics[0].worst_dropped == pytest.approx(0.1)


def test_still_time_needs_an_unmoved_tool_and_an_unchanged_gripper(tmp_path: Path) -> None:
    proprio = walk(30)
    proprio[10:20] = proprio[10]
    action = np.ones((30, 7), np.float32)
    action[15:, 6] = -1.0
    data_set = add_recording(tmp_path / "set", "a", 30, proprio=proprio, action=action)

    still = still_frames(load_motion(data_set.recordings))
    quality = _quality(data_set)

    assert np.flatnonzero(still).tolist() == [10, 11, 12, 13, 15, 16, 17, 18]
    assert quality.stillness.steps == 8
    assert quality.stillness.share == pytest.approx(8 / 29)
    assert quality.stillness.longest_s == pytest.approx(4 / 7.5)
    assert quality.stillness.longest_where == "a at 0:01 min"


def test_turning_on_the_spot_is_no_still_time(tmp_path: Path) -> None:
    proprio = walk(20, step_m=0.0)
    angles = 0.02 * np.arange(20)
    proprio[:, 3], proprio[:, 4] = np.cos(angles), np.sin(angles)
    proprio[:, 6], proprio[:, 7] = np.sin(angles), -np.cos(angles)

    assert _quality(add_recording(tmp_path / "set", "a", 20, proprio=proprio)).stillness.steps == 0


def test_stillness_does_not_reach_over_the_end_of_an_episode(tmp_path: Path) -> None:
    proprio = walk(20, step_m=0.0)
    quality = _quality(add_recording(tmp_path / "set", "a", 20, [(0, 10), (10, 10)], proprio=proprio))

    assert quality.stillness.share == 1.0
    assert quality.stillness.longest_s == pytest.approx(9 / 7.5)


def test_gripper_events_count_within_episodes_only(tmp_path: Path) -> None:
    action = np.zeros((40, 7), np.float32)
    action[:, 6] = np.repeat([1.0, -1.0, 1.0, -1.0], 10)
    quality = _quality(add_recording(tmp_path / "set", "a", 40, [(0, 20), (20, 20)], action=action))

    assert (quality.gripper.closings, quality.gripper.openings) == (2, 0)
    assert quality.gripper.per_minute == pytest.approx(2 / (38 / 7.5 / 60))
    assert quality.gripper.closed_share == 0.5


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1.0, 1.0)] * 3), min_size=1, max_size=60))
def test_visited_space_is_the_number_of_different_cubes(points: list[tuple[float, float, float]]) -> None:
    workspace = measure_workspace(np.array(points))
    cubes = {tuple(np.floor(np.array(point) / 0.05).astype(int)) for point in points}

    assert workspace.voxels == len(cubes)
    assert workspace.litres == pytest.approx(0.125 * len(cubes))
    assert 0.0 < workspace.occupied_share <= 1.0
    assert all(sum(axis.histogram.counts) == len(points) for axis in workspace.axes)


def test_a_filled_box_is_occupied_whole() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(4) * 0.05 + 0.025] * 3), axis=-1).reshape(-1, 3)

    assert measure_workspace(grid).occupied_share == 1.0
    assert measure_workspace(grid).voxels == 64


@settings(deadline=None)
@given(st.lists(st.floats(-49.0, 49.0), min_size=20, max_size=200))
def test_percentiles_of_the_skew_are_right_to_a_bin(values: list[float]) -> None:
    edges = np.arange(-50.0, 51.0)
    counts, _ = np.histogram(values, edges)
    found = absolute_percentiles(Histogram(tuple(edges.tolist()), tuple(counts.tolist())))

    for percent in (50, 95, 99):
        ranks = np.array([percent / 100 - 1 / len(values), percent / 100 + 1 / len(values)])
        low, high = np.quantile(np.abs(values), np.clip(ranks, 0.0, 1.0), method="inverted_cdf")
        assert low - 1.0 <= found[f"p{percent}"] <= high + 1.0


def test_skews_of_recordings_are_added_and_unknown_ones_left_out() -> None:
    one, other = Histogram((-10.0, 0.0, 10.0), (3, 5)), Histogram((-10.0, -5.0, 0.0, 5.0, 10.0), (1, 0, 0, 1))

    assert measure_skew([Histogram(), one, other]).histogram_ms.counts == (4, 6)
    assert measure_skew([Histogram()]).percentiles_ms is None


def test_saturation_is_the_importers_and_else_counted_from_full_components(tmp_path: Path) -> None:
    told = Statistics(steps=9, saturated={"translation": 2, "rotation": 3})
    imported = _quality(add_recording(tmp_path / "told", "a", 10, statistics=told)).saturation
    action = np.zeros((10, 7), np.float32)
    action[[1, 2], 0], action[2, 1], action[5, 4], action[9, 2] = 1.0, -1.0, -1.0, 1.0
    counted = _quality(add_recording(tmp_path / "untold", "a", 10, action=action)).saturation

    assert (imported.steps, imported.translation, imported.rotation) == (9, 2, 3)
    assert (counted.steps, counted.translation, counted.rotation) == (9, 2, 1)


def test_histograms_hold_every_step(tmp_path: Path) -> None:
    action = np.random.default_rng(0).uniform(-1.0, 1.0, (50, 7)).astype(np.float32)
    quality = _quality(add_recording(tmp_path / "set", "a", 50, [(0, 30), (30, 20)], action=action))

    assert [one.name for one in quality.actions] == ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    assert all(sum(one.histogram.counts) == 48 for one in (*quality.actions, *quality.speeds))
    fastest = np.linalg.norm(np.delete(action, [29, 49], axis=0)[:, :3], axis=1).max() * 0.6
    assert quality.speeds[0].histogram.edges[-1] == pytest.approx(fastest, rel=1e-5)


def test_scene_quantities_count_how_often_they_cross_their_range(tmp_path: Path) -> None:
    drawer = np.concatenate([np.linspace(0, 0.17, 20), np.linspace(0.17, 0, 20)])
    scene = {"drawer_m": drawer, "led": np.zeros(40)}
    add_recording(tmp_path / "set", "a", 40, scene=scene)
    quality = _quality(add_recording(tmp_path / "set", "b", 10))

    assert [(one.name, one.crossings) for one in quality.scene] == [("drawer_m", 2), ("led", 0)]
    assert quality.scene[0].high == pytest.approx(0.17)
    assert sum(quality.scene[0].histogram.counts) == 40


def test_annotations_are_counted_by_skill_and_outcome(tmp_path: Path) -> None:
    marks = [Annotation(1, "b", True), Annotation(2, "a", False), Annotation(3, "b", False), Annotation(4, "b", True)]
    quality = _quality(add_recording(tmp_path / "set", "x", 10, annotations=marks))

    assert quality.skills == (Skill("a", 0, 1), Skill("b", 2, 1))
    assert quality.timeline.failures_s == pytest.approx((2 / 7.5, 3 / 7.5))


def test_the_timeline_is_short_and_keeps_the_mean(tmp_path: Path) -> None:
    proprio = walk(1001)
    proprio[500:] = proprio[500]
    quality = _quality(add_recording(tmp_path / "set", "a", 1001, proprio=proprio))

    assert len(quality.timeline.still) == 334
    assert quality.timeline.bin_s == pytest.approx(3 / 7.5)
    assert np.mean(quality.timeline.still[:333]) * 999 == pytest.approx(499, abs=1)


def test_covered_dark_frozen_and_equal_pictures_are_counted(tmp_path: Path) -> None:
    static, gripper = noise_images(60, 1), noise_images(60, 2)
    static[0:4] = (0, 40, 250)  # blue all over: the colours differ, the pixels do not
    static[10:15] = noise_images(5, 3) // 12
    static[20:24] = static[20]
    gripper[30:37] = static[30:37]
    static[55:58] = static[55]  # two steps, one of them over the end of an episode
    data_set = add_recording(tmp_path / "set", "a", 60, [(0, 57), (57, 3)], static=static, gripper=gripper)

    images = look_at_images(data_set)
    camera = images.cameras[0]

    assert (camera.camera, camera.frames, camera.blank, camera.dark) == ("static", 60, 4, 5)
    assert camera.frozen == 3 + 1  # what is blank is not called frozen as well
    assert camera.moving_steps == 59 - 1 - 1  # neither over the end of an episode nor of a block of images
    assert (images.compared, images.same) == (56, 7)
    assert images.cameras[1].frozen == 0


def test_a_still_arm_before_a_camera_without_noise_is_not_frozen(tmp_path: Path) -> None:
    same = np.repeat(noise_images(1, 1), 20, axis=0)
    data_set = add_recording(tmp_path / "set", "a", 20, proprio=walk(20, step_m=0.0), static=same)

    assert look_at_images(data_set).cameras[0].frozen == 0


def test_of_long_recordings_evenly_spread_blocks_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "IMAGE_BLOCKS", 3)
    static = noise_images(1000, 1)
    static[950:] = 0
    told: list[tuple[int, int]] = []

    images = look_at_images(
        add_recording(tmp_path / "set", "a", 1000, static=static), lambda done, total: told.append((done, total))
    )

    assert images.cameras[0].frames == 150
    assert images.cameras[0].blank == 50
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_film_strip_shows_annotated_and_other_moments_in_order(tmp_path: Path) -> None:
    marks = [Annotation(100, "open-drawer", True), Annotation(140, "open-drawer", False)]
    add_recording(tmp_path / "set", "a", 200, annotations=marks)
    data_set = add_recording(tmp_path / "set", "b", 200)
    film = film_strip(data_set, load_motion(data_set.recordings))

    assert 8 <= len(film) <= 12
    assert {(frame.label, frame.success) for frame in film} == {
        ("", False),
        ("open-drawer: success", True),
        ("open-drawer: failure", False),
    }
    assert film[0].where == "a at 0:00 min"
    assert film[-1].where == "b at 0:26 min"
    assert all(frame.static[:2] == frame.gripper[:2] == b"\xff\xd8" for frame in film)


def test_a_label_never_comes_from_another_recording(tmp_path: Path) -> None:
    add_recording(tmp_path / "set", "a", 20, annotations=[Annotation(19, "open-drawer", True)])
    data_set = add_recording(tmp_path / "set", "b", 20)
    film = film_strip(data_set, load_motion(data_set.recordings))

    assert {frame.label for frame in film if frame.where.startswith("b")} == {""}
    assert "open-drawer: success" in {frame.label for frame in film}


def test_a_data_set_without_recordings_measures_as_nothing(tmp_path: Path) -> None:
    data_set = empty_data_set(tmp_path / "set")
    quality = _quality(data_set)

    assert (quality.frames, quality.steps, quality.episodes.count) == (0, 0, 0)
    assert film_strip(data_set, load_motion(())) == ()
    assert json.loads(json.dumps(asdict(quality), allow_nan=False))["frames"] == 0


@pytest.mark.parametrize("frames", [2, 3])
def test_the_shortest_episodes_measure(tmp_path: Path, frames: int) -> None:
    quality = _quality(add_recording(tmp_path / "set", "a", frames))

    assert quality.steps == frames - 1
    assert quality.episodes.shortest_s == pytest.approx(frames / 7.5)


def test_images_are_read_block_by_block(tmp_path: Path) -> None:
    static, gripper = noise_images(3000, 1, size=32), noise_images(3000, 2, size=32)
    data_set = add_recording(tmp_path / "set", "a", 3000, static=static, gripper=gripper)
    tracemalloc.start()
    try:
        look_at_images(data_set)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 0.3 * (static.nbytes + gripper.nbytes)
