#!/usr/bin/env bash
# colcon test for each package (or those named), then lint and types, then a table: test.sh [PACKAGE...]
# The tests wait for states and pass beside other work. Those of the world model and the conventions run beside each other
# and lint; the others start whole graphs of nodes, which fill two cores by themselves, and run one after the other.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/packages.sh
. ./env.sh

results=$diwa_home/log/test
outcomes=$results/packages
lint=$results/lint

main() {
    local package packages
    packages=$(selected_packages "$@")
    rm -rf "$results"
    mkdir -p "$results"
    if [ -z "${1:-}" ]; then
        test_package diwa_worldmodel &
        check_code
        test_package diwa_msgs
        wait
        packages=$(grep -vxE 'diwa_(worldmodel|msgs)' <<<"$packages")
    fi
    for package in $packages; do
        test_package "$package"
    done
    [ -z "${1:-}" ] || check_code "$@"
    python scripts/test_summary.py "$diwa_home/build" "$outcomes" "$lint"
}

check_code() {
    DIWA_LINT_RESULTS=$lint scripts/lint.sh "$@" || true
}

test_package() {
    local package=$1 output=$results/$1.log started=$SECONDS status=0
    # Results of an earlier run must not count for a run that wrote none.
    rm -rf "$diwa_home/build/$package/pytest.xml" "$diwa_home/build/$package/test_results"
    python -m colcon --log-base "$diwa_home/log" test --base-paths src \
        --build-base "$diwa_home/build" --install-base "$diwa_home/install" --packages-select "$package" --return-code-on-test-failure \
        --event-handlers console_direct+ console_start_end- >"$output" 2>&1 || status=$?
    echo "test: $package ... $((SECONDS - started)) s"
    echo "$package $status $((SECONDS - started))" >>"$outcomes"
    if [ $status != 0 ]; then
        tail -n 150 "$output"
        echo "test: $package failed; the whole output is in $output"
    fi
}

main "$@"
