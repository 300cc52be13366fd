"""Rewards that misbehave: each is refused with its name, counted as an outcome, or kept from touching training."""

import asyncio
import os
import random
import re
import signal
import sys
import threading
import time
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset

from rlft import SHEARConfig, SHEARTrainer
from rlft.rewards import PerSample, RewardError, checked, per_sample
from tests.faults.misbehaving import subject
from tests.trainers.conftest import parity

THREE = ["first", "second", "third"]
Reward = Callable[..., Any]


class Unshowable:
    """A score that cannot even be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Liar(list[float]):
    """A list that is longer than it says."""

    def __len__(self) -> int:
        raise RuntimeError("no length")


def deep(completions: list[str], **_: Any) -> Any:
    return deep(completions)


def stop(completions: list[str], **_: Any) -> Any:
    return [next(iter(())) for _ in completions]


async def inner(completions: list[str], **_: Any) -> list[float]:
    return [1.0 for _ in completions]


def not_awaited(completions: list[str], **_: Any) -> Any:
    found = inner(completions)
    found.close()
    return found


def shortens(completions: list[str], **_: Any) -> Any:
    completions.pop()
    return [1.0] * len(completions)


REFUSED: dict[str, tuple[Reward, str]] = {
    "generator": (lambda completions, **_: (1.0 for _ in completions), "returned a generator"),
    "map": (lambda completions, **_: map(len, completions), "returned a map"),
    "nested list": (lambda completions, **_: [[1.0]] * 3, r"returned \[1.0\] \(list\) for completion 0"),
    "coroutine that nobody awaited": (not_awaited, "returned a coroutine"),
    "its own completions": (lambda completions, **_: completions, r"returned 'first' \(str\)"),
    "decimal": (lambda completions, **_: [Decimal(1)] * 3, r"returned Decimal\('1'\)"),
    "huge int": (lambda completions, **_: [10**5000] * 3, "cannot be shown.*finite number"),
    "unshowable": (lambda completions, **_: [Unshowable()] * 3, "cannot be shown: no"),
    "list without a length": (lambda completions, **_: Liar([1.0]), "RuntimeError: no length"),
    "tensor of two dimensions": (lambda completions, **_: torch.ones(3, 1), "returned a Tensor"),
    "tensor on no device": (lambda completions, **_: torch.ones(3, device="meta"), "raised|returned"),
    "recursion": (deep, "raised RecursionError"),
    "StopIteration": (stop, "raised StopIteration"),
    "MemoryError": (lambda completions, **_: bytearray(2**62), "raised MemoryError"),
    "wrong signature": (lambda texts: [1.0] * len(texts), "raised TypeError.*completions"),
    "column that is not there": (lambda completions, gold, **_: gold, "raised TypeError.*gold"),
    "fewer completions than it was given": (shortens, "returned 2 values for 3 completions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name(case: str) -> None:
    reward, message = REFUSED[case]
    with pytest.raises(RewardError, match=f"(?s)reward .*{message}") as refused:
        checked(reward)(completions=THREE)
    assert "lambda" in str(refused.value) or reward.__name__ in str(refused.value)


def seeds() -> None:
    random.seed(0), np.random.seed(0), torch.manual_seed(0)


def draws() -> None:
    random.random(), np.random.rand(), torch.rand(1)


def leaves_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def forks() -> None:
    if pid := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def handles() -> None:
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


CONTAINED: dict[str, Callable[[], Any]] = {
    "seeds": seeds,
    "draws": draws,
    "directory": lambda: os.chdir("/"),
    "gradients off": lambda: torch.set_grad_enabled(False),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads of torch": lambda: torch.set_num_threads(2),
    "warnings as errors": lambda: warnings.simplefilter("error"),
    "signal handlers": handles,
    "pending alarm": lambda: signal.setitimer(signal.ITIMER_REAL, 3600),
    "fork": forks,
    "thread": leaves_a_thread,
    "flood": lambda: sys.stdout.write("x" * 10**6),
}


def state() -> list[Any]:
    """What training lives on in this process."""
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        os.getcwd(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        warnings.filters[:],
        [signal.getsignal(number) for number in signal.valid_signals()],
        signal.getitimer(signal.ITIMER_REAL),
    ]


@pytest.mark.parametrize("how", ["returns", "raises", "is awaited"])
@pytest.mark.parametrize("case", CONTAINED)
def test_the_process_is_as_it_was(case: str, how: str) -> None:
    def reward(completions: list[str], **_: Any) -> list[float]:
        CONTAINED[case]()
        if how == "raises":
            raise KeyError(case)
        return [1.0] * 3

    async def awaited(completions: list[str], **_: Any) -> list[float]:
        return reward(completions)

    before = state()
    if how == "raises":
        with pytest.raises(RewardError, match=case):
            checked(reward)(completions=THREE)
    elif how == "is awaited":
        assert asyncio.run(checked(awaited)(completions=THREE)) == [1.0] * 3
    else:
        assert checked(reward)(completions=THREE) == [1.0] * 3
    assert state() == before


def test_overlapping_async_rewards_leave_the_process_as_it_was() -> None:
    async def reward(completions: list[str], wait: float, **_: Any) -> list[float]:
        seeds()
        await asyncio.sleep(wait)
        draws()
        return [1.0] * 3

    async def both() -> None:
        first, second = (checked(reward)(completions=THREE, wait=wait) for wait in (0.0, 0.02))
        await asyncio.gather(first, second)

    before = state()
    asyncio.run(both())
    assert state() == before


def test_random_scores_differ_between_batches_and_repeat_with_the_batch() -> None:
    def noise(completions: list[str], **_: Any) -> list[float]:
        return [random.random() + np.random.rand() + float(torch.rand(1)) for _ in completions]

    once, other, again = (checked(noise)(completions=batch) for batch in (THREE, THREE[::-1], THREE))
    assert once == again
    assert once != other


def test_changed_arguments_reach_neither_the_next_reward_nor_the_dataset() -> None:
    def vandal(completions: Any, prompts: Any, facts: Any, completion_ids: Any, **_: Any) -> list[float]:
        completions[0][-1]["content"] = "changed"
        prompts.reverse()
        facts[1]["gold"].clear()
        completion_ids[0].append(7)
        return [1.0, 1.0]

    def batch() -> dict[str, Any]:
        return {
            "completions": [[{"role": "assistant", "content": text}] for text in "ab"],
            "prompts": ["p", "q"],
            "facts": [{"gold": ["x"]}, {"gold": ["y"]}],
            "completion_ids": [[1], [2]],
        }

    given = batch()
    checked(vandal)(**given)
    assert given == batch()


class Named(NamedTuple):
    ids: list[int]


def test_no_container_hides_what_is_changed_from_the_copy() -> None:
    def vandal(completions: Any, facts: Any, pairs: Any, counted: Any, **_: Any) -> list[float]:
        assert (type(facts[0]), facts[0].default_factory, type(pairs[1])) == (defaultdict, list, Named)
        facts[0]["gold"].append("changed")
        facts[0]["new"].append("made by its default")
        pairs[0][1].clear(), pairs[1].ids.clear()
        counted["a"] += 1
        return [1.0, 1.0]

    def batch() -> dict[str, Any]:
        facts = [defaultdict(list, gold=["x"]), OrderedDict(gold=["y"])]
        pairs = [("p", [1]), Named([2])]
        return {"completions": ["a", "b"], "facts": facts, "pairs": pairs, "counted": Counter("aab")}

    given = batch()
    checked(vandal)(**given)
    assert given == batch()


def test_what_a_reward_was_warned_of_is_not_taken_for_known_after_it() -> None:
    """Python remembers which warnings it has shown, until it is told that the filters are others."""

    def warn() -> None:
        warnings.warn("from one line of code, which is shown once by default", UserWarning, stacklevel=1)

    def reward(completions: list[str], **_: Any) -> list[float]:
        warnings.simplefilter("default")
        warn()
        return [1.0] * 3

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("error", UserWarning)
        checked(reward)(completions=THREE)
        with pytest.raises(UserWarning, match="shown once by default"):
            warn()


def test_a_vandal_trains_as_its_well_behaved_twin(
    random_model: Path, prompts: Dataset, grpo_arguments: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Bit for bit, sampling included."""

    def vandal(completions: list[str], **columns: Any) -> list[float]:
        scores = parity(completions)
        for name in ("seeds", "draws", "gradients off", "default dtype", "directory", "warnings as errors"):
            CONTAINED[name]()
        completions.clear(), columns["prompts"].clear()
        return scores

    def trained(reward: Reward) -> tuple[list[torch.Tensor], list[dict[str, float]]]:
        config = SHEARConfig(**grpo_arguments(output_dir=str(tmp_path / reward.__name__), credit="constant"))
        trainer = SHEARTrainer(str(random_model), reward, config, train_dataset=prompts)
        trainer.train()
        log = [{name: row[name] for name in ("loss", "reward", "grad_norm")} for row in trainer.state.log_history[:-1]]
        return [parameter.detach().clone() for parameter in trainer.model.parameters()], log

    (weights, log), (expected, expected_log) = trained(vandal), trained(parity)
    assert log == expected_log
    assert all(map(torch.equal, weights, expected))
    assert log[0]["reward"] != log[1]["reward"]


