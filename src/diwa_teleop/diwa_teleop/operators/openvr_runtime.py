"""SteamVR through the client library ``openvr``: the one module that imports it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_conventions.errors import UserError, unknown

APPLICATIONS = ("background", "other")
"""What this program is to SteamVR: background uses one that runs, other starts it where it does not."""
CONTROLLER, TRACKER, BASE_STATION = "controller", "tracker", "base station"
ROLES = {1: "left", 2: "right"}
"""By OpenVR's numbers."""
_TRIGGER_AXIS = 1
_PAD_AXIS = 0


class RuntimeUnavailable(Exception):
    """SteamVR does not run now; it may later. The message says what to do."""


@dataclass(frozen=True)
class DeviceSeen:
    """One device that SteamVR knows, on or off."""

    index: int
    kind: str
    serial: str
    role: str
    """left, right or ""."""
    connected: bool

    def __str__(self) -> str:
        words = [word for word in (self.role, "" if self.connected else "off") if word]
        return f"{self.kind} {self.serial}" + (f" ({', '.join(words)})" if words else "")


@dataclass(frozen=True)
class ControllerSeen:
    """A controller at one moment."""

    matrix: FloatArray
    """(3, 4): rotation and position [m] in the world of the base stations, y up."""
    tracked: bool
    """The pose is seen by the base stations now, not guessed."""
    connected: bool
    pressed: int
    """A bit for every button."""
    trigger: float
    """0 to 1."""
    pad: tuple[float, float]
    """Where the touchpad is touched: right and up, each -1 to 1."""


class Runtime(Protocol):
    """What :class:`diwa_teleop.operators.vive.ViveOperator` needs of SteamVR."""

    def open(self) -> None:
        """UserError where it can never work, RuntimeUnavailable where it does not work now."""

    def close(self) -> None:
        """Let go; may be opened again."""

    def ended(self) -> bool:
        """Whether SteamVR has told its clients that it ends."""

    def devices(self) -> list[DeviceSeen]:
        """All that it knows."""

    def read(self, index: int) -> ControllerSeen | None:
        """None for a device that is off."""

    def battery(self, index: int) -> float | None:
        """0 to 1; None where it has none."""

    def place(self, index: int) -> FloatArray | None:
        """Position (3,) [m] of any device; None while it is not tracked."""


class OpenVrRuntime:
    """The real one."""

    def __init__(self, application: str = "background") -> None:
        if application not in APPLICATIONS:
            raise unknown("application", application, APPLICATIONS)
        self._vr = _client()
        self._application = application
        self._system: Any = None

    def open(self) -> None:
        vr, kind = self._vr, f"VRApplication_{self._application.capitalize()}"
        try:
            self._system = vr.init(getattr(vr, kind))
        except vr.OpenVRError as error:
            self._system = None
            raise _explained(error) from error

    def close(self) -> None:
        if self._system is not None:
            self._system = None
            self._vr.shutdown()

    def ended(self) -> bool:
        event = self._vr.VREvent_t()
        while self._system.pollNextEvent(event):
            if event.eventType in (self._vr.VREvent_Quit, self._vr.VREvent_DriverRequestedQuit):
                self._system.acknowledgeQuit_Exiting()
                return True
        return False

    def devices(self) -> list[DeviceSeen]:
        vr = self._vr
        kinds = {
            vr.TrackedDeviceClass_Controller: CONTROLLER,
            vr.TrackedDeviceClass_GenericTracker: TRACKER,
            vr.TrackedDeviceClass_TrackingReference: BASE_STATION,
        }
        found = []
        for index in range(vr.k_unMaxTrackedDeviceCount):
            kind = kinds.get(self._system.getTrackedDeviceClass(index))
            if kind is not None:
                role = ROLES.get(self._system.getControllerRoleForTrackedDeviceIndex(index), "")
                connected = bool(self._system.isTrackedDeviceConnected(index))
                found.append(DeviceSeen(index, kind, self._serial(index), role, connected))
        return found

    def read(self, index: int) -> ControllerSeen | None:
        vr = self._vr
        known, state, pose = self._system.getControllerStateWithPose(vr.TrackingUniverseRawAndUncalibrated, index)
        if not known:
            return None
        return ControllerSeen(
            matrix=_matrix(pose),
            tracked=self._tracked(pose),
            connected=bool(pose.bDeviceIsConnected),
            pressed=int(state.ulButtonPressed),
            trigger=float(state.rAxis[_TRIGGER_AXIS].x),
            pad=(float(state.rAxis[_PAD_AXIS].x), float(state.rAxis[_PAD_AXIS].y)),
        )

    def battery(self, index: int) -> float | None:
        try:
            return float(self._system.getFloatTrackedDeviceProperty(index, self._vr.Prop_DeviceBatteryPercentage_Float))
        except self._vr.OpenVRError:
            return None

    def place(self, index: int) -> FloatArray | None:
        vr = self._vr
        poses = self._system.getDeviceToAbsoluteTrackingPose(vr.TrackingUniverseRawAndUncalibrated, 0.0, [])
        return _matrix(poses[index])[:, 3] if self._tracked(poses[index]) else None

    def _tracked(self, pose: Any) -> bool:
        return bool(pose.bPoseIsValid) and pose.eTrackingResult == self._vr.TrackingResult_Running_OK

    def _serial(self, index: int) -> str:
        try:
            return str(self._system.getStringTrackedDeviceProperty(index, self._vr.Prop_SerialNumber_String))
        except self._vr.OpenVRError:
            return f"device {index} (it tells no serial number)"


def _matrix(pose: Any) -> FloatArray:
    return np.array([list(row) for row in pose.mDeviceToAbsoluteTracking.m], dtype=np.float64)


def _client() -> Any:
    """The client library; imported late, since only an operator with a VIVE needs it."""
    try:
        return importlib.import_module("openvr")
    except ImportError:
        raise UserError(
            "the VIVE needs the package openvr, which is not installed; run: make setup EXTRA=hardware"
        ) from None


def _explained(error: Exception) -> Exception:
    """What the client's error means to the user: UserError where only an installation helps."""
    name = type(error).__name__
    if name in ("InitError_Init_PathRegistryNotFound", "InitError_Init_InstallationNotFound"):
        return UserError(
            f"no SteamVR is installed for this user ({name}); install Steam and SteamVR, start SteamVR once, try again"
        )
    if name in (
        "InitError_Init_InstallationCorrupt",
        "InitError_Init_VRClientDLLNotFound",
        "InitError_Init_FactoryNotFound",
        "InitError_Init_InterfaceNotFound",
    ):
        return UserError(f"SteamVR is damaged or too old for the package openvr ({name}); update SteamVR")
    if name == "InitError_Init_NoServerForBackgroundApp":
        return RuntimeUnavailable("SteamVR is not running; start it")
    if name in ("InitError_Init_HmdNotFound", "InitError_Init_HmdNotFoundPresenceFailed"):
        return RuntimeUnavailable(
            f'SteamVR wants a headset ({name}); set "requireHmd": false in its steamvr.vrsettings and start it again'
        )
    return RuntimeUnavailable(f"SteamVR does not answer ({name}); start it again")
