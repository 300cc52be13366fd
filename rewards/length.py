"""Soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13): a slope, not a cliff, before the length limit.

            0                                   |y| <= max_length - buffer
r(y) =  (max_length - buffer - |y|) / buffer    up to max_length
           -1                                   beyond
"""

from typing import Any


def length(completion_ids: list[list[int]], *, max_length: int, buffer: int, **kwargs: Any) -> list[float]:
    """Punish completions that come close to the limit; never reward short ones.

    The limits belong to the run and not to the data, so set them in the spec: `length(max_length=512, buffer=128)`,
    with `max_length` the run's `max_completion_length`.

    Args:
        completion_ids: B completions, in tokens.
        max_length: Tokens from which the score is -1.
        buffer: Tokens before `max_length` over which it falls from 0.
        **kwargs: What else TRL passes; unused.

    Returns:
        B scores between -1.0 and 0.0.

    Raises:
        ValueError: unless 0 < buffer <= max_length.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(f"length: buffer={buffer} must lie between 1 and max_length={max_length}.")
    return [min(0.0, max(-1.0, (max_length - buffer - len(ids)) / buffer)) for ids in completion_ids]
