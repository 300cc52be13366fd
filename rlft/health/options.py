"""What a run does on an alarm, as the part of trainers' configurations that imports no torch."""

from dataclasses import dataclass, field

ACTIONS = ("warn", "stop")


@dataclass
class HealthOptions:
    """What happens when the health monitor raises an alarm.

    Attributes:
        on_alarm: `warn` goes on; `stop` ends the run and leaves a dump. Weights that are not finite always end it.
    """

    on_alarm: str = field(
        default="warn", metadata={"help": "When training looks unhealthy: warn, or stop (and leave a dump)."}
    )

    def check_health_options(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: naming the option, its value and its rule.
        """
        if self.on_alarm not in ACTIONS:
            raise ValueError(f"on_alarm={self.on_alarm!r} is none of {', '.join(ACTIONS)}.")
