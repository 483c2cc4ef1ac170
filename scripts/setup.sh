#!/usr/bin/env bash
# Makes .venv, installs what requirements/ names and builds the workspace; does only what is missing or has changed.
#   PYTHON=python3.12   interpreter to use (default: python3.11, else another for which wheels exist)
#   EXTRA=lerobot       also install what reads and writes LeRobot data sets; EXTRA=hardware the robot's, cameras' and
#                       operators' own libraries; EXTRA='lerobot hardware' both
#   DIWA_ROS=wheels     do not use a sourced ROS 2 install (see ros_choice.sh)
#   DIWA_WHEELS=jazzy   wheels of Jazzy instead of Kilted; everything goes into .jazzy/ (make setup ROS=jazzy)
#   VERBOSE=1           show the output of every phase
set -euo pipefail

diwa_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$diwa_root"
. scripts/ros_choice.sh
. scripts/ros_environment.sh
. scripts/packages.sh

needed_mib=3000
cuda_mib=6500 # where pip takes the CUDA build of torch

main() {
    choose_ros
    enter_home
    choose_python
    make_venv
    install_packages
    install_extras
    build_workspace
}

fail() {
    echo "setup: error: $*" >&2
    exit 1
}

# The folder of the chosen release: .venv, build, install and log lie in it.
enter_home() {
    mkdir -p "$diwa_home/log"
    cd "$diwa_home"
    venv=$diwa_home/.venv
    log=$diwa_home/log/setup.log
    wait_for_other_setup
}

wait_for_other_setup() {
    command -v flock >/dev/null || return 0
    exec 9>log/setup.lock
    flock -n 9 && return 0
    echo "setup: waiting for another setup of this workspace"
    flock 9
}

# phase NAME COMMAND...: one line, the output in a log file; on failure its end and one clear message
phase() {
    local name=$1 started=$SECONDS
    shift
    printf 'setup: %s ... ' "$name"
    if [ -n "${VERBOSE:-}" ]; then
        echo
        "$@" 2>&1 9>&- | tee "$log" || explain_failure "$name"
    else
        "$@" >"$log" 2>&1 9>&- || explain_failure "$name"
    fi
    echo "$((SECONDS - started)) s"
}

explain_failure() {
    echo "failed"
    if [ -z "${VERBOSE:-}" ]; then
        grep -v '^WARNING: Location' "$log" | cut -c1-400 | tail -n 15 >&2
    fi
    if grep -qi 'no space left on device' "$log" || [ "$(free_mib)" -lt 50 ]; then
        fail "$1: the disk is full ($(free_mib) MiB left in $diwa_root, about $needed_mib needed, $cuda_mib with the CUDA build of torch); make room and run make setup again"
    elif grep -qiE 'failed to establish a new connection|name resolution|connection (refused|reset|broken)|timed out|proxyerror|network is unreachable' "$log"; then
        fail "$1: the package index cannot be reached; check the network or proxy and run make setup again"
    elif grep -qE 'ResolutionImpossible|No matching distribution found|Ignored the following versions that require a different python' "$log"; then
        fail "$1: what requirements/ pins does not fit $diwa_ros with Python $python_version, or the index lacks it (lines above); docs/results/installs.md lists what fits, scripts/resolve.sh says why not"
    fi
    fail "$1 failed; the whole output is in $log"
}

free_mib() {
    df -Pm "$diwa_root" | awk 'NR == 2 { print $4 }'
}

hash_of() {
    cat "$@" | sha256sum | cut -c1-16
}

content() {
    if [ -e "$1" ]; then cat "$1"; fi
}

# ---- which ROS 2, which Python ----

choose_ros() {
    diwa_choose_ros || fail "$diwa_ros_message"
    [ -z "$diwa_ros_warning" ] || echo "setup: warning: $diwa_ros_warning" >&2
    # pip counts whatever is on PYTHONPATH as installed.
    if [ "${diwa_ros%% *}" = wheels ]; then
        unset PYTHONPATH
    else
        PYTHONPATH=$(diwa_without "${PYTHONPATH:-}" "$diwa_root/install")
    fi
}

