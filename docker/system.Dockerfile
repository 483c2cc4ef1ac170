# The workspace beside a ROS 2 install.
#   docker build -f docker/system.Dockerfile --build-arg ROS_DISTRO=jazzy -t diwa:jazzy .      (humble, jazzy or kilted)
#   docker run --rm -it --network host diwa:jazzy diwa doctor
# What of this was run and what was not: docs/docker.md.
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /diwa
COPY requirements/apt.txt requirements/
# Versions are those of the release.
# hadolint ignore=DL3008
RUN apt-get update \
    && sed -n 's/^\(build\|rendering\|hardware\): //p' requirements/apt.txt | sed 's/python3\.11/python3/g' \
        | xargs apt-get install -y --no-install-recommends "ros-$ROS_DISTRO-joy" \
    && rm -rf /var/lib/apt/lists/*
COPY . .
# The setup files of ROS 2 read variables that may be unset.
# hadolint ignore=SC1091
RUN set +u && . "/opt/ros/$ROS_DISTRO/setup.bash" && set -u \
    && make setup EXTRA=hardware && rm -rf ~/.cache

COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["bash"]
