# The Panda's control PC: ROS 2 Humble, libfranka 0.9.2, multipanda_ros2, CRISP's controllers, the workspace.
#   docker build -f docker/panda.Dockerfile -t diwa:panda .
#   docker compose -f docker/compose.control.yaml --profile panda up
# Without ROS controllers the Panda needs none of this: robot:=fci, in any of the images. What was run: docs/docker.md.
FROM ros:humble-ros-base

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Versions are those of Ubuntu 22.04 and of Humble.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential cmake git libpoco-dev libglfw3-dev libgl1-mesa-dev libxinerama-dev libxcursor-dev \
        libxrandr-dev libxi-dev libboost-thread-dev libboost-chrono-dev libyaml-cpp-dev ninja-build \
        python3-vcstool python3-rosdep python3-colcon-common-extensions \
    && rm -rf /var/lib/apt/lists/*

# multipanda_ros2 asks for these three by version: the newest libfranka for a Panda, an Eigen older than Ubuntu's, MuJoCo.
ARG LIBFRANKA=0.9.2
ARG EIGEN=3.3.9
ARG MUJOCO=3.1.6
WORKDIR /franka/libraries
RUN git clone --depth 1 --branch "$EIGEN" https://gitlab.com/libeigen/eigen.git \
    && cmake -S eigen -B eigen/build -DBUILD_TESTING=OFF && cmake --install eigen/build \
    && git clone --depth 1 --branch "$LIBFRANKA" --recurse-submodules https://github.com/frankaemika/libfranka.git \
    && cmake -S libfranka -B libfranka/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTS=OFF -DBUILD_EXAMPLES=OFF \
    && cmake --build libfranka/build && cmake --install libfranka/build \
    && git clone --depth 1 --branch "$MUJOCO" https://github.com/google-deepmind/mujoco.git \
    && cmake -S mujoco -B mujoco/build -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DMUJOCO_BUILD_TESTS=OFF -DMUJOCO_BUILD_EXAMPLES=OFF -DMUJOCO_BUILD_SIMULATE=OFF \
    && cmake --build mujoco/build && cmake --install mujoco/build \
    && ldconfig && rm -rf /franka/libraries/*

WORKDIR /franka
COPY docker/franka/panda.repos docker/franka/build.sh ./
RUN ./build.sh panda.repos franka_bringup franka_control2 franka_gripper franka_robot_state_broadcaster \
        franka_controllers crisp_controllers

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
