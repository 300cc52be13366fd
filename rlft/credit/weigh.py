"""Weights of one generation batch: which groups need any, who computes them, and what came of it.

Every group is weighed once, by one process. Groups that straddle processes come first, since others wait for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from rlft.credit.balance import sign_balance
from rlft.credit.batch import Outcomes, Row, group_of
from rlft.credit.exchange import Exchange
from rlft.credit.group import Credit, CreditError, checked_weights, mixed_only, name_of, needs


@dataclass
class Weighed:
    """What came of weighing on one process.

    Attributes:
        weights: B tensors (T_i,) fp32 on the CPU, for the rows of this process.
        balances: sign balance of every mixed group that was weighed here.
        sent_bytes: what this process sent to others.
        failure: why this process could not go on.
    """

    weights: list[Tensor] = field(default_factory=list)
    balances: list[float] = field(default_factory=list)
    sent_bytes: int = 0
    failure: CreditError | None = None


def groups_to_weigh(credit: Credit, outcomes: Outcomes, group_size: int) -> list[int]:
    """Numbers of the groups, over all processes, that `credit` is asked about; the others weigh 1."""
    mixed = outcomes.mixed(group_size)
    return [number for number, both in enumerate(mixed) if both or not mixed_only(credit)]


def weigh(
    credit: Credit, rows: Sequence[Row], outcomes: Outcomes, group_size: int, accelerator: Accelerator
) -> Weighed:
    """Weights of this process's rows. Every process must call this, with equally many rows.

    Args:
        credit: the credit function.
        rows: B rows of this process; those of groups to weigh hold what the function needs.
        outcomes: of all N rows.
        group_size: G.
        accelerator: of the run.

    Returns:
        Weights, or the failure: it is not raised here, where other processes wait for an answer.
    """
    exchange = Exchange(groups_to_weigh(credit, outcomes, group_size), rows, group_size, accelerator)
    weights = {index: torch.ones(len(row.ids_T)) for index, row in exchange.rows.items()}
    result = Weighed()
    shared = exchange.collect()
    for number, members in shared.items():
        weights |= _weigh_one(credit, number, members, outcomes, result)
    exchange.hand_back(weights)
    for number in exchange.whole:
        members = [exchange.rows[number * group_size + member] for member in range(group_size)]
        weights |= _weigh_one(credit, number, members, outcomes, result)
    weights |= exchange.returned()
    result.weights = [weights[index] for index in exchange.rows]
    result.sent_bytes = exchange.sent_bytes
    return result


def credit_metrics(weighed: Weighed, outcomes: Outcomes, group_size: int, accelerator: Accelerator) -> dict[str, float]:
    """Metrics over all processes; and the place where a failure on one of them ends all.

    Args:
        weighed: from `weigh`.
        outcomes: of all N rows.
        group_size: G.
        accelerator: every process must call this.

    Returns:
        `weight_mean` and `weight_std` over model tokens, `sign_balance` over mixed groups, the shares of groups
        `frac_mixed_groups` (both outcomes) and `frac_dead_groups` (all advantages 0: no signal), and
        `exchanged_bytes`, sent between processes for this batch.

    Raises:
        CreditError: on every process if one of them failed, with its message.
    """
    weights_N = torch.cat(weighed.weights).double()
    failed = float(weighed.failure is not None)
    here = [weights_N.sum(), (weights_N**2).sum(), len(weights_N), sum(weighed.balances), weighed.sent_bytes, failed]
    precision = torch.float32 if accelerator.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    sums = torch.tensor(here, dtype=precision, device=accelerator.device)
    total, squares, tokens, balances, sent, failures = accelerator.reduce(sums, "sum").tolist()
    if failures:
        texts = gather_object([f"process {accelerator.process_index}: {weighed.failure}" if failed else ""])
        raise weighed.failure or CreditError(next(text for text in texts if text))
    mixed, dead = outcomes.mixed(group_size), outcomes.dead(group_size)
    mean = total / max(tokens, 1)
    return {
        "weight_mean": mean,
        "weight_std": max(squares / max(tokens, 1) - mean**2, 0.0) ** 0.5,
        "sign_balance": balances / max(sum(mixed), 1),
        "frac_mixed_groups": sum(mixed) / len(mixed),
        "frac_dead_groups": sum(dead) / len(dead),
        "exchanged_bytes": sent,
    }


def _weigh_one(
    credit: Credit, number: int, members: Sequence[Row], outcomes: Outcomes, result: Weighed
) -> dict[int, Tensor]:
    """Weights by global row index; ones once something has failed."""
    group = group_of(number, members, outcomes)
    weights = [torch.ones(length) for length in group.lengths]
    if result.failure is None:
        try:
            weights = checked_weights(credit, group)
        except Exception as error:  # a plug-in may raise anything; whatever it is, no process may wait for ever
            result.failure = CreditError(f"group {number} of the batch: {_said(credit, error)}")
            result.failure.__cause__ = error
    result.balances.append(sign_balance(group, weights))
    return dict(enumerate(weights, number * len(members)))


def _said(credit: Credit, error: Exception) -> str:
    """What a credit function raised, and what most likely to do about it."""
    if isinstance(error, CreditError):
        return str(error)
    name = name_of(credit)
    said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    if "NoneType" in said and not needs(credit):
        said += f" (group.hidden and group.entropy are None unless asked for: {name}.needs = {{'hidden'}})"
    return f"credit {name}: {said}"
