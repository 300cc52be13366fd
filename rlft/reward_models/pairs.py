"""Contrastive pairs built by the policy itself (PrLM, arXiv 2508.07342: y+ with the profile, y- without).

The paper's form is `negatives=("none",)`. Such pairs teach what answers of a profile-fed prompt look like, not whose
they are: a scorer that sees the profile learns to read it from `swap` negatives, answers to the same question made with
another user's profile. `corrupt` puts strangers' items among the user's own. Nothing is left out unnoticed: `counts`
says what was dropped and why. No torch.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlft.reward_models.pair_file import KINDS, Pair
from rlft.reward_models.users import Item, Row, other_user, user_of


class Chooser(Protocol):
    """Which items of a profile are shown; `rlft.retrieval.profiles.ProfileChooser` is one."""

    def choose(self, rows: Sequence[Row], k: int) -> Sequence[Sequence[Item]]:
        """At most `k` items of each row's own profile, best first."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is wanted of the policy."""

    row: Row
    items: list[Item]
    """What it is shown; empty for no profile."""
    name: str
    """Of the draw within its row (`own`, `none 0`, `swap 1`), so that each can have a seed of its own."""


Answers = Callable[[Sequence[Ask]], Sequence[str | None]]
"""Answers of the policy, extracted, one for each ask; None or blank where there is none."""


