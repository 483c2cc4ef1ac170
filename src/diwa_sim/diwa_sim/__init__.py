"""The playroom: a simulated Panda with drawer, slider, button, switch and cube, in MuJoCo.

Importing this package registers the Gymnasium environment ``diwa_sim/Playroom-v0``.
"""

import os

import gymnasium


def _import_mujoco() -> None:
    """MuJoCo loads what MUJOCO_GL names when it is imported, and fails deep inside if that is not installed.

    Hidden during the import, the variable is looked at by :mod:`diwa_sim.cameras`, which says what to install.
    """
    chosen = os.environ.pop("MUJOCO_GL", None)
    try:
        import mujoco  # noqa: F401
    finally:
        if chosen is not None:
            os.environ["MUJOCO_GL"] = chosen


_import_mujoco()
gymnasium.register(id="diwa_sim/Playroom-v0", entry_point="diwa_sim.environment:PlayroomEnv")
