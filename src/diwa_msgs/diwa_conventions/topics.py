"""Every topic and service of the graph: name, type, quality of service, rate, frame and unit.

Names are relative to the namespace (``/diwa`` by default); a test holds ``docs/architecture.md`` to the same table.
"""

from __future__ import annotations

from dataclasses import dataclass

from diwa_conventions.rates import RECORD_RATE_HZ, TRAIN_RATE_HZ

NAMESPACE = "diwa"
BASE_FRAME = "panda_link0"
TOOL_FRAME = "panda_hand_tcp"
STATIC_CAMERA_FRAME = "static_camera_optical_frame"
GRIPPER_CAMERA_FRAME = "gripper_camera_optical_frame"

CAMERA_SIZE_PX = 200
"""Width and height of both image streams (paper S.3.1)."""

STATE_RATE_HZ = 120.0
"""Rate of ``current_pose`` and ``joint_states`` from the simulated arm."""

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")


@dataclass(frozen=True)
class Topic:
    """One topic. ``reliable`` and ``depth`` are its publishers' quality of service (volatile, keep last)."""

    name: str
    type: str
    reliable: bool
    depth: int
    rate_hz: float
    """0: on event."""
    about: str
    """Frame and units."""


# A table: one entry, one topic.
# fmt: off
TARGET_POSE = Topic(
    "target_pose", "geometry_msgs/msg/PoseStamped", True, 1, STATE_RATE_HZ,
    f"commanded pose of {TOOL_FRAME} in {BASE_FRAME}; m, unit quaternion; exactly one publisher",
)
GRIPPER_COMMAND = Topic(
    "gripper_command", "diwa_msgs/msg/GripperCommand", True, 1, RECORD_RATE_HZ, ">= 0 opens, < 0 closes",
)
CURRENT_POSE = Topic(
    "current_pose", "geometry_msgs/msg/PoseStamped", False, 1, STATE_RATE_HZ,
    f"measured pose of {TOOL_FRAME} in {BASE_FRAME}; m, unit quaternion",
)
JOINT_STATES = Topic(
    "joint_states", "sensor_msgs/msg/JointState", False, 1, STATE_RATE_HZ,
    "seven arm joints (rad, rad/s, N m), two finger joints (m, m/s, N); width = their sum",
)
STATIC_IMAGE = Topic(
    "static_camera/image_raw", "sensor_msgs/msg/Image", True, 5, RECORD_RATE_HZ,
    f"rgb8 {CAMERA_SIZE_PX}x{CAMERA_SIZE_PX}, {STATIC_CAMERA_FRAME}",
)
STATIC_INFO = Topic(
    "static_camera/camera_info", "sensor_msgs/msg/CameraInfo", True, 5, RECORD_RATE_HZ, "intrinsics, px",
)
GRIPPER_IMAGE = Topic(
    "gripper_camera/image_raw", "sensor_msgs/msg/Image", True, 5, RECORD_RATE_HZ,
    f"rgb8 {CAMERA_SIZE_PX}x{CAMERA_SIZE_PX}, {GRIPPER_CAMERA_FRAME}",
)
GRIPPER_INFO = Topic(
    "gripper_camera/camera_info", "sensor_msgs/msg/CameraInfo", True, 5, RECORD_RATE_HZ, "intrinsics, px",
)
SCENE_STATE = Topic(
    "scene_state", "diwa_msgs/msg/SceneState", True, 5, RECORD_RATE_HZ, "truth of the playroom (simulation only)",
)
OPERATOR_POSE = Topic(
    "operator/pose", "geometry_msgs/msg/PoseStamped", True, 5, RECORD_RATE_HZ,
    f"pose of the operator's hand in {BASE_FRAME}; m, unit quaternion",
)
OPERATOR_JOY = Topic(
    "operator/joy", "sensor_msgs/msg/Joy", True, 5, RECORD_RATE_HZ,
    "axes[0] trigger 0..1 (1 closes the gripper); buttons: 0 clutch (held), 1 arm, 2 disarm, 3 success, 4 failure",
)
ACTION = Topic(
    "action", "diwa_msgs/msg/DeltaAction", True, 5, RECORD_RATE_HZ,
    f"what teleop (30 Hz) or policy (7.5 Hz) ask of the command guard; [-1, 1] in {BASE_FRAME}",
)
EXECUTED_ACTION = Topic(
    "executed_action", "diwa_msgs/msg/DeltaAction", True, 5, RECORD_RATE_HZ,
    f"how far the guard moved target_pose in the last 1/30 s; [-1, 1] in {BASE_FRAME}",
)
GUARD_STATE = Topic(
    "guard_state", "diwa_msgs/msg/GuardState", True, 5, RECORD_RATE_HZ, "state, reason, target and counts of the guard",
)
ARM_STATE = Topic(
    "arm_state", "diwa_msgs/msg/ArmState", True, 5, RECORD_RATE_HZ, "state and reason of a real arm's driver",
)
SHADOW_ACTION = Topic(
    "shadow_action", "diwa_msgs/msg/DeltaAction", True, 5, TRAIN_RATE_HZ,
    f"what the policy would ask for in a dry run; nothing obeys it; [-1, 1] in {BASE_FRAME}",
)
POLICY_STATUS = Topic(
    "policy_status", "diwa_msgs/msg/PolicyStatus", True, 5, TRAIN_RATE_HZ,
    "state, reason, success probability and surprise (nat) of the policy; 1 Hz between runs",
)
RECORDER_STATE = Topic(
    "recorder_state", "diwa_msgs/msg/RecorderState", True, 5, 1.0, "state, disk and per-topic counts of the recorder",
)
ANNOTATION = Topic(
    "annotation", "diwa_msgs/msg/Annotation", True, 5, 0.0, "success or failure of a skill, marked by the recorder",
)
TRAINING_PROGRESS = Topic(
    "training_progress", "diwa_msgs/msg/StageProgress", True, 5, 1.0, "how far a training stage is, its losses",
)
DIAGNOSTICS = Topic(
    "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", True, 5, 1.0, "health of every node",
)

