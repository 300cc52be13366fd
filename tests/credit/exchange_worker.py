"""Weighs the same random groups on one process and on all, laid out in many ways; run by test_exchange.py: OUTPUT."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator

from rlft.credit import Group
from rlft.credit.batch import Outcomes, Row
from rlft.credit.weigh import Weighed, credit_metrics, groups_to_weigh, weigh

HIDDEN, LAYOUTS = 3, [(1, 2), (1, 4), (2, 4), (3, 4), (3, 6), (4, 8), (5, 4), (6, 4), (6, 8), (7, 4), (2, 8), (4, 16)]


def credit(group: Group) -> list[torch.Tensor]:
    """Reads everything of every rollout of the group."""
    assert group.hidden is not None
    assert group.entropy is not None
    assert group.answer_start is not None
    whole = sum(states.double().sum() for states in group.hidden) + sum(nats.sum() for nats in group.entropy)
    side = group.rewards.nan_to_num().sum() + sum(group.answer_start)
    return [(ids / 200_000 + whole + side).float() for ids in group.completion_ids]


def batch(seed: int, rows: int, group_size: int) -> tuple[list[Row], Outcomes]:
    """N rows in bf16 of 0 to 6 tokens, a third of whose groups have one outcome."""
    torch.manual_seed(seed)
    lengths = torch.randint(0, 7, (rows,)).tolist()
    made = [
        Row(torch.randint(0, 200_000, (n,)), torch.randn(n, HIDDEN).bfloat16(), torch.rand(n), n // 2) for n in lengths
    ]
    correct = torch.rand(rows) < 0.5
    for number in range(0, rows // group_size, 3):
        correct[number * group_size : (number + 1) * group_size] = True
    rewards = correct.float()
    return made, Outcomes(rewards[:, None], rewards, correct, rewards - 0.5)


def sizes_sent(rows: list[Row], moved: list[int]) -> int:
    """Bytes that these rows cost: table, ids, states, entropies, and the weights on the way back."""
    return sum(16 + len(rows[i].ids_T) * (4 + 2 * HIDDEN + 4 + 4) for i in moved)


def moved_rows(numbers: list[int], group_size: int, count: int) -> list[int]:
    """Rows of straddling groups that do not lie where most of their group lies."""
    moved = []
    for number in numbers:
        indices = range(number * group_size, (number + 1) * group_size)
        ranks = [index // count for index in indices]
        home = max(sorted(set(ranks)), key=ranks.count)
        moved += [index for index, rank in zip(indices, ranks, strict=True) if rank != home]
    return moved


def compare(accelerator: Accelerator, mixed: bool) -> dict[str, Any]:
    """Largest difference of weights, and bytes sent beside what they should be."""
    alone: Any = SimpleNamespace(process_index=0, device=accelerator.device)
    credit.mixed_only = mixed  # type: ignore[attr-defined]
    worst, sent, expected = 0.0, 0.0, 0
    for seed, (count, group_size) in enumerate(LAYOUTS):
        total = count * accelerator.num_processes
        if total % group_size:
            continue
        rows, outcomes = batch(seed, total, group_size)
        first = accelerator.process_index * count
        wanted = weigh(credit, rows, outcomes, group_size, alone).weights[first : first + count]
        here = weigh(credit, rows[first : first + count], outcomes, group_size, accelerator)
        metrics = credit_metrics(here, outcomes, group_size, accelerator)
        for one, other in zip(here.weights, wanted, strict=True):
            assert one.shape == other.shape
            worst = max(worst, float((one - other).abs().max()) if len(one) else 0.0)
        sent += metrics["exchanged_bytes"]
        expected += sizes_sent(rows, moved_rows(groups_to_weigh(credit, outcomes, group_size), group_size, count))
    return {"worst": worst, "sent": sent, "expected": expected}


def fail(accelerator: Accelerator) -> str:
    """What every process raises when one of them meets a state that is not finite."""

    def finite(group: Group) -> list[torch.Tensor]:
        if not all(torch.isfinite(states).all() for states in group.hidden or ()):
            raise ValueError("a state is not finite; lower the learning rate")
        return [torch.ones(length) for length in group.lengths]

    count = 3
    rows, outcomes = batch(1, count * accelerator.num_processes, accelerator.num_processes)
    rows = [Row(torch.arange(2), torch.ones(2, HIDDEN)) for _ in rows]
    rows[-1].hidden_TH[0] = torch.nan  # type: ignore[index]
    here = rows[accelerator.process_index * count :][:count]
    weighed: Weighed = weigh(finite, here, outcomes, accelerator.num_processes, accelerator)
    try:
        credit_metrics(weighed, outcomes, accelerator.num_processes, accelerator)
    except ValueError as error:
        return str(error)
    return ""


def main(output: str) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    accelerator.wait_for_everyone()
    result = {"all": compare(accelerator, False), "mixed": compare(accelerator, True), "failure": fail(accelerator)}
    torch.save(result, Path(output) / f"rank-{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
