"""The viewer's layout: whole, and every topic and field that it names exists in this graph."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rosbags.interfaces import Nodetype

from diwa_conventions.bags.definitions import full_name, of_type, typestore
from diwa_conventions.topics import (
    DIAGNOSTICS,
    GRIPPER_IMAGE,
    GUARD_STATE,
    NAMESPACE,
    POLICY_STATUS,
    STATIC_IMAGE,
    TOPICS,
)

LAYOUT = json.loads((Path(__file__).parents[1] / "layouts" / "diwa.json").read_text())
PANELS: dict[str, Any] = LAYOUT["configById"]
TYPES = {full_name(topic.name, NAMESPACE): topic.type for topic in TOPICS} | {"/rosout": "rcl_interfaces/msg/Log"}


def leaves(tree: Any) -> Iterator[str]:
    """Panels of a tree of splits, those in its tabs too."""
    if isinstance(tree, str):
        yield tree
        for tab in PANELS[tree].get("tabs", []):
            yield from leaves(tab["layout"])
        return
    assert set(tree) == {"direction", "first", "second", "splitPercentage"}
    assert tree["direction"] in ("row", "column") and 0 < tree["splitPercentage"] < 100
    yield from leaves(tree["first"])
    yield from leaves(tree["second"])


def paths_of(kind: str) -> dict[str, list[str]]:
    """Message paths of each panel of a kind."""
    found = {name: panel for name, panel in PANELS.items() if name.startswith(f"{kind}!")}
    return {name: [one["value"] for one in panel["paths"]] for name, panel in found.items()}


def indicators() -> dict[str, Any]:
    return {name: panel for name, panel in PANELS.items() if name.startswith("Indicator!")}


def split(path: str) -> tuple[str, list[str]]:
    """Topic and fields of a message path: ``/diwa/action.translation[0]``."""
    topic, *fields = path.split(".")
    assert topic in TYPES, f"{path}: nobody publishes {topic}"
    return topic, fields


def leaf_type(path: str) -> str:
    """The basic type at the end of a message path, resolved field by field through the message definitions."""
    topic, fields = split(path)
    node: Any = (Nodetype.NAME, TYPES[topic])
    for field in fields:
        match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", field)
        assert match and node[0] == Nodetype.NAME, f"{path}: {field} is no field of {node}"
        known = dict(typestore().fielddefs[node[1]][1])
        assert match[1] in known, f"{path}: {node[1]} has no field {match[1]}; it has {', '.join(known)}"
        node = known[match[1]]
        if match[2] is not None:
            kind, size = node[0], node[1][1]
            assert kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) and (size == 0 or int(match[2]) < size), path
            node = node[1][0]
    assert node[0] == Nodetype.BASE, f"{path} is no number or text: {node}"
    return str(node[1][0])


def test_every_panel_is_in_the_tree_once_and_no_other():
    assert sorted(leaves(LAYOUT["layout"])) == sorted(PANELS)


def test_it_has_what_the_viewer_requires():
    assert set(LAYOUT) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    kinds = {name.partition("!")[0] for name in PANELS}
    assert kinds == {
        "Image", "Indicator", "StateTransitions", "Plot", "DiagnosticSummary", "RawMessages", "RosOut", "Tab",
    }  # fmt: skip
    assert all(panel["foxglovePanelTitle"] for name, panel in PANELS.items() if not name.startswith("Tab!"))


def test_both_cameras_are_shown_as_they_are():
    images = [PANELS[name]["imageMode"] for name in ("Image!static", "Image!gripper")]
    # Without a calibration topic an image needs no frames of reference to be shown.
    assert images == [{"imageTopic": full_name(topic.name, NAMESPACE)} for topic in (STATIC_IMAGE, GRIPPER_IMAGE)]


@pytest.mark.parametrize("panel", paths_of("Plot"))
def test_what_is_plotted_are_numbers_that_exist(panel: str):
    assert paths_of("Plot")[panel]
    for one in PANELS[panel]["paths"]:
        assert leaf_type(one["value"]).startswith(("float", "int", "uint")), one["value"]
        assert one["enabled"] is True and one["label"] and one["timestampMethod"] == "headerStamp"
        assert re.fullmatch("#[0-9a-f]{6}", one["color"])


def test_stamps_of_what_is_plotted_are_in_the_messages():
    for path in [path for paths in (paths_of("Plot") | paths_of("StateTransitions")).values() for path in paths]:
        first, kind = typestore().fielddefs[TYPES[split(path)[0]]][1][0]
        assert (first, kind[1]) == ("header", "std_msgs/msg/Header"), path


def test_states_are_plotted_that_exist():
    ((_, paths),) = paths_of("StateTransitions").items()
    assert {leaf_type(path) for path in paths} <= {"uint8", "string", "bool"}
    assert {f"/{NAMESPACE}/{topic.name}.state" for topic in (GUARD_STATE, POLICY_STATUS)} <= set(paths)


@pytest.mark.parametrize("panel", indicators())
def test_indicators_name_every_state_as_the_message_does(panel: str):
    config = PANELS[panel]
    topic, fields = split(config["path"])
    assert fields == ["state"] and leaf_type(config["path"]) == "uint8"
    constants, _ = typestore().fielddefs[TYPES[topic]]
    rules = [(rule["label"], int(rule["rawValue"]), rule["operator"]) for rule in config["rules"]]
    assert rules == [(name, value, "=") for name, _, value in constants]


def test_threshold_and_bounds_are_beside_what_they_bound():
    fields = {name: [split(path)[1][0] for path in paths] for name, paths in paths_of("Plot").items()}
    assert fields["Plot!success"] == ["success_probability", "success_threshold"]
    assert fields["Plot!surprise"] == ["surprise", "surprise_bound", "mean_surprise", "mean_surprise_bound"]


def test_asked_and_executed_actions_are_whole():
    shown = [path for name in ("Plot!translation", "Plot!rotation") for path in paths_of("Plot")[name]]
    for topic in ("action", "executed_action"):
        for field in ("translation", "rotation"):
            assert {f"/{NAMESPACE}/{topic}.{field}[{i}]" for i in range(3)} <= set(shown)
    assert f"/{NAMESPACE}/action.gripper" in shown


def test_lists_show_topics_of_their_kind():
    assert PANELS["DiagnosticSummary!nodes"]["topicToRender"] == DIAGNOSTICS.name
    assert PANELS["RosOut!log"]["topicToRender"] == "/rosout"
    assert of_type("/rosout", TYPES["/rosout"]).definition
    assert PANELS["RawMessages!recorder"]["topicPath"] in TYPES
