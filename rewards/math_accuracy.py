r"""Mathematical equality by math-verify: the last `\boxed{}` after `</think>` equals the gold answer.

Needs `pip install "rlft[math]"`. The gold answer is read first and passed first, because the comparison is not
symmetric. math-verify bounds slow expressions with SIGALRM, which exists on the main thread only; elsewhere the
comparison is unbounded, so run it there through `rlft.rewards.per_sample`, whose child processes can be killed.
"""

import threading
from collections.abc import Callable
from typing import Any

_SECONDS = 2  # for one parse or one comparison; math-verify takes whole seconds


def math_accuracy(
    completions: list[Any],
    answer: list[Any],
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""Score 1.0 where the boxed answer equals the gold answer mathematically.

    Args:
        completions: B strings or message lists. Only the last `\boxed{...}` is read: a completion that boxes
            several guesses is judged by the last one, and one that boxes none is wrong.
        answer: B gold answers: an expression (`\frac{1}{2}`, `42`), or a solution text, whose last box counts.
            For a dataset that calls it `solution`, as MATH does: `dataset.rename_column("solution", "answer")`.
        log_metric: TRL's hook; gets the shares of unparseable gold answers and completions.
        **kwargs: What else TRL passes; unused.

    Returns:
        B scores: 1.0, 0.0, or None where the gold answer cannot be parsed, so that the row is left out.

    Raises:
        ImportError: if math-verify is not installed.
        ValueError: if a gold answer is empty.
    """
    golds = ["" if gold is None else str(gold).strip() for gold in answer]
    if "" in golds:
        raise ValueError(f"math_accuracy: row {golds.index('')} of the batch has an empty 'answer'; drop such rows.")
    parsed_golds = [_parse(_last_box(gold) or gold) for gold in golds]
    parsed = [_parse(_last_box(_text(c).rpartition("</think>")[2])) for c in completions]
    if log_metric is not None and golds:
        log_metric("rewards/math_accuracy/unparseable_gold", sum(not p for p in parsed_golds) / len(golds))
        log_metric("rewards/math_accuracy/unparseable", sum(not p for p in parsed) / len(golds))
    return [_equal(gold, said) if gold else None for gold, said in zip(parsed_golds, parsed, strict=True)]


def _parse(expression: str) -> list[Any]:
    """What math-verify reads in the expression; empty if it reads nothing or runs out of time."""
    if not expression:
        return []
    try:
        from math_verify import LatexExtractionConfig, parse
    except ImportError as error:
        raise ImportError('math_accuracy needs math-verify: pip install "rlft[math]"') from error
    boxed = LatexExtractionConfig(boxed_match_priority=0)
    text = rf"\boxed{{{expression}}}"
    return list(parse(text, [boxed], fallback_mode="no_fallback", parsing_timeout=_seconds()))


def _equal(gold: list[Any], said: list[Any]) -> float:
    from math_verify import verify

    return float(bool(said) and verify(gold, said, timeout_seconds=_seconds()))


def _seconds() -> int | None:
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


def _last_box(text: str) -> str:
    r"""The content of the last `\boxed{...}` with balanced braces, or ""."""
    start = text.rfind(r"\boxed{")
    depth = 0
    for i in range(start + len(r"\boxed"), len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len(r"\boxed{") : i].strip()
    return ""


def _text(completion: Any) -> str:
    """The completion, or the content of its last assistant message; "" where that only calls a tool."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message.get("role") == "assistant"]
    content = (contents or [""])[-1] or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
