"""What a reward says to completions whose worth is known, before it is trained on.

    gold           the answer of the row, in the spelling (`SPELLINGS`) that the rewards like best
    wrong          the answer of another row, in the same spelling
    empty          nothing
    prompt copy    the prompt
    repeated       the gold completion eight times
    gold, garbage  the gold completion and words behind it

Rewards are called as TRL calls them and cross the same boundary (`rlft.rewards.checked`), so that whatever would stop
a run, a wrong count or an exception, stops here.
"""

import asyncio
import faulthandler
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rlft.rewards import RewardError, checked
from rlft.rewards.boundary import is_reward_model, reward_name
from rlft.rewards.text import last_text

GARBAGE = " lorem ipsum 7 7 7 dolor"
REPEATS = 8
TOTAL = "total"
ROWS = 8
"""Rows that are probed."""
CHEATS = ("empty", "prompt copy")
"""What must never earn as much as the answer."""
GRACE = 10.0
"""Seconds after a reward's limit at which one that no exception can reach, in compiled code, ends the process."""
_NOT_PASSED = ("prompt", "completion", "completion_ids")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Probed:
    """Scores of the probes.

    Attributes:
        scores: reward -> probe -> N scores, None where the reward does not apply; with `TOTAL` for several rewards.
        spelling: of the gold answer, with {answer}.
        seconds: reward name -> of one batch of N completions.
    """

    scores: dict[str, dict[str, list[float | None]]]
    spelling: str
    seconds: dict[str, float]

    def mean(self, reward: str, probe: str) -> float | None:
        """Mean score over the rows to which the reward applies; None for none."""
        scores = [score for score in self.scores[reward][probe] if score is not None]
        return sum(scores) / len(scores) if scores else None


def spellings(think_end: str | None = None, key: str | None = None) -> list[str]:
    """Forms in which a gold answer may be wanted, with {answer} in its place.

    Args:
        think_end: closes the thinking, besides `</think>`.
        key: of a dict that holds the answer.
    """
    bodies = ["{answer}", "\\boxed{{answer}}", "<answer>{answer}</answer>"]
    bodies += [f"{{{key!r}: '{{answer}}'}}"] if key else []
    ends = dict.fromkeys(["</think>", think_end or "</think>"])
    thought = [f"<think>\nLet me see.\n{end}\n{body}" for end in ends for body in bodies]
    return [*bodies, *thought]


def probe(
    rewards: Sequence[Any],
    rows: Sequence[Row],
    *,
    forms: Sequence[str],
    weights: Sequence[float] | None = None,
    encode: Callable[[str], list[int]] | None = None,
    timeout: float = 60.0,
) -> Probed:
    """Score the probes.

    Args:
        rewards: TRL reward functions; reward models are passed over.
        rows: N rows with `prompt` and, where rewards read it, `answer`.
        forms: spellings of the gold answer; the one with the highest total is taken.
        weights: of the rewards in the total; None weighs all 1.
        encode: text to token ids; without, each word counts as a token.
        timeout: seconds for a batch.

    Raises:
        RewardError: if a reward breaks its contract.
    """
    functions = {reward_name(one): checked(one, timeout) for one in rewards if not is_reward_model(one)}
    weighed = dict(zip(functions, weights or [1.0] * len(functions), strict=False))
    answers = [str(row.get("answer", "")) for row in rows]
    others = [next((one for one in answers[at:] + answers[:at] if one != own), own) for at, own in enumerate(answers)]
    score = _Scorer(functions, rows, encode or _words, timeout + GRACE)
    print(f"trying {', '.join(functions)}", file=sys.stderr)  # noqa: T201
    tried = {form: score([_spell(form, answer) for answer in answers]) for form in forms}
    best = max(tried, key=lambda form: sum(_total(tried[form], weighed)))
    gold = [_spell(best, answer) for answer in answers]
    texts = {
        "wrong": [_spell(best, other) for other in others],
        "empty": [""] * len(rows),
        "prompt copy": [last_prompt(row) for row in rows],
        "repeated": [" ".join([text] * REPEATS) for text in gold],
        "gold, garbage": [text + GARBAGE for text in gold],
    }
    found = {"gold": tried[best], **{name: score(given) for name, given in texts.items()}}
    scores = {name: {probe: each[name] for probe, each in found.items()} for name in functions}
    if len(functions) > 1:
        scores[TOTAL] = {probe: list(_total(each, weighed)) for probe, each in found.items()}
    return Probed(scores, best, score.seconds)


