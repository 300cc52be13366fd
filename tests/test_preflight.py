"""What is refused before a model is loaded, and the batch table."""

from types import SimpleNamespace
from typing import Any

import pytest

from rlft.preflight import PreflightError, check_adapter_targets, check_batch
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

ARGS = SimpleNamespace(
    generation_batch_size=64,
    num_generations=8,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=4,
    num_iterations=2,
    max_steps=10,
    num_train_epochs=1,
)


def test_batch_table_adds_up() -> None:
    table = dict(line.rsplit("  ", 1) for line in check_batch(ARGS, 100, processes=2).splitlines() if "  " in line)
    assert {key.strip(): value.strip() for key, value in table.items()} == {
        "prompts per generation batch": "8",
        "completions per prompt (group)": "8",
        "completions per generation batch": "64",
        "completions per optimiser step": "32",
        "micro-batches per step, per process": "4",
        "completions per micro-batch": "4",
        "steps on one generation batch": "4",
        "processes": "2",
        "optimiser steps": "10",
    }


def test_too_few_rows_for_one_batch() -> None:
    with pytest.raises(PreflightError, match="takes 8 prompts .* has 7 rows; lower --per_device_train_batch_size"):
        check_batch(ARGS, 7, processes=2)


@pytest.fixture(scope="module")
def config() -> Any:
    """A configuration without weights: the check must not need them."""
    return tiny_model(char_tokenizer(), hidden=32, layers=1).config


@pytest.mark.parametrize(
    "targets", ["all-linear", None, ["q_proj", "v_proj"], r".*\.(q|v)_proj", ["layers.0.mlp.up_proj"]]
)
def test_targets_that_exist(config: Any, targets: object) -> None:
    check_adapter_targets("a model", config, targets)


@pytest.mark.parametrize("targets", [["q_proj", "query_key_value"], ["proj"], r"query_key_value"])
def test_target_that_matches_nothing_is_named_with_what_exists(config: Any, targets: object) -> None:
    with pytest.raises(PreflightError, match="(query_key_value|'proj').* which has .*down_proj.*--lora_target_modules"):
        check_adapter_targets("a model", config, targets)
