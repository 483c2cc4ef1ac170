# The workspace with the ROS 2 wheels, on plain Debian 12 (x86-64 only: there are no wheels for aarch64). Two images:
#   docker build -f docker/wheels.Dockerfile --target cpu -t diwa:cpu .     docker run --rm -it diwa:cpu        (make demo)
#   docker build -f docker/wheels.Dockerfile --target gpu -t diwa:gpu .     docker run --rm -it --gpus all diwa:gpu bash
# The second needs an NVIDIA driver and its container toolkit on the host; CUDA itself comes with torch.
# What of this was run and what was not: docs/docker.md.
FROM debian:12-slim AS system

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /diwa
COPY requirements/apt.txt requirements/
# Versions are those of Debian 12.
# hadolint ignore=DL3008
RUN apt-get update \
    && sed -n 's/^\(build\|rendering\|hardware\): //p' requirements/apt.txt \
        | xargs apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]

FROM system AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility
COPY . .
RUN make setup EXTRA="hardware lerobot" && rm -rf ~/.cache
CMD ["bash"]

# Last, and so what is built without --target.
FROM system AS cpu
# The build of torch without CUDA, 4 GB smaller, goes by the same version number.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY . .
RUN make setup EXTRA=hardware && rm -rf ~/.cache
CMD ["make", "demo"]
