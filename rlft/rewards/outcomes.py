"""What a reward can end in. A failure is a named outcome or an error, never a silent 0.0."""

from enum import StrEnum


class RewardError(RuntimeError):
    """A reward broke its contract; the message names the reward, the value, the completion and the knob."""


class Unparseable(Exception):
    """Raised inside a per-sample reward when the completion cannot be read: the model's fault, scored 0.0."""


class Outcome(StrEnum):
    """How the scoring of one sample ended."""

    OK = "ok"
    """Scored above 0."""
    WRONG = "wrong"
    """Scored 0 or below."""
    UNPARSEABLE = "unparseable"
    """The function raised `Unparseable`; the score is 0.0."""
    SKIPPED = "skipped"
    """The function returned None: it does not apply to this sample."""
    ERROR = "error"
    """The function raised, returned no finite number, or its process died; the score is None."""
    TIMEOUT = "timeout"
    """No result at the deadline: the child was killed, or had left with exit code 0. The score is `timeout_score`."""
