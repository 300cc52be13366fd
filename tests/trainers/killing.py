"""Kills from inside the process: a function that dies at one of its calls."""

from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """What a kill looks like from inside."""


def killed_at(owner: Any, name: str, call: int) -> Callable[..., Any]:
    """A function that dies instead of doing what it is called for the `call`-th time."""
    original, calls = getattr(owner, name), []

    def function(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise Killed(name)
        return original(*args, **kwargs)

    return function
