#!/usr/bin/env bash
# The fci driver against franka-sim, an FR3 in software that has the robot's limits and reflexes. It pins an old numpy
# and an old MuJoCo: a venv of its own, built once. It would download a model: it gets that of franky-sim.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./env.sh

venv=.venv-reflexes
wanted="franka-sim==1.1.7 numpy==1.26.4 mujoco==3.2.7"

build() {
    if [ "$(cat "$venv/built" 2>/dev/null)" = "$wanted" ]; then return; fi
    rm -rf "$venv"
    echo "test-reflexes: building $venv ($wanted)"
    python -m venv "$venv"
    echo '*' >"$venv/.gitignore"
    # shellcheck disable=SC2086  # one word a package
    env -u PYTHONPATH "$venv/bin/pip" install --quiet $wanted
    echo "$wanted" >"$venv/built"
}

build
cd src/diwa_robot
python -m pytest -q -rs test/test_fci_reflexes.py "$@"