def findings(probed: Probed) -> tuple[list[str], list[str]]:
    """What is wrong with the rewards, and what to look at.

    Returns:
        (faults, warnings): a fault is that doing nothing earns as much as the answer, or that there is no score.
    """
    faults: list[str] = []
    warnings: list[str] = []
    decisive = TOTAL if TOTAL in probed.scores else next(iter(probed.scores), "")
    for reward in probed.scores:
        means = {name: probed.mean(reward, name) for name in probed.scores[reward]}
        known = {name: value for name, value in means.items() if value is not None}
        gold, low, high = known.get("gold"), min(known.values(), default=0.0), max(known.values(), default=0.0)
        if not known and reward == decisive:
            faults.append(f"{reward} returned None for every probe: a run ends at its first batch.")
        elif gold is None:
            warnings.append(f"{reward} applies to none of the rows with their gold answers: it returned None.")
        elif _same(low, high) and high and reward == decisive:
            faults.append(f"{reward} gives all probes {high:g}: an empty completion gets as much as the gold answer.")
        elif _same(low, high):
            warnings.append(
                f"{reward} gives all probes {high:g}: it does not tell a right answer from an empty one. If it wants "
                "the answer in a form of its own, name that: --gold 'The answer is {answer}'."
            )
        else:
            full = [name for name, value in known.items() if name != "gold" and (value > gold or _same(value, gold))]
            for name in full:
                cheat = name in CHEATS and reward == decisive
                (faults if cheat else warnings).append(_finding(reward, name, known[name], gold))
    return faults, warnings


def _finding(reward: str, name: str, score: float, gold: float) -> str:
    said = {
        "wrong": "the answer of another row gets",
        "empty": "an empty completion gets",
        "prompt copy": "a copy of the prompt gets",
        "repeated": f"the gold answer {REPEATS} times over gets",
        "gold, garbage": "the gold answer with garbage behind it gets",
    }[name]
    against = f"as much as the gold answer ({gold:g})" if _same(score, gold) else f"{score:g}, the gold answer {gold:g}"
    return f"{reward}: {said} {against}."


class _Scorer:
    """Calls the rewards as TRL does; keeps the time of the slowest call of each."""

    def __init__(
        self, functions: Mapping[str, Any], rows: Sequence[Row], encode: Callable[[str], list[int]], limit: float
    ):
        from transformers import TrainerState

        self.functions, self.rows, self.encode, self.limit = functions, rows, encode, limit
        names = [name for name in (rows[0] if rows else {}) if name not in _NOT_PASSED]
        self.passed = {name: [row[name] for row in rows] for name in names} | {
            "prompts": [row["prompt"] for row in rows],
            "trainer_state": TrainerState(),
            "log_extra": lambda column, values: None,
            "log_metric": lambda name, value: None,
        }
        self.seconds: dict[str, float] = {}

    def __call__(self, texts: Sequence[str]) -> dict[str, list[float | None]]:
        chat = bool(self.rows) and not isinstance(self.rows[0]["prompt"], str)
        completions = [[{"role": "assistant", "content": text}] for text in texts] if chat else list(texts)
        ids = [self.encode(text) for text in texts]
        found = {}
        for name, fn in self.functions.items():
            started = time.perf_counter()
            try:
                with ends_after(self.limit):
                    scores = fn(completions=completions, completion_ids=ids, **self.passed)
                    if inspect.isawaitable(scores):
                        scores = asyncio.run(_awaited(scores))
            except RewardError as error:
                raise RewardError(_placed(error)) from error
            self.seconds[name] = max(self.seconds.get(name, 0.0), time.perf_counter() - started)
            found[name] = [None if score is None else float(score) for score in scores]
        return found


@contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    """End the process, saying on stderr in which line it hangs, if the block takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _placed(error: RewardError) -> str:
    """The message, with the line that raised in the place of a traceback, which is not shown here."""
    frames = traceback.extract_tb(error.__cause__.__traceback__) if error.__cause__ else None
    where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return str(error).replace("the traceback above shows where", where) if where else str(error)


async def _awaited(scores: Any) -> Any:
    return await scores


def sample_rows(rows: Iterable[Row], count: int = ROWS) -> list[Row]:
    """The first rows.

    Raises:
        RewardError: if there are none.
    """
    found = [row for row, _ in zip(rows, range(count), strict=False)]
    if not found:
        raise RewardError("there are no rows to try the rewards on; give some.")
    return found


def last_prompt(row: Row) -> str:
    """The text of a prompt; of a conversation, that of its last turn."""
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else last_text([{**prompt[-1], "role": "assistant"}]) if prompt else ""


def _total(scores: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> list[float]:
    columns = [[weights[name] * (score or 0.0) for score in column] for name, column in scores.items()]
    return [sum(row) for row in zip(*columns, strict=True)]


def _spell(form: str, answer: str) -> str:
    return form.replace("{answer}", answer)


def _words(text: str) -> list[int]:
    return list(range(len(text.split())))


def _same(one: float, other: float) -> bool:
    return abs(one - other) < 1e-9
