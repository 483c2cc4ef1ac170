"""The Panda's control interface (FCI, protocol 5) in software, so that the real clients have a robot to drive.

Written from the published message layouts (libfranka-common); what is emulated and what is not: README of diwa_sim.
``python -m diwa_sim.fci --help`` starts it by itself.
"""
