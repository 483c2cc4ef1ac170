"""One port of the robot: requests over TCP from one client at a time, states to it over UDP."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from diwa_conventions.errors import UserError
from diwa_sim.fci.messages import (
    CONNECT_REQUEST,
    ConnectStatus,
    ProtocolError,
    answer,
    parse,
    split_request,
)

CONNECT = 0


class Link:
    """Listens, greets one client, hands over its requests. A second client is turned away."""

    def __init__(self, address: str, port: int, version: int, header: np.dtype[Any]) -> None:
        self.version = version
        self._address, self._port, self._header = address, port, header
        self._listener: socket.socket | None = None
        self._client: socket.socket | None = None
        self._buffer = bytearray()
        self._states_to: tuple[str, int] | None = None
        self._udp = _bound(socket.SOCK_DGRAM, address, 0)
        self.left = False
        """A client has gone; whoever reads this sets it back."""
        self.open()

    def open(self) -> None:
        """Accept clients."""
        if self._listener is not None:
            return
        listener = _bound(socket.SOCK_STREAM, self._address, self._port)
        listener.listen(4)
        self._listener = listener

    def close(self) -> None:
        """As a robot on which FCI is not active: no client, and connections are refused."""
        self.drop_client()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def release(self) -> None:
        self.close()
        self._udp.close()

    @property
    def connected(self) -> bool:
        return self._states_to is not None

    def sockets(self) -> Iterator[socket.socket]:
        """Those to wait for."""
        yield from (each for each in (self._listener, self._client) if each is not None)
        if self._client is not None:
            yield self._udp

    def drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self.left = True
        self._client, self._states_to = None, None
        self._buffer.clear()

    def requests(self) -> list[tuple[int, int, bytes]]:
        """What the client asks for now (command, command id, payload), connecting apart."""
        self._accept()
        if self._client is None or not self._read():
            return []
        found = []
        try:
            while (request := split_request(self._buffer, self._header)) is not None:
                if request[0] == CONNECT:
                    self._greet(request[1], request[2])
                else:
                    found.append(request)
        except ProtocolError:
            self.drop_client()
        return found

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._client is not None:
            self._read()  # it may have just gone
        if self._client is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client

    def _read(self) -> bool:
        """Whether the client is still there."""
        assert self._client is not None
        try:
            while data := self._client.recv(65536):
                self._buffer += data
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.drop_client()
        return False

    def _greet(self, command_id: int, payload: bytes) -> None:
        assert self._client is not None
        request = parse(payload, CONNECT_REQUEST)
        fits = int(request["version"]) == self.version
        status = ConnectStatus.SUCCESS if fits else ConnectStatus.INCOMPATIBLE_VERSION
        self.send(CONNECT, command_id, status, self.version.to_bytes(2, "little"))
        if fits and self._client is not None:
            self._states_to = (self._client.getpeername()[0], int(request["udp_port"]))

    def send(self, command: int, command_id: int, status: int, extra: bytes = b"") -> None:
        """An answer over TCP; lost with the client."""
        if self._client is None:
            return
        try:
            self._client.sendall(answer(self._header, command, command_id, status, extra))
        except OSError:
            self.drop_client()

    def send_state(self, state: bytes) -> None:
        if self._states_to is not None:
            try:
                self._udp.sendto(state, self._states_to)
            except OSError:
                pass  # as on a wire: the packet is lost

    def datagrams(self) -> list[bytes]:
        """What has come over UDP from anybody."""
        found = []
        try:
            while True:
                found.append(self._udp.recvfrom(4096)[0])
        except OSError:  # nothing left, or the client's port has closed
            return found


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """A socket of this machine that never blocks. UserError if there is no such address or the port is taken."""
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setblocking(False)
    try:
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise UserError(_cannot_listen(address, port, error)) from error
    return made


def _cannot_listen(address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address}:{port} is taken by another program; stop it or choose another address of this machine"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this machine; use 127.0.0.1 or another one that `ip address` shows"
    return f"cannot listen on {address}:{port}: {error.strerror}"
