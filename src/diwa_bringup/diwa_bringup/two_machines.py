"""``diwa network``: ROS 2 between the control PC and the policy PC, on one network interface alone.

Left to itself, Fast DDS announces itself on every interface, also on the robot's cable, where each packet costs the
arm's 1 kHz loop some of its time. What was measured, and why data stay on UDP: docs/two_machines.md.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shlex
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

import tyro

from diwa_conventions.discovery import profile_variable, without_memory
from diwa_conventions.errors import UserError, unknown

_PROFILE = Path(__file__).parent / "dds" / "link.xml"
_SETTINGS = (
    "ROS_LOCALHOST_ONLY",
    "FASTDDS_BUILTIN_TRANSPORTS",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
)
"""What an earlier call, or a shell for one machine alone, may have set."""
_GET_ADDRESS, _GET_FLAGS = 0x8915, 0x8913
"""Linux' SIOCGIFADDR and SIOCGIFFLAGS."""
_RUNNING = 0x40
_MEMORY = """      <transport_descriptor>
        <transport_id>diwa_memory</transport_id>
        <type>SHM</type>
      </transport_descriptor>
"""
_USE_MEMORY = "          <transport_id>diwa_memory</transport_id>\n"


@dataclass(frozen=True)
class Network:
    """Print the settings of ROS 2 between two machines: eval "$(diwa network enp5s0)" in each shell, on each machine.

    Nodes then find and hear each other on this interface, and nodes of one machine through shared memory; but the
    guard and the arm's driver by UDP alone, so that no process that is killed can hold them up.
    """

    interface: Annotated[str, tyro.conf.Positional]
    """Name of the interface to the other machine, as `ip -brief address` prints it."""
    peer: tuple[str, ...] = ()
    """IPv4 address of the other machine; needed only where the network between them drops multicast."""
    out: Path = Path("~/.cache/diwa")
    """Folder for the profile of Fast DDS."""

    def run(self) -> int:
        distribution = os.environ.get("ROS_DISTRO", "")
        path = self.out.expanduser().absolute() / f"dds_{self.interface}.xml"
        address = address_of(self.interface)
        texts = {
            path: dds_profile(address, self.peer, distribution),
            without_memory(path): dds_profile(address, self.peer, distribution, memory=False),
        }
        if not carries(self.interface):
            raise UserError(
                f"network interface {self.interface} carries nothing: plug the cable in and switch the other end on; "
                "nodes that are started before never hear the other machine"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
        settings = environment(path, self.peer, distribution)
        print(f"unset {' '.join(name for name in _SETTINGS if name not in settings)}")
        for name, value in settings.items():
            print(f"export {name}={shlex.quote(value)}")
        return 0


def dds_profile(address: str, peers: Sequence[str] = (), distribution: str = "", memory: bool = True) -> str:
    """The profile of Fast DDS for the interface that has this IPv4 address. UserError for a peer that is no address."""
    for peer in peers:
        _check_address(peer)
    own = _initial_peers(peers) if distribution == "humble" else ""
    return Template(_PROFILE.read_text(encoding="utf-8")).substitute(
        address=address, peers=own, memory=_MEMORY * memory, use_memory=_USE_MEMORY * memory
    )


def environment(profile: Path, peers: Sequence[str] = (), distribution: str = "") -> dict[str, str]:
    """Variables that a ROS 2 process needs to use the profile."""
    settings = {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp", profile_variable(distribution): str(profile)}
    if distribution == "humble":  # it knows no discovery range; its peers stand in the profile
        return settings
    return {**settings, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_STATIC_PEERS": ";".join(peers)}


def address_of(interface: str) -> str:
    """Its IPv4 address. UserError that lists what there is, if there is none."""
    address = _address(interface)
    if address is None:
        raise unknown("network interface with an IPv4 address:", interface, addresses())
    return address


def carries(interface: str) -> bool:
    """Whether a cable is in, and somebody at its other end.

    Fast DDS looks once, when a node starts: one that was started without stays deaf on this interface.
    """
    answer = _ask(interface, _GET_FLAGS)
    return answer is not None and bool(struct.unpack_from("H", answer, 16)[0] & _RUNNING)


def addresses() -> Mapping[str, str]:
    """IPv4 address of each interface that has one, without the loopback."""
    found = {name: _address(name) for _, name in socket.if_nameindex() if name != "lo"}
    return {name: address for name, address in found.items() if address is not None}


def _address(interface: str) -> str | None:
    answer = _ask(interface, _GET_ADDRESS)
    return socket.inet_ntoa(answer[20:24]) if answer else None


def _ask(interface: str, what: int) -> bytes | None:
    """What the kernel says of an interface; None if there is none or it has no such thing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return fcntl.ioctl(any_socket.fileno(), what, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None


def _check_address(peer: str) -> None:
    try:
        ipaddress.IPv4Address(peer)
    except ValueError:
        raise UserError(f"--peer is {peer!r}; expected the other machine's IPv4 address, e.g. 192.168.10.2") from None


def _initial_peers(peers: Sequence[str]) -> str:
    """For releases that do not know ROS_STATIC_PEERS; multicast goes on being used."""
    if not peers:
        return ""
    locators = "".join(
        f"<locator><udpv4><address>{peer}</address></udpv4></locator>" for peer in ("239.255.0.1", *peers)
    )
    return f"\n        <builtin><initialPeersList>{locators}</initialPeersList></builtin>"
