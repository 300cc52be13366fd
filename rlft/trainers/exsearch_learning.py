"""What an EXSEARCH round learns from: its weighed trajectories as rows (eq. 5)."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from accelerate import PartialState

from rlft.em.rounds import NothingToLearn
from rlft.em.rows import training_rows, with_answer
from rlft.em.stages import Round
from rlft.em.weighing import WeightOptions, scored_alias
from rlft.record.folder import write_whole
from rlft.record.jsonl import read_jsonl
from rlft.trainers.em_learning import Learning
from rlft.trainers.exsearch_steps import SearchSteps
from rlft.trainers.rolls import Row
from rlft.trainers.round_models import RoundModels

logger = logging.getLogger(__name__)


class SearchLearning(Learning):
    """Warm-up (section 4.1) and M-step.

    Args:
        steps: gives the weighed trajectories.
        models: starts and loads the model.
        callbacks: of every training.
    """

    def __init__(self, steps: SearchSteps, models: RoundModels, callbacks: Sequence[Any]):
        super().__init__(steps.rolls, models, callbacks)
        self.steps = steps

    def gather(self, current: Round, rows: Sequence[Row]) -> None:
        """The weighed trajectories as rows to train on, in rows.arrow; rows.json counts what became of them.

        Raises:
            NothingToLearn: if no trajectory is left.
        """
        counts = Counter[str]()
        made = self.write(current, self.weighted_rows(current, rows, counts))
        if not made:
            raise NothingToLearn(
                f"round {current.number}: nothing is left to train on ({dict(counts)}). See "
                f"{current.folder}/weights.jsonl: a model that never finds the answer needs a warm-up; "
                "min_best_loglik or min_spread may be too strict."
            )
        dropped = sum(count for why, count in counts.items() if why.startswith("question dropped"))
        if 2 * dropped > sum(counts.values()):
            logger.warning("round %d: most questions were dropped: %s", current.number, dict(counts))
        if PartialState().is_main_process:
            write_whole(current.folder / "rows.json", json.dumps({"rows": made, **counts}, indent=1))

    def weighted_rows(self, current: Round, rows: Sequence[Row], counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Rows of the weighed trajectories; `counts` is filled with trajectories by what became of them.

        The gold answer that stands in a row is the one that its score came from.
        """
        options, weighed = WeightOptions.of(self.args), read_jsonl(current.folder / "weights.jsonl")
        for (row, trajectories, logliks), question in zip(self.steps.scored(current, rows), weighed, strict=True):
            if question["dropped"]:
                counts[f"question dropped: {question['dropped']}"] += len(trajectories)
                continue
            answers = self.steps.rolls.gold_answers(row)
            shares = zip(trajectories, logliks, question["weights_K"], question["search_K"], strict=True)
            for trajectory, loglik_A, weight, search in shares:
                if max(abs(weight), abs(search)) <= self.args.min_weight:
                    counts["weight up to min_weight"] += 1
                    continue
                counts["trained on"] += 1
                gold = answers[scored_alias(loglik_A, list(map(len, answers)), options)]
                yield from training_rows(with_answer(trajectory, gold), weight, search, self.args)
