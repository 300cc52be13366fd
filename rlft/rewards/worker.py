"""The child side of `per_sample`: load the function once, score one sample at a time, send back plain values only.

An exception is turned into text here, because one that cannot be unpickled in the parent would break its pool.
"""

import os
import resource
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from rlft.plugins import resolve
from rlft.rewards.boundary import is_finite_number, short_repr
from rlft.rewards.outcomes import Outcome, Unparseable


class Scored(NamedTuple):
    """How one sample ended: its outcome, its score, and what went wrong."""

    outcome: Outcome
    score: float | None
    detail: str = ""


_loaded: Callable[..., Any] | None = None
_load_failure = ""


def load(spec: str, memory_mb: int | None) -> None:
    """Pool initializer: set the limit and find the function. A failure is kept for the first sample's detail."""
    global _loaded, _load_failure
    # pebble's own SIGTERM handler runs in Python, so a child inside C code would outlive its deadline by seconds.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if memory_mb is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))
    try:
        found = resolve(spec, kind="per-sample reward")
    except ValueError:
        _load_failure = traceback.format_exc()
    else:
        # Used as a decorator, `per_sample` binds the name to the batch reward that it made of the function.
        _loaded = getattr(found, "sample_fn", found)


def score(arguments: dict[str, Any]) -> Scored:
    """Score one sample.

    Args:
        arguments: Keyword arguments of the function.

    Returns:
        The sample's outcome.
    """
    process = os.getpid()
    try:
        return _score(arguments)
    finally:
        if os.getpid() != process:  # a copy that the function has forked would score beside this child
            os._exit(1)


def _score(arguments: dict[str, Any]) -> Scored:
    if _loaded is None:
        return Scored(Outcome.ERROR, None, _load_failure)
    try:
        value = _loaded(**arguments)
    except Unparseable as error:
        return Scored(Outcome.UNPARSEABLE, 0.0, str(error))
    except BaseException:  # SystemExit and KeyboardInterrupt of the function are its errors too, and are reported
        return Scored(Outcome.ERROR, None, traceback.format_exc())
    if value is None:
        return Scored(Outcome.SKIPPED, None)
    if not is_finite_number(value):
        said = f"returned {short_repr(value)} ({type(value).__name__}), not a finite number or None"
        return Scored(Outcome.ERROR, None, said)
    return Scored(Outcome.OK if value > 0 else Outcome.WRONG, float(value))
