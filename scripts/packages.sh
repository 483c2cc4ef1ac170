# Names of the workspace's packages. Sourced, in the workspace's root.

# selected_packages [PACKAGE]: all packages in src/, or the one named, which must be there
selected_packages() {
    local manifests=(src/*/package.xml)
    if [ -n "${1:-}" ]; then
        manifests=("src/$1/package.xml")
        if [ ! -e "${manifests[0]}" ]; then
            echo "no package '$1' in src/; there are:" src/*/ >&2
            return 1
        fi
    fi
    printf '%s\n' "${manifests[@]}" | sed 's#^src/\(.*\)/package.xml$#\1#'
}