COUNTED = {
    "text number": r"returned '1.0' \(str\)",
    "huge int": "cannot be shown",
    "generator": r"\(generator\), not a finite number",
    "unpicklable": r"\(function\), not a finite number",
    "recursion": "RecursionError",
    "import": "no_such_module",
    "interrupt": "KeyboardInterrupt",
    "memory": "MemoryError",
    "kill": "died with exit code -9",
}
HARMLESS = {"flood": 1.0, "directory": 1.0, "thread": 1.0, "fork": 1.0, "fork and die": 3.0, "closed output": 1.0}


@pytest.fixture(scope="module")
def isolated() -> Iterator[PerSample]:
    reward = per_sample(subject, processes=1, max_error_rate=1.0, timeout=20.0, memory_mb=16_384)
    yield reward
    reward.close()


def test_samples_that_misbehave_cost_themselves(isolated: PerSample, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one batch, after and before samples that do not; what ends badly is an error and says how."""
    details: list[str] = []
    collect = isolated._collect

    def remember(future: Any) -> Any:
        scored = collect(future)
        details.append(scored.detail)
        return scored

    monkeypatch.setattr(isolated, "_collect", remember)
    scores = isolated(completions=[*HARMLESS, *COUNTED, "flood"])
    assert scores == [*HARMLESS.values(), *[None] * len(COUNTED), 1.0]
    assert isolated.outcomes["error"] == len(COUNTED)
    for expected, detail in zip(COUNTED.values(), details[-1 - len(COUNTED) : -1], strict=True):
        assert re.search(expected, detail)


def test_a_function_that_remembers_does_so_per_child(isolated: PerSample) -> None:
    """Stateful functions are allowed: the second call in a child counts on from the first."""
    first, second = isolated(completions=["calls", "calls"])
    assert second == (first or 0.0) + 1


def test_a_pool_that_broke_down_begins_again(isolated: PerSample, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does where a child died before it was known which sample it was at."""
    collect, broken = isolated._collect, [BrokenProcessPool("All workers expired")]

    def breaks(future: Any) -> Any:
        if broken:
            raise broken.pop()
        return collect(future)

    monkeypatch.setattr(isolated, "_collect", breaks)
    assert isolated(completions=["flood", "flood"]) == [1.0, 1.0]
