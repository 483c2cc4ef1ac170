# The workspace with the ROS 2 wheels, on plain Debian 12 (x86-64 only: there are no wheels for aarch64).
#   docker build -f docker/wheels.Dockerfile -t diwa:wheels .
#   docker run --rm -it --network host diwa:wheels diwa doctor
# Not built yet: there was no docker engine where it was written. Each step is what `make setup` does on a machine.
FROM debian:12-slim

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /diwa
COPY requirements/apt.txt requirements/
RUN apt-get update \
    && sed -n 's/^\(build\|rendering\): //p' requirements/apt.txt \
        | xargs apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY . .
RUN make setup && rm -rf ~/.cache

ENTRYPOINT ["/bin/bash", "-c", "source /diwa/env.sh && exec \"$@\"", "diwa"]
CMD ["bash"]
