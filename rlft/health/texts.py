"""What completions look like when a policy degenerates."""

from collections.abc import Hashable, Sequence

NGRAM = 4


def repetition(tokens: Sequence[Hashable], n: int = NGRAM) -> float:
    """Share of a text's n-grams that stand in it before already (seq-rep-n, Welleck et al., arXiv 1908.04319).

    Args:
        tokens: the text.
        n: tokens in an n-gram.

    Returns:
        From 0 to 1; 0 for a text shorter than n.
    """
    count = len(tokens) - n + 1
    return 1 - len({tuple(tokens[i : i + n]) for i in range(count)}) / count if count > 0 else 0.0


def unreadable(text: str) -> float:
    """Share of characters that are replacement characters (U+FFFD), or neither printable nor white space."""
    if not text or (text.isprintable() and "\ufffd" not in text):
        return 0.0
    bad = sum(character == "\ufffd" or not (character.isprintable() or character.isspace()) for character in text)
    return bad / len(text)
