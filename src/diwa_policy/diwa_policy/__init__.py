"""Policies that improve in dreams: diffusion policy, reward classifier, Dream Diffusion MDP, PPO, and their trust."""

import diwa_worldmodel  # noqa: F401  (before torch: it limits how long OpenMP threads spin)
