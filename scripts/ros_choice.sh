# The one place that decides which ROS 2 this workspace uses. Sourced by scripts/setup.sh and env.sh (bash and zsh).
#
# A ROS 2 install is used when its setup file was sourced (ROS_DISTRO is set) and its python3 can import rclpy;
# else the ROS 2 wheels go into .venv. DIWA_ROS=wheels or DIWA_ROS=system settles it by hand; env.sh exports DIWA_ROS,
# so that a shell prepared with the wheels is not mistaken for one with a ROS 2 install. DIWA_WHEELS=jazzy takes the
# wheels of Jazzy, which have a set-up of their own in .jazzy/, instead of Kilted's.

# Sets diwa_ros to "wheels kilted", "wheels jazzy" or "system <distro> <prefix>", diwa_home to the folder that holds
# .venv, build, install and log, diwa_ros_message to the line that says so and diwa_ros_warning to a second line or
# nothing. Needs diwa_root. Returns 1, with the reason in diwa_ros_message, if the variables ask for what is not there.
diwa_choose_ros() {
    diwa_ros_warning=
    diwa_home=$diwa_root
    case "${DIWA_ROS:-}" in
        '' | wheels | system) ;;
        *)
            diwa_ros_message="DIWA_ROS is '$DIWA_ROS'; it can be 'wheels', 'system' or unset"
            return 1
            ;;
    esac
    if [ "${DIWA_ROS:-${DIWA_WHEELS:+wheels}}" != wheels ] && [ -n "${ROS_DISTRO:-}" ]; then
        if python3 -c 'import rclpy' >/dev/null 2>&1; then
            diwa_system_ros
            return 0
        fi
        diwa_ros_warning="ROS_DISTRO is '$ROS_DISTRO', but python3 ($(command -v python3 || echo none)) cannot import rclpy"
    fi
    if [ "${DIWA_ROS:-}" = system ]; then
        diwa_ros_message="DIWA_ROS is 'system', but no ROS 2 is sourced whose python3 can import rclpy: source /opt/ros/<distro>/setup.bash"
        return 1
    fi
    diwa_wheels_ros
}

diwa_wheels_ros() {
    case "${DIWA_WHEELS:-kilted}" in
        kilted) ;;
        jazzy) diwa_home=$diwa_root/.jazzy ;;
        *)
            diwa_ros_message="there are no wheels of ROS 2 '$DIWA_WHEELS'; there are wheels of kilted and jazzy (make setup ROS=jazzy)"
            return 1
            ;;
    esac
    diwa_ros="wheels ${DIWA_WHEELS:-kilted}"
    diwa_ros_message="ROS 2 ${DIWA_WHEELS:-kilted} from wheels (no ROS 2 install is sourced)"
    [ "${DIWA_ROS:-}" != wheels ] || diwa_ros_message="ROS 2 ${DIWA_WHEELS:-kilted} from wheels (DIWA_ROS=wheels)"
}

# The distribution is known to be there; its prefix is the one that carries rclpy (overlays may stand before it).
diwa_system_ros() {
    diwa_ros_prefix=$(python3 -c 'import os
print(next((p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if os.path.isdir(os.path.join(p, "share", "rclpy"))), ""))')
    diwa_ros="system $ROS_DISTRO $diwa_ros_prefix"
    diwa_ros_message="ROS 2 $ROS_DISTRO as installed in ${diwa_ros_prefix:-(unknown prefix)}"
    case "$ROS_DISTRO" in
        humble | jazzy | kilted) ;;
        *) diwa_ros_warning="ROS 2 $ROS_DISTRO is not one this software was made for (humble, jazzy, kilted); going on" ;;
    esac
}
