"""Expectation-maximisation: weights of sampled trajectories, weighted fine-tuning, rounds that survive a kill."""
