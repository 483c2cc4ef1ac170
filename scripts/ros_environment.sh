# Environment in which the chosen ROS 2 works, without this workspace's own packages. Sourced by scripts/*.sh and env.sh
# (bash and zsh), with diwa_root set, and diwa_ros and diwa_home as ros_choice.sh sets them.

# $1, a list of folders with colons between, without $2 and what lies below it
diwa_without() {
    printf '%s' "$1" | awk -v RS=: -v drop="$2" \
        '$0 != "" && $0 != drop && index($0, drop "/") != 1 { printf "%s%s", separator, $0; separator = ":" }'
}

diwa_ros_environment() {
    export DIWA_ROS="${diwa_ros%% *}"
    # CMake looks for Python here first.
    export VIRTUAL_ENV="$diwa_home/.venv"
    # Neither this environment twice nor the one of another release.
    PATH=$(diwa_without "$(diwa_without "$PATH" "$diwa_root/.venv")" "$diwa_root/.jazzy")
    PATH="$VIRTUAL_ENV/bin:$(diwa_without "$PATH" "$diwa_root/install")"
    export PATH
    if [ "$DIWA_ROS" = wheels ]; then
        diwa_wheels_environment
    else
        diwa_system_environment
    fi
}

diwa_wheels_environment() {
    # A ROS 2 install that was sourced before would shadow the wheels.
    unset PYTHONPATH COLCON_PREFIX_PATH
    export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
    export DIWA_WHEELS="${diwa_ros#wheels }"
    export ROS_DISTRO="$DIWA_WHEELS" ROS_VERSION=2 ROS_PYTHON_VERSION=3
    LD_LIBRARY_PATH=$(diwa_without "${LD_LIBRARY_PATH:-}" "$diwa_root")
    for _diwa_dir in "$VIRTUAL_ENV"/lib/python3.*/site-packages/ros_*.libs "$VIRTUAL_ENV/lib"; do
        LD_LIBRARY_PATH="$_diwa_dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    done
    export LD_LIBRARY_PATH
    # Without this the wheels' .pth file re-executes python at every start, to set LD_LIBRARY_PATH.
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    # Nobody else's robot on the first try. Beside a ROS 2 install the user's own settings stay.
    export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
}

# The sourced ROS 2 install as it is, less what this workspace added to the shell before.
diwa_system_environment() {
    unset DIWA_WHEELS
    PYTHONPATH=$(diwa_without "${PYTHONPATH:-}" "$diwa_root/install")
    LD_LIBRARY_PATH=$(diwa_without "${LD_LIBRARY_PATH:-}" "$diwa_root/install")
    AMENT_PREFIX_PATH=$(diwa_without "${AMENT_PREFIX_PATH:-}" "$diwa_root/install")
    CMAKE_PREFIX_PATH=$(diwa_without "${CMAKE_PREFIX_PATH:-}" "$diwa_root/install")
    COLCON_PREFIX_PATH=$(diwa_without "${COLCON_PREFIX_PATH:-}" "$diwa_root/install")
    export PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
}
