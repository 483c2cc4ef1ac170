"""An FR3 in software (FCI version 10, physics): franky-sim at an even 1 kHz, until standard input closes.

python franky_sim_server.py ADDRESS
"""

import contextlib
import logging
import struct
import sys
import threading
import time

import franky_sim
from franky_sim import franka_server
from franky_sim.mujoco_simulator import MujocoSimulator

STEP_S = 0.001
LONGEST_CATCH_UP_S = 0.1


def answer_connect(self, server, command_type_struct="I"):
    """franky-sim sends the status as two bytes and fills up to eight; the protocol has one (the hand's: two)."""
    layout = "<BH" if command_type_struct == "I" else "<HH"
    body = struct.pack(layout, 0, server.library_version)
    header = franka_server.MessageHeader(self.command_type, self.command_id, len(body))
    self.client_socket.sendall(header.to_bytes(command_type_struct=command_type_struct) + body)
    server._setup_udp_connection(self.network_udp_port)


def main(address: str) -> None:
    logging.disable(logging.CRITICAL)
    franka_server.ConnectCommand.handle = answer_connect
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    with MujocoSimulator(enable_visualization=False) as simulator:
        simulator.add_robot()
        with franky_sim.SimulationServer(simulator, hostname_candidates=[address]) as server:
            print("ready", address, flush=True)
            due_s = time.monotonic()
            while not over.is_set():
                server.run_once(realtime=False)
                due_s = max(due_s + STEP_S, time.monotonic() - LONGEST_CATCH_UP_S)
                time.sleep(max(0.0, due_s - time.monotonic()))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1])
