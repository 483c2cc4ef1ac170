"""DPPO: the same policy and PPO, with the environment in the place of dreams."""
