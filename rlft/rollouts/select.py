"""The *select* action of EXSEARCH-Zoo: the model reads the passages found and says which ones it wants to be shown.

An action beside the main conversation is three things: a prompt, what is read from the reply, and whether the reply is
trained on. This one is the pattern for others: build the prompt, `yield from aside(...)`, read the text.
"""

from collections.abc import Generator
from typing import Any

from rlft.retrieval.passage import Passage
from rlft.rollouts.conversation import aside
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Draw
from rlft.rollouts.ranking import filled_up, parse_ranking
from rlft.rollouts.search_text import SearchOptions, fill, listed
from rlft.rollouts.trajectory import Trajectory


def select(
    passages: list[Passage], query: str, question: str, seed: int, *, frame: ChatFrame, options: SearchOptions
) -> Generator[Draw, Any, tuple[list[Passage], Trajectory | None]]:
    """Let the model choose.

    Args:
        passages: as found, best first.
        query, question: neutralised.
        seed: of the draw.
        frame: the chat template.
        options: `passages` is how many are kept; the prompt obeys `max_tokens`.

    Returns:
        The chosen passages, in the model's order, filled up in the retriever's order to `options.passages`; and the
        call as a branch, whose field `picked` holds the places it named (from 0), empty if it named none. The branch
        is None if there was nothing to choose or no room to ask.
    """
    prompt_ids, offered = _prompt(passages, query, question, frame, options)
    if offered < 2:
        return passages[: options.passages], None
    written, branch = yield from aside(frame, prompt_ids, "select", seed, options.max_turn_tokens)
    picked = parse_ranking(written.text, offered)
    branch.fields.update(query=query, offered=offered, picked=picked)
    kept = filled_up(picked[: options.passages], len(passages))[: options.passages]
    return [passages[place] for place in kept], branch


def _prompt(
    passages: list[Passage], query: str, question: str, frame: ChatFrame, options: SearchOptions
) -> tuple[list[int], int]:
    """The prompt, and how many of the passages fit into it."""
    values = {"query": query, "question": question, "count": str(options.passages)}
    for offered in range(len(passages), 1, -1):
        shown = frame.neutral(listed(passages[:offered], options.passage))
        prompt_ids = frame.opening(fill(options.select_request, {**values, "passages": shown}))
        if len(prompt_ids) + options.max_turn_tokens <= options.max_tokens:
            return prompt_ids, offered
    return [], 0
