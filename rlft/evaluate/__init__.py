"""Evaluation apart from the training reward: task metrics, and held-out accuracy of a policy."""
