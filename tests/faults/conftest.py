"""The tiny models and runs of the trainers' tests."""

from tests.trainers.conftest import _one_thread, grpo_arguments, prompts, random_model

__all__ = ["_one_thread", "grpo_arguments", "prompts", "random_model"]
