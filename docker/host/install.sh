#!/usr/bin/env bash
# What the machine itself needs, with containers or without: sudo docker/host/install.sh [USER]
#   udev rules for cameras and controllers, real-time limits, network buffers; USER joins the groups that they name.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
user=${1:-${SUDO_USER:-}}
root=${DIWA_HOST_ROOT:-}

main() {
    install -D -m 644 70-diwa.rules "$root/etc/udev/rules.d/70-diwa.rules"
    install -D -m 644 99-diwa-realtime.conf "$root/etc/security/limits.d/99-diwa-realtime.conf"
    install -D -m 644 60-diwa-network.conf "$root/etc/sysctl.d/60-diwa-network.conf"
    if [ -z "$root" ]; then apply; fi
    echo "installed; log in again, and plug cameras and controllers in again"
}

apply() {
    groupadd --force --system realtime
    groupadd --force --system plugdev
    if [ -n "$user" ]; then usermod --append --groups realtime,plugdev "$user"; fi
    sysctl --quiet --load /etc/sysctl.d/60-diwa-network.conf
    udevadm control --reload-rules
    udevadm trigger
}

main
