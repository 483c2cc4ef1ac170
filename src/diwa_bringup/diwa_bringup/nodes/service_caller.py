"""Calls one service: ``python -m diwa_bringup.nodes.service_caller SERVICE TYPE REQUEST``.

Request and response are JSON. Exit code 3 if nobody offers the service, 4 if it does not answer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import diwa_msgs.srv
import rclpy

FIND_S, ANSWER_S = 5.0, 10.0


def main() -> int:
    service, kind, request = sys.argv[1:]
    rclpy.init()
    node = rclpy.create_node(f"_diwa_caller_{os.getpid()}", start_parameter_services=False, enable_rosout=False)
    client = node.create_client(getattr(diwa_msgs.srv, kind), service)
    try:
        if not client.wait_for_service(FIND_S):
            return 3
        answer = client.call_async(filled(getattr(diwa_msgs.srv, kind).Request(), json.loads(request)))
        rclpy.spin_until_future_complete(node, answer, timeout_sec=ANSWER_S)
        if not answer.done():
            print(f"no answer within {ANSWER_S:g} s", file=sys.stderr)
            return 4
        response = answer.result()
        print(json.dumps({name: getattr(response, name) for name in response.get_fields_and_field_types()}))
        return 0
    finally:
        rclpy.shutdown()


def filled(message: Any, values: Mapping[str, Any]) -> Any:
    """The message with the values of its fields; nested messages from nested mappings."""
    for name, value in values.items():
        setattr(message, name, filled(getattr(message, name), value) if isinstance(value, Mapping) else value)
    return message


if __name__ == "__main__":
    sys.exit(main())
