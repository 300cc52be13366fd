"""The text of a completion, whether the dataset is standard or conversational."""

from typing import Any


def last_text(completion: Any) -> str:
    """The completion itself, or the content of its last assistant message.

    Args:
        completion: A string, or a list of message dicts whose content is text, a list of parts, or None.

    Returns:
        The text; empty if there is no assistant message or it only calls tools.
    """
    if isinstance(completion, str):
        return completion
    contents = [m.get("content") for m in completion if m.get("role") == "assistant"]
    content = contents[-1] if contents else None
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
