"""Calls one ROS service from a process of its own, so that the command line stays free of rclpy and its handlers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from diwa_conventions.bags.definitions import full_name
from diwa_conventions.errors import UserError

_TIMEOUT_S = 30.0


def call(name: str, kind: str, request: Mapping[str, Any], namespace: str, owner: str) -> dict[str, Any]:
    """The response's fields; ``kind`` is the type's name in diwa_msgs, ``owner`` the node that should answer.

    UserError if nobody offers the service or answers in time.
    """
    service = full_name(name, namespace)
    command = [sys.executable, "-m", "diwa_bringup.nodes.service_caller", service, kind, json.dumps(dict(request))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"{service} was called, but nothing came back within {_TIMEOUT_S:g} s") from None
    if done.returncode == 3:
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        raise UserError(
            f"nobody offers {service}: is the {owner} running, in this ROS domain ({domain}) and this --namespace?"
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{service} could not be called: {reason}")
    return dict(json.loads(done.stdout))


def report(response: Mapping[str, Any]) -> int:
    """Print what the service says; the exit code."""
    print(response["message"], file=sys.stdout if response["success"] else sys.stderr)
    return 0 if response["success"] else 1
