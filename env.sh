# Prepares a shell: ROS 2, the Python environment and this workspace's packages.  Usage: source env.sh  (bash or zsh)
# Works from any folder, more than once, and in scripts with `set -eu`. Before `make setup` it says so and returns 1.
# DIWA_WHEELS=jazzy takes what `make setup ROS=jazzy` set up, where Kilted is set up too.

if [ -n "${BASH_VERSION:-}" ]; then
    diwa_root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
    diwa_shell=bash
elif [ -n "${ZSH_VERSION:-}" ]; then
    diwa_root=$(cd "$(dirname "${(%):-%x}")" && pwd -P)
    diwa_shell=zsh
else
    echo "env.sh needs bash or zsh" >&2
    return 1
fi

diwa_say() {
    echo "env.sh: $*" >&2
}

# Where only one release is set up, that one.
diwa_find_setup() {
    if [ -z "${DIWA_WHEELS:-}" ] && [ ! -e "$diwa_root/.venv/diwa-ros" ] && [ -e "$diwa_root/.jazzy/.venv/diwa-ros" ]; then
        DIWA_WHEELS=jazzy
    fi
    # A fresh shell may use the ROS 2 install without having sourced it.
    diwa_built=$(cat "$diwa_root/.venv/diwa-ros" 2>/dev/null)
    if [ "${diwa_built%% *}" = system ] && [ -z "${ROS_DISTRO:-}${DIWA_WHEELS:-}" ] &&
        [ -e "${diwa_built##* }/setup.$diwa_shell" ]; then
        . "${diwa_built##* }/setup.$diwa_shell"
    fi
}

# The ROS 2 that `make setup` chose must be the one that this shell would choose.
diwa_check_choice() {
    if ! diwa_choose_ros; then
        diwa_say "$diwa_ros_message"
        return 1
    fi
    if [ ! -e "$diwa_home/install/.diwa-built" ] || ! [ -x "$diwa_home/.venv/bin/python" ]; then
        diwa_say "$diwa_home is not set up: run make setup${DIWA_WHEELS:+ ROS=$DIWA_WHEELS} in $diwa_root first"
        return 1
    fi
    diwa_built=$(cat "$diwa_home/.venv/diwa-ros")
    if [ "$diwa_ros" != "$diwa_built" ]; then
        diwa_explain_mismatch
        return 1
    fi
}

diwa_explain_mismatch() {
    if [ "${diwa_ros%% *}" = wheels ]; then
        diwa_say "set up beside the ROS 2 install '${diwa_built#system }': source that first, or run make setup"
    elif [ "${diwa_built%% *}" = wheels ]; then
        diwa_say "set up with the ROS 2 wheels, but ROS 2 $ROS_DISTRO is sourced here: run make setup to build with that," \
            "or use a shell without it (or export DIWA_ROS=wheels)"
    else
        diwa_say "set up beside '${diwa_built#system }', but '${diwa_ros#system }' is sourced here: run make setup"
    fi
}

diwa_prepare() {
    . "$diwa_root/scripts/ros_choice.sh"
    . "$diwa_root/scripts/ros_environment.sh"
    diwa_find_setup
    diwa_check_choice || return 1
    diwa_ros_environment
    . "$diwa_home/install/setup.$diwa_shell"
}

# Setup files of ROS 2 read variables that may be unset and commands that may fail.
diwa_options=$-
set +eu
diwa_prepare
diwa_status=$?
case $diwa_options in *u*) set -u ;; esac
case $diwa_options in *e*) set -e ;; esac
unset -f diwa_say diwa_find_setup diwa_check_choice diwa_explain_mismatch diwa_prepare
unset diwa_options diwa_shell
return $diwa_status
