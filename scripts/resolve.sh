#!/usr/bin/env bash
# Resolves what `make setup` installs, without installing: resolve.sh prints a table of every ROS 2 and Python with all
# extras; resolve.sh ROS PYTHON [EXTRA...] resolves one, for example: resolve.sh "wheels jazzy" 3.12 hardware lerobot
# As every version is pinned, what resolves with all extras resolves without them.
# Fails where a pin has no wheel for that Python, where two requirements contradict each other, or where a package that
# no list pins would be installed. Needs the package index; downloads what packages say of themselves, not the packages.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/packages.sh
# The oldest systems that are supported, Ubuntu 22.04 (glibc 2.35) with Humble.
platform=x86_64-manylinux_2_35
# These come as source, in pure Python.
sources=(--no-binary empy --no-binary easyhid)

# resolve ROS PYTHON [EXTRA...]: what would be installed, one "name==version" a line
resolve() {
    local ros=$1 python=$2 lists extra
    shift 2
    mapfile -t lists < <(requirement_lists "$ros")
    for extra in "$@"; do lists+=("requirements/$extra.txt"); done
    uv pip compile --quiet --no-header --no-annotate --config-file requirements/exceptions.toml \
        --python-version "$python" --python-platform "$platform" --only-binary :all: "${sources[@]}" \
        --constraints requirements/constraints.txt "${lists[@]}" requirements/arm-model.txt
}

# unpinned: those of the names on stdin that no list pins
unpinned() {
    cut -d= -f1 | grep -vxFf <(grep -hoE '^[A-Za-z0-9_.-]+==' requirements/*.txt | sed 's/==//' | tr '[:upper:]_.' '[:lower:]--') || true
}

check() {
    local resolved loose
    resolved=$(resolve "$@")
    loose=$(unpinned <<<"$resolved")
    if [ -n "$loose" ]; then
        echo "no list in requirements/ pins: ${loose//$'\n'/ }" >&2
        return 1
    fi
    echo "$(wc -l <<<"$resolved") packages"
}

main() {
    if [ $# -gt 0 ]; then check "$@"; exit; fi
    printf '| ROS 2 | Python | extras | |\n|---|---|---|---|\n'
    local ros python
    for ros in "wheels kilted" "wheels jazzy"; do
        for python in 3.10 3.11 3.12 3.13; do row "$ros" "$python"; done
    done
    row "system humble" 3.10
    row "system jazzy" 3.12
    row "system kilted" 3.12
    [ "$failed" = 0 ]
}

failed=0
row() {
    # LeRobot's format needs data sets, and those Python 3.11.
    local extras=(hardware lerobot) found
    if [ "$2" = 3.10 ]; then extras=(hardware); fi
    found=$(check "$1" "$2" "${extras[@]}") || { found=FAILED failed=1; }
    echo "| $1 | $2 | ${extras[*]} | $found |"
}

main "$@"
