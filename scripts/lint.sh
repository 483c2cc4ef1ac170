#!/usr/bin/env bash
# ruff check, ruff format --check and mypy over the workspace, or over the packages named: lint.sh [PACKAGE...]
# Every check runs even if one before it failed. With DIWA_LINT_RESULTS=file, writes a line "check ok|failed" for each.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/packages.sh
tools=${VIRTUAL_ENV:-.venv}/bin
results=${DIWA_LINT_RESULTS:-/dev/null}
status=0

check() {
    local name=$1 outcome=ok
    shift
    "$@" || { outcome=failed status=1; }
    echo "lint: $name $outcome"
    echo "$name $outcome" >>"$results"
}

# Importable folders only: launch files and setup.py belong to no package.
modules() {
    local package folder
    for package in $(selected_packages "$@"); do
        for folder in "src/$package"/*/; do
            if [ -e "$folder/__init__.py" ]; then echo "$folder"; fi
        done
    done
}

mypy_path() {
    printf '%s:' src/*/
}

main() {
    local folders=(.)
    if [ $# -gt 0 ]; then folders=("${@/#/src/}"); fi
    check "ruff check" "$tools/ruff" check --quiet --output-format concise "${folders[@]}"
    check "ruff format" "$tools/ruff" format --check --quiet --output-format concise "${folders[@]}"
    # shellcheck disable=SC2046  # one folder a word
    MYPYPATH=$(mypy_path) check mypy "$tools/mypy" $(modules "$@")
    return $status
}

main "$@"
