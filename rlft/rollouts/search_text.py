"""What a search conversation says: its markers, its options and templates, and how a turn of the model is read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from rlft.retrieval.passage import Passage

QUERY, SEARCH, FACT, FINAL = MARKERS = ("<QUERY>", "<SEARCH>", "<FACT>", "<FINAL>")
"""The model asks, the environment shows, the model records, the model ends the search. Plain text, case matters."""

INSTRUCTION = """\
You answer a question by searching for evidence step by step. Three actions are yours:
<QUERY> and a short search query: asks for what you need to know next. Passages are then shown to you after <SEARCH>.
<FACT> and one sentence: records what the passages just shown say that helps; leave it empty if nothing does.
<FINAL>: ends the search, once the recorded facts are enough to answer.
Begin with <QUERY>. After each <SEARCH>, write <FACT> and, on the next line, either another <QUERY> or <FINAL>. \
Ask for one thing at a time, never repeat a query, and wait with the answer until you are asked for it.

Question: {question}"""
ANSWER_REQUEST = "Now answer the question in as few words as possible, without explanation.\nQuestion: {question}"
SELECT_REQUEST = """\
Which of these passages help most with the search query? Write only their numbers, the most useful first, \
at most {count} of them, like this: [2] > [1]

Query: {query}

{passages}"""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Caps, counts and templates. `{question}` and the like are replaced as they stand; other braces are text.

    Raises:
        ValueError: on a count below 1, a template without what it has to show, or `retrieved` below `passages`.
    """

    max_hops: int = 8
    """Searches in one trajectory. After the last one the model may still record a fact and stop."""
    passages: int = 5
    """Shown for each query."""
    max_turn_tokens: int = 256
    max_answer_tokens: int = 64
    """Also kept free for a gold answer where the trajectory is left open."""
    max_tokens: int = 8192
    """Cap on prompt and segments together."""
    select: bool = False
    """Let the model choose among `retrieved` passages, in a conversation of its own, which ones are shown."""
    retrieved: int = 10
    instruction: str = INSTRUCTION
    """First user turn: `{question}`."""
    passage: str = "[{n}] Title: {title}. Content: {text}"
    """One passage: `{n}` from 1, `{title}`, `{text}`."""
    nothing: str = "No passage was found."
    """Shown when a search finds nothing."""
    answer_request: str = ANSWER_REQUEST
    """Last user turn: `{question}`."""
    select_request: str = SELECT_REQUEST
    """What asks for the choice: `{passages}`, `{query}`, `{question}`, `{count}`."""

    def __post_init__(self) -> None:
        low = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.type is int and getattr(self, f.name) < 1]
        if low:
            raise ValueError(f"{', '.join(low)}: must be at least 1.")
        needed = {"instruction": "{question}", "passage": "{text}", "select_request": "{passages}"}
        for name, place in needed.items():
            if place not in getattr(self, name):
                raise ValueError(f"the template {name}={getattr(self, name)!r} must hold {place}.")
        if self.select and self.retrieved < self.passages:
            raise ValueError(
                f"retrieved={self.retrieved} passages cannot be cut down to passages={self.passages}; raise retrieved "
                "or set select to False."
            )


@dataclass(frozen=True, slots=True)
class Turn:
    """One readable turn of the model."""

    fact: str
    """Empty if it recorded none."""
    query: str | None
    """None if it ended the search."""


_ACTION = re.compile("|".join(map(re.escape, MARKERS)))


def read_turn(text: str) -> Turn | None:
    """The actions in a turn of the model: a fact or none, then a query or the end of the search.

    Args:
        text: decoded, without the token that stopped it. What stands before the last `</think>` is not read.

    Returns:
        None if there is neither `<QUERY>` nor `<FINAL>`, or the query is empty. `<FINAL>` goes before `<QUERY>`; the
        last query counts, up to the next marker.
    """
    text = text.rpartition("</think>")[2]
    said = _ACTION.split(text)[1:]
    actions = list(zip(_ACTION.findall(text), (" ".join(part.split()) for part in said), strict=True))
    fact = next((words for action, words in actions if action == FACT), "")
    if any(action == FINAL for action, _ in actions):
        return Turn(fact, None)
    queries = [words for action, words in actions if action == QUERY]
    return Turn(fact, queries[-1]) if queries and queries[-1] else None


def same_query(query: str) -> str:
    """What two spellings of one query have in common: letters without case, single blanks."""
    return " ".join(query.casefold().split())


def listed(passages: Sequence[Passage], template: str) -> str:
    """Passages, numbered from 1, a line or more each."""
    return "\n".join(
        fill(template, {"n": str(number), "title": passage.title, "text": passage.text})
        for number, passage in enumerate(passages, start=1)
    )


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with every `{name}` of `values` replaced at once; braces in the values and other braces stay."""
    names = "|".join(map(re.escape, values))
    return re.sub(r"\{(" + names + r")\}", lambda match: values[match[1]], template)
