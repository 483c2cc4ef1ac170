#!/usr/bin/env bash
# Fetches what a .repos file pins, what that needs from the distribution, and builds packages: build.sh FILE PACKAGE...
# Only these packages and what they depend on: the repositories also hold simulators and demonstrations.
set -euo pipefail

list=$1
shift
cd "$(dirname "${BASH_SOURCE[0]}")"

mkdir -p src
vcs import --recursive src <"$list"
set +u
# shellcheck source=/dev/null
source "/opt/ros/$ROS_DISTRO/setup.bash"
set -u
mapfile -t folders < <(colcon list --paths-only --packages-up-to "$@")
apt-get update
rosdep update --rosdistro "$ROS_DISTRO"
rosdep install --rosdistro "$ROS_DISTRO" --from-paths "${folders[@]}" --ignore-src -y --dependency-types=build \
    --dependency-types=buildtool --dependency-types=build_export --dependency-types=exec
colcon build --packages-up-to "$@" --cmake-args -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF -DBUILD_TESTS=OFF
rm -rf build log src /var/lib/apt/lists/* ~/.ros
