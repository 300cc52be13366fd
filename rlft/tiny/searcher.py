"""The careless searcher: demonstrations of a search conversation, with two known, frequent, decisive mistakes.

After the first hop of a two-hop question it stops too early and guesses (probability .30), or asks about the question's
own entity instead of the one just found (.35), or does right (.35). A model warmed up on it knows the format, copies
what it reads, and makes both mistakes in known shares; each is one token: `<FINAL>` in the place of `<QUERY>`, or
the first name after the second `<QUERY>`. A demonstration that does right:

    user       where is the employer of desu niva based ?
    assistant  <QUERY> desu niva works
    user       <SEARCH> [1] desu niva works at baso bank . [2] ... [3] ...
    assistant  <FACT> desu niva works at baso bank <QUERY> baso bank based
    user       <SEARCH> [1] baso bank is based in veda . [2] ... [3] ...
    assistant  <FACT> baso bank is based in veda <FINAL>
    user       answer ?
    assistant  veda
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rlft.tiny.lookup import Lookup
from rlft.tiny.questions import TWO_HOP, question
from rlft.tiny.words import CITIES
from rlft.tiny.world import World

STOP, WRONG = 0.30, 0.35
"""Probabilities of the two mistakes."""
SHOWN = 3
"""Passages shown for a query."""
REQUEST = "answer ?"
"""What asks for the answer."""

Search = Callable[[Sequence[str], int], list[list[str]]]
"""Texts of the k best passages for each query."""
Mistake = Literal["stop", "wrong", "other"]


def demonstrate(
    row: Mapping[str, Any], search: Search, rng: random.Random, guess: str, *, stop: float = STOP, wrong: float = WRONG
) -> list[dict[str, str]]:
    """One conversation about a two-hop question.

    Args:
        row: a row of `questions`.
        search: finds the passages that are shown.
        rng: source of the mistakes.
        guess: the answer given after stopping too early.
        stop, wrong: probabilities of the mistakes; 0 and 0 give the true conversation.

    Returns:
        Messages `{role, content}`, user and assistant in turn.
    """
    first, second = row["hops"]
    fate = rng.random()
    if fate < stop:
        return _conversation(row["question"], [first], search, guess)
    if fate < stop + wrong:
        second = row["careless"]
    return _conversation(row["question"], [first, second], search, None)


def _conversation(
    text: str, hops: Sequence[Mapping[str, str]], search: Search, guess: str | None
) -> list[dict[str, str]]:
    """The messages that ask these hops in turn; the answer is `guess`, or else what the last fact ends in."""
    turns, written = [text], f"<QUERY> {hops[0]['query']}"
    for hop, following in zip(hops, [*hops[1:], None], strict=True):
        turns += [written, shown(search([hop["query"]], SHOWN)[0])]
        action = f"<QUERY> {following['query']}" if following else "<FINAL>"
        written = f"<FACT> {hop['fact']} {action}"
    turns += [written, REQUEST, guess or answer_of(hops[-1])]
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": content} for place, content in enumerate(turns)]


def shown(texts: Sequence[str]) -> str:
    """The environment's turn: `<SEARCH> [1] desu niva works at baso bank . [2] ...`."""
    return " ".join(["<SEARCH>", *(f"[{number}] {text}" for number, text in enumerate(texts, start=1))])


def answer_of(hop: Mapping[str, str]) -> str:
    """The entity that a hop's fact ends in: what follows the last of the relation's words."""
    words = hop["fact"].split()
    last = max(place for place, word in enumerate(words) if word in {"at", "in", "by"})
    return " ".join(words[last + 1 :])


def known_mistake(queries: Sequence[str], row: Mapping[str, Any]) -> Mistake | None:
    """Which mistake a search made, told from the queries it asked.

    Args:
        queries: the queries in order, without markers; blanks do not matter.
        row: the row of the question.

    Returns:
        None if the first queries were the gold ones in order (whatever followed); `stop` if the gold queries ended too
        early; `wrong` if the second was the careless searcher's; `other` for anything else.
    """
    asked = [" ".join(query.split()) for query in queries]
    gold = [hop["query"] for hop in row["hops"]]
    if asked[: len(gold)] == gold:
        return None
    if asked and asked == gold[: len(asked)]:
        return "stop"
    if row["careless"] and asked[:2] == [gold[0], row["careless"]["query"]]:
        return "wrong"
    return "other"


def demonstrations(
    count: int, seed: int, *, per_world: int = 640, people: int = 300, companies: int = 75
) -> list[list[dict[str, str]]]:
    """Conversations of the careless searcher, in a new world every `per_world` of them: nothing pays but reading.

    Args:
        count: how many.
        seed: of the worlds, the questions and the mistakes.
        per_world: conversations in each world.
        people, companies: size of each world.

    Returns:
        Conversations in random order, each a list of messages.
    """
    rng = random.Random(f"demonstrations {seed}")
    conversations: list[list[dict[str, str]]] = []
    while len(conversations) < count:
        world = World(rng.getrandbits(48), people, companies)
        search = Lookup(world.passages)
        for _ in range(min(per_world, count - len(conversations))):
            kind = rng.choice(TWO_HOP)
            row = question(world, kind, rng.choice(world.people if kind.about == "people" else world.companies))
            guess = rng.choice(world.people if kind.relations[-1] == "founded" else CITIES)
            conversations.append(demonstrate(row, search, rng, guess))
    return conversations
