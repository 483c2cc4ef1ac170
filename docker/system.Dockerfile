# The workspace beside a ROS 2 install.
#   docker build -f docker/system.Dockerfile --build-arg ROS_DISTRO=jazzy -t diwa:jazzy .      (humble, jazzy or kilted)
#   docker run --rm -it --network host diwa:jazzy diwa doctor
# Not built yet: there was no docker engine where it was written. Each step is what `make setup` does on a machine.
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /diwa
COPY requirements/apt.txt requirements/
RUN apt-get update \
    && sed -n 's/^\(build\|rendering\): //p' requirements/apt.txt | sed 's/python3\.11/python3/g' \
        | xargs apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*
COPY . .
# The setup files of ROS 2 read variables that may be unset.
RUN set +u && source "/opt/ros/$ROS_DISTRO/setup.bash" && set -u && make setup && rm -rf ~/.cache

ENTRYPOINT ["/ros_entrypoint.sh", "/bin/bash", "-c", "source /diwa/env.sh && exec \"$@\"", "diwa"]
CMD ["bash"]
