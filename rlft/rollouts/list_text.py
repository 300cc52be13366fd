"""What a selector says: the options and templates of its prompt, and how its list of passage numbers is read.

Paper: "Direct Retrieval-augmented Optimization", arXiv 2505.03075, section 3.1: of n candidates, K in order of use,
written `[3] > [1] > ...`. One list has one spelling here, so that its probability is that of one string: numbers
counted from 1, no leading zeros, ` > ` between them. Blanks may stand around it, and a thought before it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Literal

from rlft.retrieval.passage import Passage
from rlft.retrieval.rows import passage_of_row
from rlft.rollouts.ranking import filled_up, parse_ranking

Parsing = Literal["strict", "lenient"]
Invalid = Literal["drop", "pad", "resample"]

INSTRUCTION = """\
Below are {count} passages, each behind its number, and a question. Choose the {size} passages that help most with \
the answer: they are about the question and hold what is needed to answer it. Put the most useful first.

{passages}

Question: {question}

Write the numbers of {size} different passages, the most useful first, and nothing else, in this form: [2] > [1]"""
PASSAGE = "[{n}] Title: {title}. Content: {text}"


@dataclass(frozen=True, slots=True)
class ListOptions:
    """How lists are asked for, read and, where they cannot be read, dealt with.

    `{question}` and the like are replaced as they stand; other braces are text.

    Raises:
        ValueError: on a count below its smallest value, an unknown mode, or a template without what it has to show.
    """

    size: int = 5
    """K: passages in a list."""
    parsing: Parsing = "strict"
    """`strict`: the canonical spelling or a fault. `lenient`: whatever names K passages."""
    invalid: Invalid = "drop"
    """What becomes of a list with a fault. `drop`: it is kept with its fault and takes no part in training.
    `resample`: up to `resamples` further draws first. `pad`: lists are read leniently and filled up in ascending
    order of the printed numbers, so none has a fault."""
    resamples: int = 3
    constrained: bool = False
    """Sample among the canonical lists alone; probabilities are then of the distribution over these."""
    max_list_tokens: int = 128
    """Cap on a list, its end token included."""
    max_tokens: int = 8192
    """Cap on prompt and list together."""
    instruction: str = INSTRUCTION
    """The user turn: `{passages}`, `{question}`, `{count}` (how many passages there are), `{size}`."""
    passage: str = PASSAGE
    """One passage: `{n}` from 1, `{title}`, `{text}`."""

    def __post_init__(self) -> None:
        check_counts(self, may_be_zero=["resamples"])
        if self.parsing not in ("strict", "lenient") or self.invalid not in ("drop", "pad", "resample"):
            raise ValueError(
                f"parsing={self.parsing!r}, invalid={self.invalid!r}: parsing is strict or lenient, invalid is drop, "
                "pad or resample."
            )
        check_templates(self, {"instruction": ("{passages}", "{question}"), "passage": ("{n}", "{text}")})


class ListFault(StrEnum):
    """Which rule a text broke, the first of them in this order."""

    CUT = "cut"
    """Its token cap cut it."""
    EMPTY = "empty"
    """It says nothing."""
    PROSE = "prose"
    """It holds letters."""
    SPELLING = "spelling"
    """Numbers or signs in another form than the canonical one."""
    REPEATED = "repeated"
    """A number stands in it twice."""
    OUT_OF_RANGE = "out_of_range"
    """A number stands for no passage."""
    TOO_FEW = "too_few"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class ListRead:
    """What was read from a text."""

    places: list[int]
    """K places from 0 in the order shown, best first; empty if there is a fault."""
    fault: ListFault | None
    padded: bool = False
    """Some of the places are filled up, not said."""


_LIST = re.compile(r"\[(?:0|[1-9][0-9]*)\](?: > \[(?:0|[1-9][0-9]*)\])*")


def spell(places: Sequence[int]) -> str:
    """The canonical spelling: places 2, 0 are `[3] > [1]`."""
    return " > ".join(f"[{place + 1}]" for place in places)


def read_list(text: str, count: int, options: ListOptions, cut: bool = False) -> ListRead:
    """Read the list that a model wrote.

    Args:
        text: decoded, without the token that stopped it. What stands before the last `</think>` is not read.
        count: n passages were shown.
        options: `size` (K), `parsing`, and `invalid`, of which `pad` means the lenient parsing filled up.
        cut: its token cap cut it.

    Returns:
        Places and no fault, or no places and the fault. With n = 20:

        | text                          | K | strict       | lenient  | pad           |
        |-------------------------------|---|--------------|----------|---------------|
        | `[2] > [1]`                   | 2 | 2, 1         | 2, 1     | 2, 1          |
        | blanks or thought around it   | 2 | 2, 1         | 2, 1     | 2, 1          |
        | `[2]>[1]`, `[ 2 ] > [ 1 ]`    | 2 | spelling     | 2, 1     | 2, 1          |
        | `2, 1`, `2 > 1`               | 2 | spelling     | 2, 1     | 2, 1          |
        | `[02] > [1]`                  | 2 | spelling     | 2, 1     | 2, 1          |
        | `[2] > [2] > [25]`            | 2 | repeated     | too_few  | 2, *1*        |
        | `[2] > [25]`, `[2] > [0]`     | 2 | out_of_range | too_few  | 2, *1*        |
        | `[2]`                         | 2 | too_few      | too_few  | 2, *1*        |
        | `[2] > [1] > [3]`             | 2 | too_many     | 2, 1     | 2, 1          |
        | `[2] > [1] are best.`         | 2 | prose        | 2, 1     | 2, 1          |
        | `Top 5: [3]`                  | 1 | prose        | 3        | 3             |
        | `Top 5: [3]`                  | 2 | prose        | too_few  | 3, *1*        |
        | `The best is 4.`              | 1 | prose        | 4        | 4             |
        | empty, blanks                 | 2 | empty        | too_few  | *1*, *2*      |
        | `[2] > [`, cut                | 2 | cut          | cut      | 2, *1*        |
        | `[2] > [1] > [`, cut          | 2 | cut          | 2, 1     | 2, 1          |

        Printed numbers; those in italics are filled up. Digits are ASCII digits. The lenient parsing reads numbers in
        brackets, and bare ones only if there are none in brackets; repeated ones and those that stand for no passage
        are left out, and so is what follows the first K, and a thought that never ends.

    Raises:
        ValueError: if there are fewer passages than K.
    """
    if count < options.size:
        raise ValueError(f"a list of size={options.size} different passages out of {count}; lower size.")
    said = text.rpartition("</think>")[2].strip()
    if options.parsing == "strict" and options.invalid != "pad":
        fault = ListFault.CUT if cut else _strict_fault(said, count, options.size)
        return ListRead([], fault) if fault else ListRead([int(one) - 1 for one in re.findall("[0-9]+", said)], None)
    named = parse_ranking(said.partition("<think>")[0], count)[: options.size]
    if len(named) == options.size:
        return ListRead(named, None)
    if options.invalid == "pad":
        return ListRead(filled_up(named, count)[: options.size], None, padded=True)
    return ListRead([], ListFault.CUT if cut else ListFault.TOO_FEW)


def _strict_fault(said: str, count: int, size: int) -> ListFault | None:
    if not said:
        return ListFault.EMPTY
    if not _LIST.fullmatch(said):
        return ListFault.PROSE if any(map(str.isalpha, said)) else ListFault.SPELLING
    numbers = re.findall("[0-9]+", said)
    if len(set(numbers)) < len(numbers):
        return ListFault.REPEATED
    # Python reads no number of more than 4300 digits.
    if any(len(number) > 9 or not 1 <= int(number) <= count for number in numbers):
        return ListFault.OUT_OF_RANGE
    if len(numbers) != size:
        return ListFault.TOO_FEW if len(numbers) < size else ListFault.TOO_MANY
    return None


def passages_of(rows: Sequence[Any], name: object) -> list[Passage]:
    """Passages from `Passage` objects or corpus rows (`rlft.retrieval.rows`).

    Args:
        rows: one a passage.
        name: whose they are, for the message.

    Raises:
        ValueError: for what is neither, naming its place.
    """
    found = []
    for place, row in enumerate(rows):
        try:
            found.append(row if isinstance(row, Passage) else passage_of_row(row))
        except ValueError as error:
            raise ValueError(f"row {name!r}, passage {place}: {error}.") from error
    return found


def check_counts(options: Any, may_be_zero: Sequence[str] = ()) -> None:
    """Refuse integer fields below 1, or below 0 where that is allowed.

    Raises:
        ValueError: naming them.
    """
    counts = {field.name: getattr(options, field.name) for field in fields(options) if field.type is int}
    low = [f"{name}={value}" for name, value in counts.items() if value < (name not in may_be_zero)]
    if low:
        raise ValueError(f"{', '.join(low)}: must be at least 1 ({', '.join(may_be_zero) or 'none'} may be 0).")


def check_templates(options: Any, needed: Mapping[str, Sequence[str]]) -> None:
    """Refuse templates that lack what they have to show.

    Raises:
        ValueError: naming template and placeholder.
    """
    for name, places in needed.items():
        for place in places:
            if place not in getattr(options, name):
                raise ValueError(f"the template {name}={getattr(options, name)!r} must hold {place}.")
