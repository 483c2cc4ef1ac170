# The FR3's control PC: ROS 2 Jazzy, franka_ros2, CRISP's controllers, the workspace.
#   docker build -f docker/fr3.Dockerfile -t diwa:fr3 .
#   docker compose -f docker/compose.control.yaml --profile fr3 up
# What of this was run and what was not: docs/docker.md.
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Versions are those of Ubuntu 24.04 and of Jazzy.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential cmake git python3-vcstool python3-rosdep python3-colcon-common-extensions \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /franka
COPY docker/franka/fr3.repos docker/franka/build.sh ./
RUN ./build.sh fr3.repos franka_bringup franka_gripper franka_robot_state_broadcaster crisp_controllers

WORKDIR /diwa
COPY requirements/apt.txt requirements/
# hadolint ignore=DL3008
RUN apt-get update \
    && sed -n 's/^\(build\|rendering\|hardware\): //p' requirements/apt.txt | sed 's/python3\.11/python3/g' \
        | xargs apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*
COPY . .
# hadolint ignore=SC1091
RUN set +u && . /franka/install/setup.bash && set -u \
    && make setup EXTRA=hardware && rm -rf ~/.cache

COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["bash"]
