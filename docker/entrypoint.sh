#!/usr/bin/env bash
# What every image starts with: the shell as a person would prepare it, and then what it was told to run.
#   DIWA_INTERFACE=enp5s0   ROS 2 speaks on this network interface alone (diwa network)
#   DIWA_PEER=192.168.10.2  the other machine, where the network drops multicast
set -e

# Not in every image.
if [ -e /franka/install/setup.bash ]; then
    # shellcheck source=/dev/null
    source /franka/install/setup.bash
fi
# shellcheck source=/dev/null
source /diwa/env.sh
if [ -n "${DIWA_INTERFACE:-}" ]; then
    settings=$(diwa network "$DIWA_INTERFACE" ${DIWA_PEER:+--peer "$DIWA_PEER"})
    eval "$settings"
fi
exec "$@"
