"""A reward that breaks its contract in mid-training stops the run, says why, and loses nothing recorded before."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rlft import SHEARConfig, SHEARTrainer
from rlft.record.rollouts import read_rollouts
from rlft.rewards import RewardError
from tests.trainers.conftest import parity


def raises(values: list[float]) -> Any:
    raise KeyError("gold")


def hangs(values: list[float]) -> Any:
    time.sleep(60)


def one_missing(values: list[float]) -> Any:
    return values[:-1]


def not_a_number(values: list[float]) -> Any:
    return [*values[:-1], float("nan")]


def a_string(values: list[float]) -> Any:
    return [*values[:-1], "1.0"]


def all_none(values: list[float]) -> Any:
    return [None] * len(values)


def one_group_none(values: list[float]) -> Any:
    return [*values[:4], None, None, None, None, *values[8:]]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (raises, "KeyError"),
        (hangs, "reward_timeout"),
        (one_missing, "15"),
        (not_a_number, "nan"),
        (a_string, "str"),
        (all_none, "None"),
        (one_group_none, "22[+]3="),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_run_stops_with_the_reason(
    fault: Callable[[list[float]], Any],
    message: str,
    random_model: Path,
    prompts: Dataset,
    grpo_arguments: Callable[..., dict[str, Any]],
) -> None:
    calls = []

    def faulty(completions: list[str], **columns: Any) -> Any:
        calls.append(1)
        values = parity(completions, **columns)
        return values if len(calls) == 1 else fault(values)

    options = grpo_arguments(reward_timeout=2.0, credit="constant", shuffle_dataset=False)
    config = SHEARConfig(**options)
    trainer = SHEARTrainer(str(random_model), faulty, config, train_dataset=prompts)
    with pytest.raises(RewardError, match=f"(?s)(faulty.*{message}|{message}.*faulty)"):
        trainer.train()
    rows = list(read_rollouts(Path(config.output_dir) / "record"))
    assert {row.step for row in rows} == {0}
    assert len(rows) == 16


def test_none_for_some_rows_is_no_error(
    random_model: Path, prompts: Dataset, grpo_arguments: Callable[..., dict[str, Any]]
) -> None:
    """None means `does not apply`: the row keeps advantage 0 and is recorded without a reward."""

    def partial(completions: list[str], **columns: Any) -> list[float | None]:
        return [None if i % 4 == 0 else value for i, value in enumerate(parity(completions, **columns))]

    config = SHEARConfig(window=4, stride=2, **grpo_arguments(max_steps=1))
    SHEARTrainer(str(random_model), partial, config, train_dataset=prompts).train()
    rows = list(read_rollouts(Path(config.output_dir) / "record"))
    for i, row in enumerate(rows):
        assert (row.reward is None) == (i % 4 == 0)
        if row.reward is None:
            assert row.advantage == 0
            assert row.rewards == {"partial": None}
            assert set(row.credit) == {1.0}
