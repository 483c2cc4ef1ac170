"""Who else is in the ROS domain: foreign nodes are worth a warning, a second node of the same name is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from diwa_bringup.graph import NodeSpec
from diwa_conventions.errors import UserError

HIGHEST_DOMAIN = 101
"""Above it DDS's ports meet those that Linux hands out itself."""

_TIMEOUT_S = 20.0


def current_domain() -> int:
    """``ROS_DOMAIN_ID``; UserError if it is not a number that DDS can use."""
    text = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not text.isdecimal() or int(text) > HIGHEST_DOMAIN:
        raise UserError(f"ROS_DOMAIN_ID is {text!r}; expected a whole number from 0 to {HIGHEST_DOMAIN}")
    return int(text)


def nodes_in_domain(domain: int, names: Sequence[str] = ()) -> list[str]:
    """Full names of the nodes that answer now; UserError when ROS 2 cannot be used in this shell.

    The search ends at one of ``names``, or at any node if none is given, and else when all have had time to answer.
    """
    command = [sys.executable, "-m", "diwa_bringup.nodes.domain_listener", *names]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    try:
        found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"ROS 2 did not start within {_TIMEOUT_S:g} s; see: diwa doctor") from None
    if found.returncode != 0:
        reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"ROS 2 does not work in this shell ({reason}); run: source env.sh, then: diwa doctor")
    return sorted(set(found.stdout.split()))


def check_domain(specs: Sequence[NodeSpec], found: Sequence[str], domain: int) -> str | None:
    """A warning about foreign nodes, None if there are none; UserError if a node of ours runs already."""
    twice = sorted({spec.full_name for spec in specs} & set(found))
    if twice:
        raise UserError(
            f"{', '.join(twice)} runs already in ROS domain {domain}; stop it, or start this one with "
            f"another namespace:=NAME or in another domain: ROS_DOMAIN_ID={other_domain(domain)}"
        )
    if not found:
        return None
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return (
        f"ROS domain {domain} has {len(found)} foreign node{'s' * (len(found) > 1)}: {shown}; "
        f"to be alone, put ROS_DOMAIN_ID={other_domain(domain)} before the command"
    )


def other_domain(domain: int) -> int:
    """A domain id to propose instead."""
    return domain % HIGHEST_DOMAIN + 1


def free_domain() -> int:
    """A domain without nodes; the search begins at a number that differs between processes."""
    domain = other_domain(os.getpid())
    for _ in range(5):
        if not nodes_in_domain(domain):
            return domain
        domain = other_domain(domain)
    raise UserError(f"no free ROS domain found; the last one tried is {domain}")
