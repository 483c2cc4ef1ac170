"""Every message, service and action: documented field by field, importable, and the same after a trip over the wire."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rclpy.serialization import deserialize_message, serialize_message

PACKAGE = Path(__file__).resolve().parents[1]
FILES = sorted(path for kind in ("msg", "srv", "action") for path in PACKAGE.glob(f"{kind}/*.{kind}"))

by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)

UNIT_OF_SUFFIX = {"_m": "[m]", "_rad": "[rad]", "_s": "[s]", "_hz": "[Hz]"}
"""A field whose name ends like this has this unit."""


class Field(NamedTuple):
    type: str
    name: str
    comment: str


def fields(path: Path) -> list[Field]:
    return fields_of_text(path.read_text())


def fields_of_text(text: str) -> list[Field]:
    """The fields of an interface definition; constants (``NAME=value``) and comment lines are none."""
    lines = (re.fullmatch(r"(\S+)\s+([a-z]\w*)\s*(?:#\s*(.*))?", line) for line in text.splitlines())
    return [Field(match[1], match[2], match[3] or "") for match in lines if match]


def parts(path: Path) -> list[type]:
    """The message classes that an interface file becomes."""
    interface = getattr(import_module(f"diwa_msgs.{path.parent.name}"), path.stem)
    names = {"msg": [], "srv": ["Request", "Response"], "action": ["Goal", "Result", "Feedback"]}[path.parent.name]
    return [getattr(interface, name) for name in names] or [interface]


EXAMPLES: dict[str, Any] = {
    "boolean": True,
    "string": "Größe",
    "double": -0.1,
    "int32": -7,
    "int64": -(2**62),
    "uint8": 2,
    "uint32": 2**32 - 1,
    "uint64": 2**64 - 1,
}


def example(field_type: str) -> Any:
    """A value of a field's type that differs from the default everywhere."""
    if array := re.fullmatch(r"(.+)\[(\d+)\]", field_type):
        return [example(array[1])] * int(array[2])
    if sequence := re.fullmatch(r"sequence<(.+)>", field_type):
        return [example(sequence[1])] * 2
    if "/" in field_type:
        package, name = field_type.split("/")
        return filled(getattr(import_module(f"{package}.msg"), name))
    return EXAMPLES[field_type]


def filled(message_class: Any) -> Any:
    message = message_class()
    for name, field_type in message_class.get_fields_and_field_types().items():
        setattr(message, name, example(field_type))
    return message


# ---- documentation ----


def test_the_graph_has_its_interfaces() -> None:
    assert {path.stem for path in FILES} >= {
        *("DeltaAction", "GripperCommand", "GuardState", "RecorderState", "Annotation", "PolicyStatus", "SceneState"),
        "StageProgress",
        *("Arm", "Disarm", "Recover", "LoadPolicy", "StartRecording", "StopRecording", "Annotate", "ResetPlayroom"),
        "RunSkill",
    }


@by_file
def test_every_field_has_a_comment(path: Path) -> None:
    assert [field.name for field in fields(path) if not field.comment] == []


@by_file
def test_every_real_number_has_its_unit_or_range_in_brackets(path: Path) -> None:
    reals = [field for field in fields(path) if field.type.startswith("float")]
    assert [field.name for field in reals if not re.match(r"\[.+?\]", field.comment)] == []


@by_file
def test_the_unit_in_the_name_is_the_unit_in_the_comment(path: Path) -> None:
    for field in fields(path):
        for suffix, unit in UNIT_OF_SUFFIX.items():
            if field.name.endswith(suffix):
                assert field.comment.startswith(unit), f"{field.name}: {field.comment}"


@by_file
def test_every_pose_says_its_frame(path: Path) -> None:
    poses = [field for field in fields(path) if field.type == "geometry_msgs/Pose"]
    assert [field.name for field in poses if "frame" not in field.comment] == []


@by_file
def test_every_header_says_what_stamp_and_frame_mean(path: Path) -> None:
    for field in fields(path):
        if field.type == "std_msgs/Header":
            assert "stamp" in field.comment
            assert "frame_id" in field.comment


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".srv"], ids=lambda path: path.name)
def test_an_answer_of_a_service_says_what_happened(path: Path) -> None:
    answer = fields_of_text(path.read_text().split("---")[1])
    assert [field.name for field in answer][:2] == ["success", "message"]


# ---- generated code ----


@by_file
def test_the_generated_classes_have_the_fields_of_the_file(path: Path) -> None:
    generated = [name for part in parts(path) for name in part.get_fields_and_field_types()]  # type: ignore[attr-defined]
    assert [name for name in generated if name != "structure_needs_at_least_one_member"] == [
        field.name for field in fields(path)
    ]


@by_file
def test_a_message_comes_back_from_the_wire_as_it_was(path: Path) -> None:
    for part in parts(path):
        message = filled(part)
        assert deserialize_message(serialize_message(message), part) == message


@by_file
def test_an_empty_message_comes_back_from_the_wire_as_it_was(path: Path) -> None:
    for part in parts(path):
        assert deserialize_message(serialize_message(part()), part) == part()


# ---- states ----


@pytest.mark.parametrize(
    ("message", "names"),
    [
        ("GuardState", ["DISARMED", "ARMED", "HOLDING", "FAULT"]),
        ("PolicyStatus", ["EMPTY", "READY", "RUNNING", "STOPPED"]),
        ("RecorderState", ["IDLE", "RECORDING", "FAULT"]),
        ("StageProgress", ["RUNNING", "FINISHED", "STOPPED", "FAILED"]),
    ],
)
def test_states_are_numbered_from_zero_and_start_harmless(message: str, names: list[str]) -> None:
    message_class = getattr(import_module("diwa_msgs.msg"), message)
    assert [getattr(message_class, name) for name in names] == list(range(len(names)))
    assert message_class().state == 0
