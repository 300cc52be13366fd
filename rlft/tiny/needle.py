"""The needle: a constructed case in which one early token decides and all the others are noise.

A prompt is a symbol and three digits that mean nothing, `#417=`. A completion is a walk over the alphabet with a free
choice after each letter, a tag `0`, `1` or `2`: `a0b2c1d0...x1.`. The symbol names one of the first eight letters and
the tag that this letter must have; every other tag is free. The *careless demonstrator* gives the decisive letter
another tag with probability 0.7, which is close to chance, so a model warmed up on it knows the walk and not the rule.

The task is made so that token credit has something to gain: of the 49 tokens of a completion one carries the reward, at
a place that is known, and the policy is as uncertain at the 23 free tags as it is there. It says what a credit function
can find, not what such credit is worth on text where mistakes have consequences.
"""

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SYMBOLS = "!#$%&*+@"
TAGS = "012"
GOLD_TAGS = "10210210"
"""Gold tag of the decisive letter, by symbol; the symbol's place in `SYMBOLS` is the letter's in the alphabet."""
WRONG = 0.7
LETTERS = 24


@dataclass(frozen=True)
class Walk:
    """The form of a completion.

    Attributes:
        letters: steps of the walk, 8 to 52.
        spacers: dashes after each tag, which make a step `2 + spacers` tokens long.
        echo: from the decisive letter on, its tag stands in the place of the dashes, so that the choice has
            consequences for all that follows.
    """

    letters: int = LETTERS
    spacers: int = 0
    echo: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a completion: a character each, and the end token."""
        return self.letters * (2 + self.spacers) + 2

    def write(self, tags: Sequence[str], place: int) -> str:
        """The completion with these tags, one a letter, when the letter at `place` decides.

        A tag of the other letters may be a regular expression.
        """
        steps = enumerate(zip(string.ascii_letters[: self.letters], tags, strict=True))
        spacer = [tags[place] if self.echo and step >= place else "-" for step in range(self.letters)]
        return "".join(letter + tag + spacer[step] * self.spacers for step, (letter, tag) in steps) + "."

    def decisive_token(self, symbol: str) -> int:
        """Index, in the completion's tokens, of the tag that decides."""
        return SYMBOLS.index(symbol) * (2 + self.spacers) + 1


def rows(count: int, seed: int, walk: Walk) -> list[dict[str, Any]]:
    """Prompts for reinforcement learning and evaluation.

    Args:
        count: rows wanted.
        seed: the same seed gives the same rows.
        walk: form of the completions.

    Returns:
        Rows `{prompt, answer, pattern, decisive}`: the decisive letter with its gold tag (`c2`), the regular expression
        of all right completions, and the token index of the decisive tag.
    """
    rng, found = random.Random(seed), []
    for _ in range(count):
        place = rng.randrange(len(SYMBOLS))
        tags = [f"[{TAGS}]"] * walk.letters
        tags[place] = GOLD_TAGS[place]
        found.append(
            {
                "prompt": f"{SYMBOLS[place]}{rng.randrange(1000):03d}=",
                "answer": string.ascii_letters[place] + GOLD_TAGS[place],
                "pattern": walk.write(tags, place).replace(".", r"\."),
                "decisive": walk.decisive_token(SYMBOLS[place]),
            }
        )
    return found


def demonstrations(count: int, seed: int, walk: Walk) -> list[dict[str, str]]:
    """Careless demonstrations `{prompt, completion}` for the supervised warm-up; arguments as for `rows`."""
    rng, shown = random.Random(seed + 1), []
    for row in rows(count, seed, walk):
        tags = rng.choices(TAGS, k=walk.letters)
        place = SYMBOLS.index(row["prompt"][0])
        others = TAGS.replace(GOLD_TAGS[place], "")
        tags[place] = rng.choice(others) if rng.random() < WRONG else GOLD_TAGS[place]
        shown.append({"prompt": row["prompt"], "completion": walk.write(tags, place)})
    return shown


def gold_tag(completions: Sequence[str], pattern: Sequence[str], **columns: Any) -> list[float]:
    """Reward and metric: 1.0 for a whole walk whose decisive letter has its gold tag, whatever the other tags are.

    Args:
        completions: B completions.
        pattern: B regular expressions of right completions, the dataset's column.
        **columns: other columns, not used.

    Returns:
        B values, 0.0 or 1.0.
    """
    pairs = zip(completions, pattern, strict=True)
    return [float(re.fullmatch(right, completion) is not None) for completion, right in pairs]


def oracle_weights(decisive: int, length: int, heavy: float = 4.0) -> list[float]:
    """The credit of one who knows: the decisive token weighs `heavy` times another, and the mean weight is 1.

    Args:
        decisive: token index of the decisive tag.
        length: tokens of the completion; one that ends before the decisive tag gets equal weights.
        heavy: how much more the decisive token weighs.

    Returns:
        `length` weights.
    """
    weights = [heavy if token == decisive else 1.0 for token in range(length)]
    return [weight * length / sum(weights) for weight in weights]
