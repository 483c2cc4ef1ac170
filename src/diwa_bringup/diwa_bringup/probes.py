"""Looks at one feature of this machine: ``python -m diwa_bringup.probes rendering`` prints what it found as JSON.

Each probe runs in a process of its own, because a graphics or device library that fails may end or block its process.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version


class NoDevice(Exception):
    """The library is there, a device is not; the message says what was found."""


def ros() -> str:
    """Which ROS 2: the wheels of this Python environment, or an install of the system."""
    import rclpy

    place = os.path.realpath(rclpy.__file__)
    wheels = place.startswith(os.path.realpath(sys.prefix) + os.sep)
    origin = "wheels in the venv" if wheels else f"system install, {place.split('/lib/')[0]}"
    return f"{os.environ.get('ROS_DISTRO', 'unknown distribution')}, {origin}"


def messages() -> str:
    """The workspace's interfaces are built for this Python and can be serialised."""
    from diwa_msgs.msg import SceneState
    from rclpy.serialization import deserialize_message, serialize_message

    deserialize_message(serialize_message(SceneState(task="probe")), SceneState)
    return "diwa_msgs works"


def rendering() -> str:
    """Render one frame with the back end that ``MUJOCO_GL`` names; which renderer did it."""
    import mujoco

    scene = "<mujoco><worldbody><light pos='0 0 2'/><geom type='box' size='1 1 .1'/></worldbody></mujoco>"
    renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string(scene), 32, 32)
    data = mujoco.MjData(renderer.model)
    mujoco.mj_forward(renderer.model, data)
    renderer.update_scene(data)
    if renderer.render().max() == 0:
        raise RuntimeError("the rendered frame is black")
    from OpenGL import GL

    name = GL.glGetString(GL.GL_RENDERER).decode()
    software = any(word in name.lower() for word in ("llvmpipe", "softpipe", "swrast", "software"))
    return f"{os.environ['MUJOCO_GL'].upper()}, {'software' if software else 'hardware'} ({name})"


def video() -> str:
    """Encode some H.264 pictures in memory."""
    import av
    import numpy as np

    container = av.open(io.BytesIO(), "w", format="mp4")
    stream = container.add_stream("libx264", rate=30)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
    container.mux(stream.encode(None))
    container.close()
    return f"H.264 through PyAV {av.__version__}"


def data_sets() -> str:
    """What reads and writes bags and data sets; the message definitions are found."""
    import mcap
    import zarr

    from diwa_conventions.bags.definitions import of_type

    of_type("/probe", "diwa_msgs/msg/DeltaAction")
    return f"mcap {mcap.__version__}, rosbags {version('rosbags')}, zarr {zarr.__version__}"


def gpu() -> str:
    """CUDA devices that torch can use."""
    import torch

    if not torch.cuda.is_available():
        raise NoDevice(f"torch {torch.__version__}; no CUDA device")
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in found)
    return f"torch {torch.__version__}; {names}"


def realsense() -> str:
    """RealSense cameras."""
    import pyrealsense2

    devices = [device.get_info(pyrealsense2.camera_info.name) for device in pyrealsense2.context().query_devices()]
    return _found(_distribution("pyrealsense2"), devices, "no camera")


def kinect() -> str:
    """Azure Kinect cameras."""
    import pyk4a

    devices = ["Azure Kinect"] * pyk4a.connected_device_count()
    return _found(_distribution("pyk4a-bundle", "pyk4a"), devices, "no camera")


def vive() -> str:
    """VIVE controllers and trackers that a running SteamVR knows."""
    import openvr

    library = _distribution("openvr")
    try:
        system = openvr.init(openvr.VRApplication_Background)
    except openvr.OpenVRError as error:
        raise NoDevice(f"{library}; SteamVR does not run ({type(error).__name__})") from error
    kinds = {openvr.TrackedDeviceClass_Controller: "controller", openvr.TrackedDeviceClass_GenericTracker: "tracker"}
    classes = [system.getTrackedDeviceClass(index) for index in range(openvr.k_unMaxTrackedDeviceCount)]
    openvr.shutdown()
    return _found(library, [kinds[kind] for kind in classes if kind in kinds], "no controller or tracker")


def franka() -> str:
    """Client libraries of the arm; the arm itself is found only by its address."""
    clients = {"panda_py": "panda-python", "franky": "franky-control"}
    clients |= {"pylibfranka": "pylibfranka", "franka": "franka-rs"}
    loaded = []
    for module, distribution in clients.items():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
            loaded.append(_distribution(distribution))
    if not loaded:
        raise ModuleNotFoundError(f"none of {', '.join(clients)} is installed")
    kernel = "real-time kernel" if os.path.exists("/sys/kernel/realtime") else "no real-time kernel"
    return f"{', '.join(loaded)}; {kernel}"


def _found(library: str, devices: list[str], none: str) -> str:
    if not devices:
        raise NoDevice(f"{library}; {none} is connected")
    return f"{library}; {', '.join(devices)}"


def _distribution(*names: str) -> str:
    """``name version`` of the first that is installed."""
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    return names[0]


PROBES: Mapping[str, Callable[[], str]] = {
    probe.__name__: probe
    for probe in (ros, messages, rendering, video, data_sets, gpu, realsense, kinect, vive, franka)
}


def look(name: str) -> dict[str, str]:
    """State (``ok``, ``no library``, ``no device``, ``broken``) and text of one probe."""
    try:
        return {"state": "ok", "text": PROBES[name]()}
    except NoDevice as error:
        return {"state": "no device", "text": str(error)}
    except ModuleNotFoundError as error:
        return {"state": "no library", "text": str(error)}
    except Exception as error:  # a broken library may raise anything
        return {"state": "broken", "text": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1])))
