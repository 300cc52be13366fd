"""Forms of replay and their rivals by name, for comparisons from one start."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlft.replay.scores import SCORERS

_SELF = {"replay": "self", "anchor": "none", "anchor_strength": 0.0}
_ALONE = {"replay": "none", "alpha": 1.0, "replay_breadth": 1, "anchor": "none", "anchor_strength": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "stoc": {},
    "recommended": {**_SELF, "scorer": "bos", "replay_breadth": 3},
    **{scorer: {**_SELF, "scorer": scorer} for scorer in SCORERS},
    "none": _ALONE,
    "real": {**_SELF, "replay": "real", "replay_breadth": 1},
    "ewc": {**_ALONE, "anchor": "ewc"},
    "l2": {**_ALONE, "anchor": "l2"},
}
"""Options of an arm in the place of those that are given; `stoc` is what is given."""


def arms_of(names: Sequence[str], training: Any, strengths: dict[str, float]) -> dict[str, Any]:
    """The options of each arm.

    An arm without replay takes alpha of the blocks, so that every arm reads as many new tokens in a step.

    Args:
        names: keys of `ARMS`.
        training: a `STOCConfig`: what is given.
        strengths: `anchor_strength` of the arms `ewc` and `l2`.

    Returns:
        A `STOCConfig` each.

    Raises:
        ValueError: for no arm, one that is not known or named twice, and options that do not go together.
    """
    if not names:
        raise ValueError(f"--arms names no run; there are {', '.join(ARMS)}.")
    found = {}
    for name in names:
        if name not in ARMS:
            raise ValueError(f"--arms {name}: there are {', '.join(ARMS)}.")
        if name in found:
            raise ValueError(f"--arms names {name!r} twice.")
        changes = dict(ARMS[name])
        if name in strengths:
            changes["anchor_strength"] = strengths[name]
        if changes.get("alpha") == 1:
            blocks = math.ceil(training.per_device_train_batch_size * training.alpha)
            changes["per_device_train_batch_size"] = blocks
        found[name] = replace(training, **changes)
    return found
