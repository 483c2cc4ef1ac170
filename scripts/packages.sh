# Names of the workspace's packages and of the lists of what they need. Sourced, in the workspace's root.

# selected_packages [PACKAGE...]: all packages in src/, or those named, which must be there
selected_packages() {
    local manifests=(src/*/package.xml) package
    if [ $# -gt 0 ]; then
        manifests=()
        for package in "$@"; do
            if [ ! -e "src/$package/package.xml" ]; then
                echo "no package '$package' in src/; there are:" src/*/ >&2
                return 1
            fi
            manifests+=("src/$package/package.xml")
        done
    fi
    printf '%s\n' "${manifests[@]}" | sed 's#^src/\(.*\)/package.xml$#\1#'
}

# requirement_lists ROS: files of what is installed beside it, one a line; ROS is "wheels <release>" or "system ..."
requirement_lists() {
    local names
    case $1 in
        wheels\ *) names="ros-${1#wheels } ros-wheels" ;;
        *) names=ros-system ;;
    esac
    # shellcheck disable=SC2086  # one name a word
    printf "${diwa_root:-$PWD}/requirements/%s.txt\n" $names build python test
}
