"""Exact match: the text after `</think>` is the answer, and nothing else is. A plain TRL reward function."""

from typing import Any


def exact_match(completions: list[Any], answer: list[Any], **kwargs: Any) -> list[float]:
    """Score 1.0 where what follows the last `</think>` (without one, the whole text) equals the answer.

    Args:
        completions: B strings or message lists.
        answer: B gold answers; compared as text, surrounding white space removed.
        **kwargs: What else TRL passes; unused.

    Returns:
        B scores, 1.0 or 0.0.

    Raises:
        ValueError: if a gold answer is empty, since an empty completion would earn it.
    """
    golds = ["" if gold is None else str(gold).strip() for gold in answer]
    if "" in golds:
        raise ValueError(f"exact_match: row {golds.index('')} of the batch has an empty 'answer'; drop such rows.")
    said = [_text(completion).rpartition("</think>")[2].strip() for completion in completions]
    return [float(text == gold) for text, gold in zip(said, golds, strict=True)]


def _text(completion: Any) -> str:
    """The completion, or the content of its last assistant message; "" where that only calls a tool."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message.get("role") == "assistant"]
    content = (contents or [""])[-1] or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
