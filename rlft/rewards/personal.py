"""Rewards of personalised generation: ROUGE of the answer, and the form of the thinking. PrLM, arXiv 2508.07342.

A completion is thinking, a closing tag, and an answer, which stands in a dict: `{'title': '...'}`. Only what follows
the last closing tag is ever read, so that a format quoted while thinking earns nothing.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from rlft.data.profile_prompt import PLACEHOLDER
from rlft.rewards.outcomes import Outcome
from rlft.rewards.rouge_scores import rouge_scorer
from rlft.rewards.text import last_text

THINK_END = "</think>"

Reward = Callable[..., list[float | None]]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?=\s*[,}])")
_CLOSING = {quote: re.compile(rf"(?<!\\){quote}\s*(?:\}}|,\s*['\"][^'\"\n]*['\"]\s*:)") for quote in "'\""}


def extract_answer(completion: Any, key: str | None, think_end: str | None = THINK_END) -> str | None:
    r"""The answer that a completion gives, or None if it gives none.

    Args:
        completion: a text, or a message list, whose last assistant message is read.
        key: key of the dict that holds the answer. Its value stands in single or double quotes, or is a number.
            Apostrophes, braces and line breaks may stand in it as they are; a quote escaped by `\` is unescaped. Of
            several dicts with the key the last whole one counts. None takes the whole text as the answer.
        think_end: what closes the thinking. A completion without it is unfinished thinking, and has no answer. None
            for a policy that does not think: the whole text is read.

    Returns:
        The answer without surrounding space; None if there is no such dict, or it holds nothing, or only the
        placeholder of the prompt's format.
    """
    text = last_text(completion)
    if think_end is not None:
        _, tag, text = text.rpartition(think_end)
        if not tag:
            return None
    value = text if key is None else _value(text, key)
    answer = (value or "").strip()
    return None if answer in ("", PLACEHOLDER) else answer


def rouge(*, key: str | None, tokens: str = "rouge_score", think_end: str | None = THINK_END) -> Reward:
    """Reward ROUGE-1 + ROUGE-2 + ROUGE-L F1 of the answer against the column `answer`: 0 to 3 (PrLM's code).

    Args:
        key: as for `extract_answer`.
        tokens: `rouge_score`, which is LaMP's own, or `released`, which is that of PrLM's code.
        think_end: as for `extract_answer`.

    Returns:
        A TRL reward named `rouge`. A completion without an answer scores 0.0, and a row whose gold answer has no word
        of the tokenisation scores None, which leaves it out; the shares of both are logged as
        `rewards/rouge/unparseable` and `rewards/rouge/unscorable_gold`. It raises ValueError on a blank gold answer.

    Raises:
        ValueError: if `tokens` is unknown.
        ImportError: if its packages are not installed.
    """
    score = rouge_scorer(tokens)

    def reward(
        completions: Sequence[Any],
        answer: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        golds = _golds(answer)
        answers = [extract_answer(completion, key, think_end) for completion in completions]
        scores = [score(said or "", gold) for said, gold in zip(answers, golds, strict=True)]
        if log_metric is not None and scores:
            log_metric(f"rewards/rouge/{Outcome.UNPARSEABLE}", answers.count(None) / len(answers))
            log_metric("rewards/rouge/unscorable_gold", scores.count(None) / len(scores))
        return [None if found is None else sum(found) for found in scores]

    reward.__name__ = reward.__qualname__ = "rouge"
    return reward


def think_format(*, think_end: str = THINK_END) -> Reward:
    """Reward 1.0 where a line break stands before a closing think tag, else 0.0, as PrLM's code does.

    It is met by an empty thought and says nothing of the answer: watch thinking length and the share of parseable
    answers beside it (`rlft.evaluate.personal`).

    Args:
        think_end: what closes the thinking.

    Returns:
        A TRL reward named `think_format`.
    """

    def reward(completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
        return [float(f"\n{think_end}" in last_text(completion)) for completion in completions]

    reward.__name__ = reward.__qualname__ = "think_format"
    return reward


def _value(text: str, key: str) -> str | None:
    """The value of the last whole dict; each dict is read up to the next one."""
    end = len(text)
    for opening in reversed([*re.finditer(rf"[{{,]\s*(['\"]){re.escape(key)}\1\s*:\s*", text)]):
        value = _read(text[opening.end() : end])
        if value is not None:
            return value
        end = opening.start()
    return None


def _read(text: str) -> str | None:
    """The value at the start of `text`; None if it does not end.

    An apostrophe that happens to stand before a brace, as in `a {'b'} c`, is told from the end of the value by the
    brace that it leaves open.
    """
    if (closing := _CLOSING.get(text[:1])) is None:
        number = _NUMBER.match(text)
        return number and number.group()
    candidates = [text[1 : found.start()] for found in closing.finditer(text, 1)]
    closed = [value for value in candidates if value.count("{") <= value.count("}")]
    return re.sub(r"\\(['\"])", r"\1", (closed or candidates)[0]) if candidates else None


def _golds(answer: Sequence[Any]) -> list[str]:
    golds = ["" if gold is None else str(gold).strip() for gold in answer]
    if "" in golds:
        raise ValueError(f"rouge: row {golds.index('')} of the batch has an empty 'answer'; drop such rows.")
    return golds
