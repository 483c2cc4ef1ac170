# `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup test test-installs test-interfaces test-reflexes lint format demo clean distclean

# Only what the command line says: a variable of that name in somebody's shell means something else.
ifeq ($(origin ROS),command line)
export DIWA_ROS := wheels
export DIWA_WHEELS := $(ROS)
endif

help:
	@echo "make setup             .venv, packages and colcon build; quick when nothing changed (PYTHON=python3.12, VERBOSE=1)"
	@echo "make setup EXTRA=hardware  also the libraries of Franka, RealSense, Azure Kinect, VIVE and SpaceMouse"
	@echo "make setup EXTRA=lerobot   also what reads and writes LeRobot data sets (EXTRA='hardware lerobot': both)"
	@echo "make setup ROS=jazzy   the wheels of Jazzy instead of Kilted's, beside them in .jazzy/; so for test, lint and demo"
	@echo "make test              all tests, lint and types (PACKAGE='diwa_sim diwa_robot': of these packages)"
	@echo "make test-installs     resolves every list of packages for every ROS 2 and Python, and prints a table"
	@echo "make test-interfaces   the crisp driver against stand-ins for franka_msgs and control_msgs, which are built first"
	@echo "make test-reflexes     the fci driver against a simulated FR3 with limits and reflexes, in a venv of its own"
	@echo "make lint              ruff and mypy only"
	@echo "make format            rewrites the code as make lint wants it"
	@echo "make demo              the whole loop in the playroom, under 20 minutes (TASK=turn-on-LED SEED=1); again: goes on"
	@echo "make clean             removes build/, install/ and log/, of Jazzy too"
	@echo "make distclean         removes .venv/ and .jazzy/ too"
	@echo "source env.sh          prepares a shell for ros2, diwa and python"

setup:
	@PYTHON='$(PYTHON)' EXTRA='$(EXTRA)' scripts/setup.sh

test: setup
	@scripts/test.sh $(PACKAGE)

test-installs: setup
	@. ./env.sh && scripts/resolve.sh

test-interfaces: setup
	@scripts/test_interfaces.sh

test-reflexes: setup
	@scripts/test_reflexes.sh

lint: setup
	@. ./env.sh && scripts/lint.sh $(PACKAGE)

format: setup
	@. ./env.sh && ruff check --fix-only --quiet . && ruff format --quiet .

demo: setup
	@. ./env.sh && diwa demo $(if $(TASK),--task $(TASK)) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf build install log .jazzy/build .jazzy/install .jazzy/log

distclean: clean
	rm -rf .venv .jazzy