# Sets python (the interpreter itself, not a shim or another environment's) and python_version.
choose_python() {
    if [ -z "${PYTHON:-}" ] && venv_is_usable; then
        python=$(sed -n 2p .venv/diwa-key)
        read -r python_version _ < <(probe .venv/bin/python)
    elif [ "${diwa_ros%% *}" = system ]; then
        use_python "${PYTHON:-python3}" || fail "${PYTHON:-python3} does not run"
        "$python" -c 'import rclpy' 2>/dev/null || fail "$python cannot import rclpy of ROS 2 $ROS_DISTRO; leave out PYTHON"
    else
        choose_python_for_wheels
    fi
    echo "setup: $diwa_ros_message, Python $python_version"
}

# made for this ROS 2, in this folder, and its interpreter still runs
venv_is_usable() {
    [ ! -e .venv/diwa-installing ] && [ "$(sed -n '1p;3p' .venv/diwa-key 2>/dev/null)" = "$diwa_ros"$'\n'"$diwa_home" ] &&
        probe .venv/bin/python >/dev/null
}

choose_python_for_wheels() {
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        fail "ROS 2 wheels exist for Linux on x86_64 only, and this is $(uname -sm): source a ROS 2 install (Humble, Jazzy, Kilted) or use docker/"
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3}; do
        if use_python "$candidate" && [[ $python_kind == CPython && $python_version =~ ^3\.1[0-3]$ ]]; then
            return
        fi
    done
    local seen="none of these is on the path"
    if [ -n "${PYTHON:-}" ]; then seen="'$PYTHON' is $(probe "$PYTHON" | cut -d' ' -f1-2 | grep . || echo "not there")"; fi
    fail "ROS 2 wheels exist for CPython 3.10 to 3.13, and $seen: install python3.11 or name another (make setup PYTHON=...)"
}

# A shim on the path may name a Python that is not there: the candidate has to run.
probe() {
    "$1" -c '
import importlib.util, os, platform, sys, sysconfig
print("%d.%d" % sys.version_info[:2], platform.python_implementation(),
      "venv" if importlib.util.find_spec("ensurepip") else "-",
      "headers" if os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")) else "-",
      os.path.realpath(getattr(sys, "_base_executable", sys.executable)))' 2>/dev/null
}

use_python() {
    local answer
    answer=$(probe "$1") || return 1
    read -r python_version python_kind python_venv python_headers python <<<"$answer"
}

check_build_tools() {
    local missing=
    [ "$python_venv" = venv ] || missing="$missing python${python_version}-venv"
    [ "$python_headers" = headers ] || missing="$missing python${python_version}-dev"
    { command -v cc && command -v c++; } >/dev/null || missing="$missing build-essential"
    [ -z "$missing" ] || fail "missing system packages: sudo apt install$missing"
    [ "$(free_mib)" -ge $needed_mib ] ||
        fail "only $(free_mib) MiB are free in $diwa_root; about $needed_mib are needed, $cuda_mib with the CUDA build of torch"
    [ "$(free_mib)" -ge $cuda_mib ] ||
        echo "setup: warning: $(free_mib) MiB are free; about $cuda_mib are needed if pip takes the CUDA build of torch" >&2
}

# ---- virtual environment ----

make_venv() {
    if [ -z "${PYTHON:-}" ] && venv_is_usable; then return; fi
    local key="$diwa_ros"$'\n'"$python"$'\n'"$diwa_home"
    if [ "$(content .venv/diwa-key)" = "$key" ] && venv_is_usable; then return; fi
    use_python "$python"
    check_build_tools
    rm -rf .venv build install
    phase "virtual environment" new_venv
    echo "$key" >.venv/diwa-key
    echo "$diwa_ros" >.venv/diwa-ros
}

new_venv() {
    local options=()
    if [ "${diwa_ros%% *}" = system ]; then options=(--system-site-packages); fi
    "$python" -m venv "${options[@]}" .venv
}

# ---- packages ----

install_packages() {
    local lists constraints=$diwa_root/requirements/constraints.txt arm_model=$diwa_root/requirements/arm-model.txt key
    mapfile -t lists < <(requirement_lists "$diwa_ros")
    key=$(hash_of "${lists[@]}" "$constraints" "$arm_model")
    if [ "$(content .venv/diwa-packages)" = "$key" ]; then return; fi
    # A killed pip may leave half a package that counts as installed: with this mark the next run starts from nothing.
    touch .venv/diwa-installing
    rm -f .venv/diwa-packages
    phase "Python packages (a minute or more)" pip_install "${lists[@]/#/-r}" "-c$constraints"
    phase "Franka arm model" pip_install --no-deps -r "$arm_model"
    if [ "${diwa_ros%% *}" = wheels ]; then phase "include paths of the wheels" fix_include_paths; fi
    rm -rf build install
    echo "$key" >.venv/diwa-packages
    rm .venv/diwa-installing
}

