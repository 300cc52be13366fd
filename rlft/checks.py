"""Checks in order: a recipe ends at the first refusal, `rlft check` goes on and collects them all.

A step whose input could not be made is passed over, so that one mistake is reported once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jinja2 import TemplateError

from rlft.configure import ConfigurationError
from rlft.retrieval.passage import RetrievalError
from rlft.rewards import RewardError

REFUSALS = (ValueError, OSError, ImportError, FloatingPointError, RetrievalError, RewardError, TemplateError)
"""What a step may raise for something that the user can put right."""


@contextmanager
def refusals() -> Iterator[None]:
    """End a recipe in one line for settings, data or files that cannot be used, or when somebody interrupts it.

    Raises:
        ConfigurationError: in the place of one of `REFUSALS`.
        SystemExit: in the place of a KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise SystemExit("\ninterrupted before training began.") from interrupt
    except REFUSALS as error:
        raise ConfigurationError(" ".join(_said(error).splitlines())) from error  # the Hub's messages have several


class Fault(NamedTuple):
    """Something that a run would end with."""

    topic: str
    message: str


class _Missing:
    """Stands for what could not be made, and for each of its parts."""

    def __getitem__(self, part: Any) -> "_Missing":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


MISSING = _Missing()


class Checks:
    """Runs the checks of a recipe.

    Args:
        go_on: collect refusals in `faults` instead of raising them.

    Attributes:
        faults: what a run would end with.
        lacking: an input that is known to be unusable; steps that take it are passed over.
        warnings: (topic, text) of what a run would not end with, but its user should know.
    """

    def __init__(self, *, go_on: bool = False) -> None:
        self.go_on = go_on
        self.lacking: Any = MISSING
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []

    def of(self, topic: str, step: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """Run a step.

        Args:
            topic: a word for what it is about.
            step: is called with `inputs` and `options`; it raises one of `REFUSALS` for a fault.
            inputs: if one of them is `MISSING`, the step is passed over.

        Returns:
            What the step returns; `MISSING` if it was refused or passed over.
        """
        if any(given is MISSING or given is self.lacking for given in inputs):
            return MISSING
        if not self.go_on:
            return step(*inputs, **options)
        try:
            return step(*inputs, **options)
        except REFUSALS as error:
            self.refuse(topic, _said(error))
            return MISSING

    def refuse(self, topic: str, message: str) -> None:
        """Note a fault, once however many steps find it."""
        fault = Fault(topic, " ".join(message.split()))
        if fault.message not in [known.message for known in self.faults]:
            self.faults.append(fault)

    def warn(self, topic: str, message: Any) -> None:
        """Note a warning; None and `MISSING` are none."""
        if message is not None and message is not MISSING:
            self.warnings.append(Fault(topic, message))

    def notes(self) -> list[str]:
        """Warnings as lines for a recipe to print."""
        return [f"note: {warning.message}" for warning in self.warnings]


def _said(error: Exception) -> str:
    if isinstance(error, TemplateError):
        return f"the chat template cannot be used: {error}. Mend the model's chat_template.jinja."
    return str(error)
