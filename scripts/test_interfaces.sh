#!/usr/bin/env bash
# Builds the stand-ins for interface packages of ROS 2 drivers that the wheels lack (src/diwa_robot/test/interfaces), once and
# beside the workspace, and runs the tests that are skipped without them: test_interfaces.sh [--build-only]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./env.sh
built=$diwa_home/build/test_interfaces

python -m colcon --log-base "$built/log" build --base-paths src/diwa_robot/test/interfaces/*/ \
    --build-base "$built/build" --install-base "$built/install" \
    --event-handlers console_direct- console_cohesion- --cmake-args -G Ninja -DBUILD_TESTING=OFF
if [ "${1:-}" = --build-only ]; then exit 0; fi
set +u; . "$built/install/local_setup.bash"
cd src/diwa_robot && python -m pytest -q test/test_crisp_interfaces.py