install_extras() {
    local extra list key
    for extra in ${EXTRA:-}; do
        case $extra in
        lerobot | hardware) ;;
        *) fail "there is no EXTRA=$extra; known: lerobot, hardware" ;;
        esac
        [ "$python_version" != 3.10 ] || [ "$extra" != lerobot ] ||
            fail "EXTRA=lerobot needs Python 3.11 or above, as data sets do; this is $python_version"
        list=$diwa_root/requirements/$extra.txt
        key=$(hash_of "$list")
        if [ "$(content ".venv/diwa-$extra")" = "$key" ]; then continue; fi
        phase "extra: $extra" pip_install --no-deps --force-reinstall -r "$list"
        echo "$key" >".venv/diwa-$extra"
    done
}

pip_install() {
    # the wheels' .pth file would start python twice
    _ROS_WHEELS_BOOTSTRAP_COMPLETE=1 .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off --retries 2 "$@"
}

# The wheels carry include paths of the machine that built them; put this machine's there.
fix_include_paths() {
    local include numpy_include theirs='/opt/python/cp3[0-9]+-cp3[0-9]+' files
    include=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    numpy_include=$(.venv/bin/python -c 'import numpy; print(numpy.get_include())')
    files=$(grep -rlE "$theirs" .venv/share --include='*.cmake') || return 0
    # shellcheck disable=SC2086  # one file a word
    sed -i -E -e "s#$theirs/lib/python3\.[0-9]+/site-packages/numpy/_core/include#$numpy_include#g" \
        -e "s#$theirs/include/python3\.[0-9]+#$include#g" $files
    ! grep -rnE "$theirs" .venv/share --include='*.cmake'
}

# ---- colcon build ----

build_workspace() {
    local key
    key=$(build_key)
    if [ "$(content install/.diwa-built)" = "$key" ]; then
        echo "setup: up to date; next: source env.sh"
        return
    fi
    # A killed build starts again from nothing; one that failed goes on where it was.
    if [ -e build/.diwa-building ]; then rm -rf build install; fi
    mkdir -p build
    touch build/.diwa-building
    rm -f install/.diwa-built
    remove_old_packages
    local status=0
    (phase "colcon build" colcon_build) || status=$?
    rm build/.diwa-building
    [ $status = 0 ] || exit $status
    echo "$key" >install/.diwa-built
    echo "setup: done; next: source env.sh"
}

# Changes when something does that colcon build has to see: the list of files, what describes packages and interfaces.
build_key() {
    {
        cat "$venv/diwa-key" "$venv/diwa-packages"
        cd "$diwa_root"
        find src -type f ! -path '*/__pycache__/*' ! -path '*/.*' ! -path '*.egg-info/*' | LC_ALL=C sort
        find src -type f \( -name package.xml -o -name setup.py -o -name setup.cfg -o -name CMakeLists.txt \
            -o -name '*.msg' -o -name '*.srv' -o -name '*.action' \) -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        content colcon.meta
    } | sha256sum | cut -c1-16
}

# Packages that left src/ must leave install/ too, or they would go on being found.
remove_old_packages() {
    local folder
    for folder in install/*/; do
        if [ -d "$folder" ] && [ ! -e "$diwa_root/src/$(basename "$folder")/package.xml" ]; then
            rm -rf "$folder" "build/$(basename "$folder")"
        fi
    done
}

colcon_build() {
    diwa_ros_environment
    # colcon under this python: the executables that it installs start with its path
    python -m colcon build --symlink-install --base-paths "$diwa_root/src" --metas "$diwa_root/colcon.meta" \
        --event-handlers console_cohesion+ console_direct- \
        --cmake-args -G Ninja "-DPython3_EXECUTABLE=$venv/bin/python" -DCMAKE_UNITY_BUILD=ON \
        -DCMAKE_UNITY_BUILD_BATCH_SIZE=10 -Wno-dev
}

main "$@"
