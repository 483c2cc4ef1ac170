"""Asks for a skill: ``python -m diwa_bringup.nodes.skill_caller ACTION GOAL``; goal and result are JSON.

SIGINT and SIGTERM cancel, and wait for the end. Exit code 3 if nobody serves the action, 4 if it does not answer.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

import rclpy
from diwa_msgs.action import RunSkill
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

FIND_S, ANSWER_S, GONE_S = 5.0, 10.0, 3.0
_LOOK_S = 0.1


class NoAnswer(Exception):
    """The policy node has gone, or does not answer."""


def main() -> int:
    action, goal = sys.argv[1:]
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    told: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    node = rclpy.create_node(f"_diwa_skill_{os.getpid()}", start_parameter_services=False, enable_rosout=False)
    client = ActionClient(node, RunSkill, action)
    try:
        if not client.wait_for_server(FIND_S):
            return 3
        print(json.dumps(fields(_run(node, client, RunSkill.Goal(**json.loads(goal)), told))))
        return 0
    except NoAnswer as error:
        print(error, file=sys.stderr)
        return 4
    finally:
        client.destroy()
        rclpy.shutdown()


def _run(node: Node, client: ActionClient, goal: RunSkill.Goal, told: list[int]) -> RunSkill.Result:
    """The result, also of a goal that was cancelled meanwhile."""
    handle = _answer(node, client.send_goal_async(goal))
    result, cancelled, seen_s = handle.get_result_async(), False, time.monotonic()
    while not result.done():
        rclpy.spin_once(node, timeout_sec=_LOOK_S)
        if told and not cancelled:
            _answer(node, handle.cancel_goal_async())
            cancelled = True
        seen_s = time.monotonic() if client.server_is_ready() else seen_s
        if time.monotonic() - seen_s > GONE_S:
            raise NoAnswer("the policy node has gone; the command guard holds the arm")
    return result.result().result


def _answer(node: Node, future: Future) -> Any:
    rclpy.spin_until_future_complete(node, future, timeout_sec=ANSWER_S)
    if not future.done():
        raise NoAnswer(f"no answer within {ANSWER_S:g} s")
    return future.result()


def fields(result: RunSkill.Result) -> dict[str, Any]:
    """For JSON, which knows no NaN."""
    told = {name: getattr(result, name) for name in ("success", "reason", "steps", "seed")}
    best = result.success_probability
    return {**told, "success_probability": None if math.isnan(best) else best}


if __name__ == "__main__":
    sys.exit(main())
