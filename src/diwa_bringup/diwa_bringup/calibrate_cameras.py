"""``diwa calibrate cameras``: whether both cameras see what they saw when the data were recorded."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from diwa_conventions.bags.definitions import full_name
from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, centre_crop
from diwa_conventions.topics import GRIPPER_IMAGE, NAMESPACE, STATIC_IMAGE
from diwa_teleop.cameras.views import picture, trained_view, verdicts
from diwa_worldmodel.dataset.store import CAMERAS, DataSet, open_data_set, read

_TOPICS = {"static": STATIC_IMAGE, "gripper": GRIPPER_IMAGE}
_STRETCHES, _STRETCH_FRAMES = 50, 20
"""How many frames are looked at: stretches spread evenly over the data set."""
_PATIENCE_S = 10.0
"""For the first image of both cameras."""
_LONGEST_S = 60.0


@dataclass(frozen=True)
class CalibrateCameras:
    """Compare what both cameras show now with a data set: swapped, turned, mirrored, moved, covered, or as trained.

    Clear the view of the static camera as when recording; a typical pose of the arm is best. Ends with exit code 0 if
    both are as trained, 1 if not. What a camera on the arm shows moves with the arm: turns, swaps and covers are told,
    small moves are not.
    """

    data: Path
    """Folder of the data set that the world model was trained on."""
    seconds: float = 2.0
    """For how long images are averaged."""
    picture: Path = Path("cameras.png")
    """Where live and trained views are shown side by side, for you to look at."""
    namespace: str = NAMESPACE
    """Of the cameras."""

    def run(self) -> int:
        """A line per camera, and a picture."""
        if not 0.1 <= self.seconds <= 60.0:
            raise UserError(f"--seconds is {self.seconds:g}; expected 0.1 to 60")
        frames = sampled(open_data_set(self.data.expanduser()))
        views = {camera: trained_view(camera, frames[camera]) for camera in CAMERAS}
        live = live_views(self.namespace, self.seconds)
        found = verdicts(views, live)
        for verdict in found:
            print(f"{verdict.camera} camera {verdict.text}")
        if not cv2.imwrite(str(self.picture), picture(views, live, found)[:, :, ::-1]):
            raise UserError(f"{self.picture} cannot be written; choose another --picture, a .png")
        print(f"look at {self.picture}: live on the left, the mean of the data on the right")
        return 0 if all(verdict.is_good for verdict in found) else 1


def sampled(data_set: DataSet) -> Mapping[str, ImageArray]:
    """Frames (T, S, S, 3) of both cameras, in stretches spread evenly over the data. UserError if there are none."""
    if not data_set.frames:
        raise UserError(f"{data_set.path} holds no recordings; fill it with: diwa import BAG --out {data_set.path}")
    step = max(data_set.frames // _STRETCHES, _STRETCH_FRAMES)
    blocks: dict[str, list[ImageArray]] = {camera: [] for camera in CAMERAS}
    for recording in data_set.recordings:
        for start in range(0, recording.frames, step):
            part = slice(start, min(start + _STRETCH_FRAMES, recording.frames))
            for camera in CAMERAS:
                blocks[camera].append(read(recording, camera, part))
    return {camera: np.concatenate(found) for camera, found in blocks.items()}


def live_views(namespace: str, seconds: float) -> Mapping[str, ImageArray]:
    """The mean image (H, H, 3) of each camera, taken by a process of its own. UserError if one is silent."""
    names = [full_name(topic.name, namespace) for topic in _TOPICS.values()]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "diwa_bringup.nodes.view_taker",
            str(seconds),
            str(_PATIENCE_S),
            folder,
            *names,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S + seconds)
        except subprocess.TimeoutExpired:
            raise UserError("taking images did not end; is the machine overloaded?") from None
        if done.returncode == 3:
            domain = os.environ.get("ROS_DOMAIN_ID") or "0"
            raise UserError(
                f"no images on {done.stdout.strip()}: do the camera nodes run and publish, in this ROS domain "
                f"({domain}) and this --namespace? diwa top shows it"
            )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"images could not be taken: {reason}")
        images = [np.load(Path(folder) / f"{number}.npy", allow_pickle=False) for number in range(len(names))]
    return {camera: centre_crop(image) for camera, image in zip(_TOPICS, images, strict=True)}