@dataclass(frozen=True)
class PairOptions:
    """How pairs are built. The defaults are the paper's code's.

    Raises:
        ValueError: naming the option, its value and its rule.
    """

    k: int = 5
    """Items of a profile that the policy is shown."""
    negatives: tuple[str, ...] = ("none",)
    """Kinds of the rejected answers, one draw for each; a kind may stand several times."""
    limit: int = 0
    """Rows used, the first ones that are not excluded; 0 uses all. The paper's code uses about 5,000."""
    exclude_ids: frozenset[str] = frozenset()
    """Ids of rows that are never used, such as the prompts of the reinforcement learning."""
    metric: Callable[[str, str], float] | None = field(default=None, repr=False)
    """`metric(answer, gold)`, higher is better: drops a rejected answer that is not worse than the chosen one by
    `margin`. None keeps all, as the paper does."""
    margin: float = 0.02
    max_length_ratio: float | None = None
    """Drops a rejected answer if the longer of the two has more than so many times the words of the other."""
    corrupt_share: float = 0.5
    """Share of the items, rounded up, that `corrupt` replaces by another user's."""
    seed: int = 0
    """Of the choice of other users and items."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.limit < 0:
            raise ValueError(f"k={self.k} must be at least 1, limit={self.limit} at least 0 (0 uses all rows).")
        if not self.negatives or set(self.negatives) - set(KINDS):
            raise ValueError(f"negatives={self.negatives} must name one or more of {', '.join(KINDS)}.")
        if not 0 <= self.margin < math.inf or not 0 < self.corrupt_share <= 1:
            raise ValueError(
                f"margin={self.margin} must be finite and at least 0, corrupt_share={self.corrupt_share} in (0, 1]."
            )
        if self.max_length_ratio is not None and not self.max_length_ratio >= 1:
            raise ValueError(f"max_length_ratio={self.max_length_ratio} must be at least 1, or None.")


@dataclass(frozen=True)
class BuiltPairs:
    """Pairs, and what became of every row."""

    pairs: list[Pair]
    counts: dict[str, int]
    """Rows: `rows` given, `excluded`, `beyond_limit`, `empty_profile`, `empty_answer` (the chosen one), `no_gold` (with
    a metric), `no_negative_left`, and `pairs`. Rejected answers: `negative_empty`, `negative_identical`,
    `negative_not_worse`, `negative_length`, and `negatives` kept."""


def build_pairs(rows: Sequence[Row], sample: Answers, choose: Chooser, options: PairOptions) -> BuiltPairs:
    """Let the policy answer rows with their profile and without, and pair the answers.

    Args:
        rows: `{id, user_id, query, profile, gold}`, as `rlft.data.lamp` reads them.
        sample: the policy's answers, such as `rlft.reward_models.answers.policy_answers(...)`.
        choose: which items are shown. Of another user's profile it chooses for the same query.
        options: how.

    Returns:
        Pairs in the order of the rows, and counts.

    Raises:
        ValueError: for rows of one id, another number of answers than asks, or `swap` or `corrupt` without rows of a
            second user.
    """
    counts: Counter[str] = Counter({"rows": len(rows)})
    if repeated := [name for name, times in Counter(str(row["id"]) for row in rows).items() if times > 1]:
        raise ValueError(f"{len(repeated)} ids stand in several rows, the first is {repeated[0]!r}; ids name draws.")
    wanted = [row for row in rows if str(row["id"]) not in options.exclude_ids]
    counts["excluded"] = len(rows) - len(wanted)
    used = wanted[: options.limit or None]
    counts["beyond_limit"] = len(wanted) - len(used)
    shown = [list(items) for items in choose.choose(used, options.k)]
    used, shown = _with_profile(used, shown, counts)
    if options.metric is not None:
        counts["no_gold"] = sum(row.get("gold") is None for row in used)
        kept = [place for place, row in enumerate(used) if row.get("gold") is not None]
        used, shown = [used[place] for place in kept], [shown[place] for place in kept]
    asks = [[Ask(row, items, "own")] for row, items in zip(used, shown, strict=True)]
    for number, kind in enumerate(options.negatives):
        for row_asks, items in zip(asks, _shown_for(kind, number, used, shown, choose, options), strict=True):
            row_asks.append(Ask(row_asks[0].row, items, f"{kind} {number}"))
    answers = _answered(asks, sample)
    pairs = [_pair(row_asks, said, options, counts) for row_asks, said in zip(asks, answers, strict=True)]
    made = [pair for pair in pairs if pair is not None]
    counts["pairs"] = len(made)
    return BuiltPairs(made, dict(counts))


def _with_profile(
    rows: Sequence[Row], shown: list[list[Item]], counts: Counter[str]
) -> tuple[list[Row], list[list[Item]]]:
    kept = [place for place, items in enumerate(shown) if items]
    counts["empty_profile"] = len(rows) - len(kept)
    return [rows[place] for place in kept], [shown[place] for place in kept]


def _shown_for(
    kind: str, number: int, rows: Sequence[Row], shown: Sequence[list[Item]], choose: Chooser, options: PairOptions
) -> list[list[Item]]:
    """The items that one kind of rejected answer is made with, for every row."""
    if kind == "none":
        return [[] for _ in rows]
    draw = random.Random(f"{options.seed} {kind} {number}")
    strangers = [rows[other_user(rows, place, draw)] for place in range(len(rows))]
    guests = [{**row, "profile": other["profile"]} for row, other in zip(rows, strangers, strict=True)]
    foreign = [list(items) for items in choose.choose(guests, options.k)]
    if kind == "swap":
        return foreign
    return [_mixed(own, others, options.corrupt_share, draw) for own, others in zip(shown, foreign, strict=True)]


def _mixed(own: Sequence[Item], others: Sequence[Item], share: float, draw: random.Random) -> list[Item]:
    mixed = list(own)
    places = draw.sample(range(len(own)), min(math.ceil(share * len(own)), len(others)))
    for place, item in zip(places, others, strict=False):
        mixed[place] = item
    return mixed


def _answered(asks: Sequence[Sequence[Ask]], sample: Answers) -> list[list[str]]:
    """Answers in the shape of the asks; blank where there is none."""
    flat = [ask for row_asks in asks for ask in row_asks]
    said = list(sample(flat)) if flat else []
    if len(said) != len(flat):
        raise ValueError(f"the policy gave {len(said)} answers to {len(flat)} asks; one each is needed, None for none.")
    rest = iter(answer.strip() if answer else "" for answer in said)
    return [[next(rest) for _ in row_asks] for row_asks in asks]


def _pair(asks: Sequence[Ask], said: Sequence[str], options: PairOptions, counts: Counter[str]) -> Pair | None:
    row, chosen = asks[0].row, said[0]
    if not chosen:
        counts["empty_answer"] += 1
        return None
    rejected, kinds, said_before = [], [], set()
    for kind, answer in zip(options.negatives, said[1:], strict=True):
        if flaw := "identical" if (kind, answer) in said_before else _flaw(answer, chosen, row.get("gold"), options):
            counts[f"negative_{flaw}"] += 1
            continue
        rejected.append(answer)
        said_before.add((kind, answer))
        kinds.append(kind)
    counts["negatives"] += len(rejected)
    if not rejected:
        counts["no_negative_left"] += 1
        return None
    profile = [dict(item) for item in asks[0].items]
    return Pair(str(row["id"]), user_of(row), row["query"], profile, chosen, rejected, kinds, row.get("gold"))


def _flaw(answer: str, chosen: str, gold: str | None, options: PairOptions) -> str | None:
    """Why a rejected answer is not used; None if it is."""
    if not answer:
        return "empty"
    if answer == chosen:
        return "identical"
    metric = options.metric
    if metric is not None and gold is not None and not metric(chosen, gold) >= metric(answer, gold) + options.margin:
        return "not_worse"
    short, long = sorted((len(answer.split()), len(chosen.split())))
    if options.max_length_ratio is not None and long > options.max_length_ratio * short:
        return "length"
    return None
