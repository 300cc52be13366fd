"""Careless addition: the tiny task on which GRPO and SHEAR are watched learning.

A problem is `347+589=`. A demonstration writes the column sums from the right, then the answer:
`<think>7+9+0=16;4+8+1=13;3+5+1=9</think>936`. The third number of a column is the carry. The *careless demonstrator*
drops each needed carry with probability 0.6, so that a model warmed up on it knows the format and the columns, and
has one frequent, decisive mistake on a known token: RL has to remove it, and credit can be scored against it.
"""

import random
import re
from dataclasses import dataclass

DROP_CARRY = 0.6
DIGITS = 3


@dataclass(frozen=True)
class Problem:
    """One addition `left+right=` of two numbers with equally many digits."""

    left: int
    right: int

    @property
    def prompt(self) -> str:
        """What the model reads, e.g. `347+589=`."""
        return f"{self.left}+{self.right}="

    @property
    def answer(self) -> str:
        """The true sum, e.g. `936`."""
        return str(self.left + self.right)


def problems(count: int, seed: int, digits: int = DIGITS) -> list[Problem]:
    """Draw `count` problems of `digits` digits uniformly; the same seed gives the same problems."""
    rng = random.Random(seed)
    low, high = 10 ** (digits - 1), 10**digits - 1
    return [Problem(rng.randint(low, high), rng.randint(low, high)) for _ in range(count)]


def demonstrate(problem: Problem, rng: random.Random, drop_carry: float = DROP_CARRY) -> str:
    """Write one solution, each needed carry dropped with probability `drop_carry`.

    Args:
        problem: the addition.
        rng: source of the mistakes.
        drop_carry: probability of a mistake at each needed carry; 0 gives the true solution.

    Returns:
        The completion text, thinking included, without an end token.
    """
    columns, digits, carry = [], "", 0
    for x, y in zip(reversed(str(problem.left)), reversed(str(problem.right)), strict=True):
        written = carry if rng.random() >= drop_carry else 0
        total = int(x) + int(y) + written
        columns.append(f"{x}+{y}+{written}={total}")
        digits = str(total % 10) + digits
        carry = total // 10
    if carry:
        digits = str(carry) + digits
    return f"<think>{';'.join(columns)}</think>{digits}"


def first_dropped_carry(problem: Problem, completion: str) -> int | None:
    """Character index, in `completion`, of the first carry written as 0 that should be 1.

    Args:
        problem: the addition that was asked.
        completion: what the model wrote.

    Returns:
        The index of that carry digit; None if the thinking is malformed, copies other digits, or drops no carry.
    """
    match = re.match(r"<think>(.*?)</think>", completion)
    if match is None:
        return None
    carry, offset = 0, match.start(1)
    columns = match.group(1).split(";")
    pairs = list(zip(reversed(str(problem.left)), reversed(str(problem.right)), strict=True))
    if len(columns) != len(pairs):
        return None
    for column, (x, y) in zip(columns, pairs, strict=True):
        if not re.fullmatch(rf"{x}\+{y}\+[01]=\d+", column):
            return None
        if carry == 1 and column[4] == "0":
            return offset + 4
        carry = (int(x) + int(y) + int(column[4])) // 10
        offset += len(column) + 1
    return None


def rows(count: int, seed: int, digits: int = DIGITS) -> list[dict[str, str]]:
    """Dataset rows `{prompt, answer}` for reinforcement learning and evaluation."""
    return [{"prompt": p.prompt, "answer": p.answer} for p in problems(count, seed, digits)]


def demonstrations(count: int, seed: int, digits: int = DIGITS) -> list[dict[str, str]]:
    """Careless demonstrations `{prompt, completion}` for the supervised warm-up."""
    rng = random.Random(seed + 1)
    return [{"prompt": p.prompt, "completion": demonstrate(p, rng)} for p in problems(count, seed, digits)]
