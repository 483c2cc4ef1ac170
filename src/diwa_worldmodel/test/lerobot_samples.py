"""LeRobot v3 folders made by hand, with pyarrow and av alone, for the tests of the import."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOREIGN_STATE = ("ee.x", "ee.y", "ee.z", "ee.roll", "ee.pitch", "ee.yaw", "ee.gripper_width")
DELTA = ("delta_x", "delta_y", "delta_z", "delta_roll", "delta_pitch", "delta_yaw", "gripper")
STATIC, GRIPPER = "observation.images.static", "observation.images.gripper"


def image(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> dict[str, Any]:
    import cv2

    return {"bytes": cv2.imencode(".png", pixels[..., ::-1])[1].tobytes(), "path": None}


class LeRobotFolder:
    """A data set of 30 frames a second with a state of Euler angles; ``write`` after changing what a test is about."""

    def __init__(self, root: Path, lengths: Sequence[int] = (17, 9), fps: float = 30) -> None:
        self.root = root
        self.lengths = tuple(lengths)
        count = sum(lengths)
        rng = np.random.default_rng(5)
        self.state = np.concatenate([rng.uniform(-0.5, 0.5, (count, 6)), rng.uniform(0.0, 0.08, (count, 1))], axis=1)
        self.action = np.concatenate([rng.uniform(-0.01, 0.01, (count, 6)), rng.choice([-1.0, 1.0], (count, 1))], 1)
        self.state_names: Any = list(FOREIGN_STATE)
        self.action_names: Any = list(DELTA)
        self.images = {STATIC: [image(i) for i in range(count)], GRIPPER: [image(1000 + i) for i in range(count)]}
        self.columns: dict[str, Any] = {}
        """Further columns of the frames."""
        self.tasks = ("open the drawer",)
        self.videos = False
        self.info: dict[str, Any] = {"codebase_version": "v3.0", "robot_type": "panda", "fps": fps}

    def write(self) -> Path:
        (self.root / "meta").mkdir(parents=True)
        self._write_frames()
        self._write_episodes()
        self._table("meta/tasks.parquet", {"task_index": range(len(self.tasks)), "__index_level_0__": self.tasks})
        (self.root / "meta/info.json").write_text(json.dumps(self.metadata()))
        return self.root

    def metadata(self) -> dict[str, Any]:
        """Content of meta/info.json."""
        camera = {"dtype": "video" if self.videos else "image", "shape": [16, 16, 3], "names": None}
        vectors = {
            "observation.state": (self.state, self.state_names),
            "action": (self.action, self.action_names),
        }
        features: dict[str, Any] = {key: dict(camera) for key in self.images}
        for key, (values, names) in vectors.items():
            features[key] = {"dtype": "float32", "shape": [values.shape[1]], "names": names}
        for key in self.columns:
            features[key] = {"dtype": "bool", "shape": [1], "names": None}
        return {
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features,
            **self.info,
        }

    def _write_frames(self) -> None:
        frames: dict[str, Any] = {
            "observation.state": self.state.astype(np.float32).tolist(),
            "action": self.action.astype(np.float32).tolist(),
            "episode_index": np.repeat(np.arange(len(self.lengths)), self.lengths).tolist(),
            "task_index": [0] * sum(self.lengths),
            **self.columns,
        }
        for key, pictures in self.images.items():
            if self.videos:
                self._write_video(self.root / f"videos/{key}/chunk-000/file-000.mp4", pictures)
            else:
                frames[key] = [png(picture) for picture in pictures]
        self._table("data/chunk-000/file-000.parquet", frames)

    def _write_episodes(self) -> None:
        count = len(self.lengths)
        begins = np.cumsum((0, *self.lengths))[:-1]
        table: dict[str, Any] = {"episode_index": range(count), "length": self.lengths}
        table.update({"data/chunk_index": [0] * count, "data/file_index": [0] * count})
        for key in self.images if self.videos else ():
            table.update({f"videos/{key}/{name}": [0] * count for name in ("chunk_index", "file_index")})
            table[f"videos/{key}/from_timestamp"] = [float(begin) / self.info["fps"] for begin in begins]
        self._table("meta/episodes/chunk-000/file-000.parquet", table)

    def _table(self, name: str, columns: dict[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table({key: list(values) for key, values in columns.items()})
        pyarrow.parquet.write_table(table, path)

    def _write_video(self, path: Path, pictures: Sequence[np.ndarray]) -> None:
        import av

        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as film:
            stream = film.add_stream("libx264", rate=int(self.info["fps"]))
            stream.width = stream.height = pictures[0].shape[0]
            stream.pix_fmt = "yuv444p"
            stream.options = {"qp": "0"}
            for picture in pictures:
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            film.mux(stream.encode())
