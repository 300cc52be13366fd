"""The health monitor of an EM run: judges every round by what it left on disk, warns, and stops if told to.

Alarms go to `record/alarms.jsonl`, beside those of the M-steps: `{"round", "step": 0, "rule", "message", "value",
"over"}`. Rules: `rlft.health.round_rules`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from rlft.em.stages import Round
from rlft.health import ROUND_RULES, Watch
from rlft.processes import from_main
from rlft.record.folder import record_dir, write_whole
from rlft.record.jsonl import json_lines, read_jsonl
from rlft.trainers.health import ALARMS, HealthError

logger = logging.getLogger(__name__)
Line = dict[str, Any]
_NAMES = {rule.name for rule in ROUND_RULES}


class RoundHealth:
    """Warns once when rounds go wrong. Every process calls it; the rounds themselves stay as they are.

    Args:
        folder: the run folder.
        args: an `EMConfig`.
    """

    def __init__(self, folder: Path, args: Any):
        self.folder, self.args = folder, args
        self._metric = str(args.metric_for_best_model)
        chosen = None if self._metric == "round" else self._metric  # the number of a round never falls
        self._watch = Watch(ROUND_RULES, chosen, args.greater_is_better is not False, unit="round")

    def see(self, current: Round, metrics: Mapping[str, float], dev_rows: int) -> None:
        """Judge a round that is done; alarms that a run before this one raised of it already are not said again.

        Args:
            current: the round.
            metrics: of the dev rows.
            dev_rows: how many these are.

        Raises:
            HealthError: with `on_alarm="stop"`, if a new alarm is raised.
        """
        row = {**metrics, "eval_rows": dev_rows, **self._weights(current)}
        alarms = self._watch.see(current.number, row)
        found = [{"round": current.number, **alarm.record, "step": 0} for alarm in alarms]
        new = from_main(self._written(current.number, found) if PartialState().is_main_process else [])
        begun = [line for line in new if not line["over"]]
        if begun and self.args.on_alarm == "stop":
            said = " ".join(f"{line['rule']}: {line['message']}" for line in begun)
            message = f"round {current.number}, {said} Figures: weights.json and dev.json in {current.folder}."
            raise HealthError(message, way_on="--on_alarm warn")

    def _weights(self, current: Round) -> dict[str, Any]:
        """Figures of the E-step; round 0 has none."""
        path = current.folder / "weights.json"
        if not path.is_file():
            return {}
        found = json.loads(path.read_text()) | {
            "rollouts": self.args.num_generations,
            "weighting": self.args.weighting,
        }
        return {f"em/{name}": value for name, value in found.items()}

    def _written(self, number: int, found: Sequence[Line]) -> list[Line]:
        """Bring the file of alarms to what was found of this round, and log what it did not have."""
        path = record_dir(self.folder) / ALARMS
        known = read_jsonl(path) if path.exists() else []
        kept = [line for line in known if not _is_of(line, number) or line in found]
        new = [line for line in found if line not in known]
        if new or len(kept) < len(known):
            write_whole(path, json_lines([*kept, *new]))
        for line in new:
            title = "health" if line["over"] else "HEALTH ALARM"
            logger.warning("%s at round %d, %s: %s", title, number, line["rule"], line["message"])
        return new


def _is_of(line: Mapping[str, Any], number: int) -> bool:
    """Whether an alarm is of this round as a whole, not of a step in it."""
    return line["rule"] in _NAMES and line.get("round") == number