TOPICS = (
    TARGET_POSE, GRIPPER_COMMAND, CURRENT_POSE, JOINT_STATES, STATIC_IMAGE, STATIC_INFO, GRIPPER_IMAGE, GRIPPER_INFO,
    SCENE_STATE, OPERATOR_POSE, OPERATOR_JOY, ACTION, EXECUTED_ACTION, GUARD_STATE, ARM_STATE, SHADOW_ACTION,
    POLICY_STATUS, RECORDER_STATE, ANNOTATION, TRAINING_PROGRESS, DIAGNOSTICS,
)
# fmt: on

RESET_SERVICE = "reset"
"""``diwa_msgs/srv/ResetPlayroom`` of the playroom node."""
ARM_SERVICE, DISARM_SERVICE, RECOVER_SERVICE = "arm", "disarm", "recover"
"""``diwa_msgs/srv/Arm``, ``Disarm`` and ``Recover`` of the command guard."""
RECOVER_ARM_SERVICE = "recover_arm"
"""``diwa_msgs/srv/Recover`` of a real arm's driver."""
START_RECORDING_SERVICE, STOP_RECORDING_SERVICE = "start_recording", "stop_recording"
ANNOTATE_SERVICE = "annotate"
"""``diwa_msgs/srv/StartRecording``, ``StopRecording`` and ``Annotate`` of the recorder."""

LOAD_POLICY_SERVICE, RUN_SKILL_ACTION = "load_policy", "run_skill"
"""``diwa_msgs/srv/LoadPolicy`` and ``diwa_msgs/action/RunSkill`` of the policy node."""

TELEOP_SOURCE, POLICY_SOURCE = "teleop", "policy"
"""``DeltaAction.source`` of the two that may move the arm."""

JOY_TRIGGER_AXIS = 0
JOY_CLUTCH_BUTTON = 0
JOY_ARM_BUTTON, JOY_DISARM_BUTTON = 1, 2
JOY_SUCCESS_BUTTON, JOY_FAILURE_BUTTON = 3, 4
JOY_BUTTONS = 5


def markdown_table() -> str:
    """All topics as the table of ``docs/architecture.md``; printed by ``python -m diwa_conventions.topics``."""
    lines = ["| topic | type | quality of service | rate | frame and units |", "|---|---|---|---|---|"]
    for topic in TOPICS:
        service = f"{'reliable' if topic.reliable else 'best effort'}, {topic.depth}"
        lines.append(f"| `{topic.name}` | {topic.type} | {service} | {_rate(topic)} | {topic.about} |")
    return "\n".join(lines)


def _rate(topic: Topic) -> str:
    return f"{topic.rate_hz:g} Hz" if topic.rate_hz else "on event"


if __name__ == "__main__":
    print(markdown_table())
