"""Packages that only some retrievers need."""

from importlib import import_module
from typing import Any

from rlft.retrieval.passage import RetrievalError


def optional(module: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises:
        RetrievalError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise RetrievalError(f'this needs {module}, which is not installed: pip install "rlft[{extra}]"') from error
