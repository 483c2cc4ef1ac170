"""Policies that improve in dreams: diffusion policy, reward classifier, Dream Diffusion MDP, PPO, and their trust."""
