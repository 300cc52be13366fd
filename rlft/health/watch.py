"""From logs to alarms: one when trouble begins, one when it is over."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rlft.health.history import History
from rlft.health.measures import TASK
from rlft.health.replay_rules import REPLAY_RULES
from rlft.health.rules import RULES, Rule

CALM = 5
"""Judgements without trouble, one after another, after which an alarm is over."""


@dataclass(frozen=True)
class Alarm:
    """Trouble that begins, or ends."""

    step: int
    rule: str
    message: str
    value: float
    over: bool = False

    @property
    def record(self) -> dict[str, object]:
        """For a file of alarms."""
        return asdict(self)


class Watch:
    """Judges every log of a run by every rule.

    Args:
        rules: the rules.
        metric: name in the log of the held-out metric (`eval_...`) that is set against the reward; None: none is.
        greater_is_better: its direction.
        unit: what is counted: a `step`, or a `round`.

    Attributes:
        open: alarms that are not over, by rule.
        history: the logs so far.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (*RULES, *REPLAY_RULES),
        metric: str | None = None,
        greater_is_better: bool = True,
        unit: str = "step",
    ):
        self.rules, self.metric, self.greater_is_better, self.unit = rules, metric, greater_is_better, unit
        self.history = History()
        self.open: dict[str, Alarm] = {}
        self._calm: dict[str, int] = {}

    def see(self, step: int, row: Mapping[str, object]) -> list[Alarm]:
        """Take one log; alarms that it raises or ends.

        Args:
            step: of the log.
            row: metrics by name; values that are no numbers are passed over.
        """
        value = row.get(self.metric) if self.metric else None
        if isinstance(value, int | float):
            row = {**row, TASK: value if self.greater_is_better else -value}
        self.history.add(step, row)
        found = (self._judge(rule, step) for rule in self.rules if any(name in row for name in rule.reads))
        return [alarm for alarm in found if alarm is not None]

    def _judge(self, rule: Rule, step: int) -> Alarm | None:
        judged = rule.judge(self.history)
        if judged is None:
            return None
        seen, bad = judged
        if bad:
            self._calm[rule.name] = 0
            return self._raise(rule, step, seen.value, seen.words)
        self._calm[rule.name] = self._calm.get(rule.name, 0) + 1
        if rule.name not in self.open or self._calm[rule.name] < CALM:
            return None
        began = self.open.pop(rule.name).step
        return Alarm(
            step, rule.name, f"over, after it began at {self.unit} {began}: {seen.words}.", seen.value, over=True
        )

    def _raise(self, rule: Rule, step: int, value: float, words: str) -> Alarm | None:
        if rule.name in self.open:
            return None
        message = f"{words} (alarm: {rule.threshold}). Likely: {rule.cause}. Try: {rule.knob}."
        self.open[rule.name] = Alarm(step, rule.name, message, value)
        return self.open[rule.name]
