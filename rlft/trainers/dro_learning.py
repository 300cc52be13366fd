"""What the two models of a DRO round learn from: weighed lists (eq. 5), and gold answers after them (eq. 6)."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from accelerate import PartialState

from rlft.em.rounds import NothingToLearn
from rlft.em.rows import training_rows
from rlft.em.stages import Round
from rlft.em.weighing import Dropped, WeightOptions, scored_alias
from rlft.record.folder import write_whole
from rlft.record.jsonl import read_jsonl
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory
from rlft.trainers.dro_steps import DROSteps, list_of
from rlft.trainers.em_learning import Learning
from rlft.trainers.rolls import Row

logger = logging.getLogger(__name__)

HOPELESS = (Dropped.UNSCORED, Dropped.ZERO_LIKELIHOOD, Dropped.ALL_WRONG, Dropped.NONE_CORRECT)
"""Reasons that say: no list of this question led to its answer."""


class MostDropped(RuntimeError):
    """A round in which most questions had no list that leads to the answer."""


class PairLearning:
    """The two M-steps.

    Args:
        steps: gives the weighed lists.
        selector, generator: train the models.
    """

    def __init__(self, steps: DROSteps, selector: Learning, generator: Learning):
        self.steps, self.args, self.selector, self.generator = steps, steps.args, selector, generator

    @property
    def trained(self) -> list[Learning]:
        """Those that are not frozen."""
        frozen = {id(self.selector): self.args.freeze_selector, id(self.generator): self.args.freeze_generator}
        return [one for one in (self.selector, self.generator) if not frozen[id(one)]]

    def gather(self, current: Round, rows: Sequence[Row]) -> None:
        """The rows of both M-steps, in selector-rows.arrow and generator-rows.arrow; rows.json counts them.

        Raises:
            MostDropped: if no list of most questions leads to the answer.
            NothingToLearn: if a model that is to learn has nothing to learn from.
        """
        weighed = read_jsonl(current.folder / "weights.jsonl")
        self._refuse_hopeless(current, weighed)
        counts: dict[str, Any] = {}
        for learning in self.trained:
            made = self.selector_rows if learning is self.selector else self.generator_rows
            number = learning.write(current, made(current, rows, weighed))
            if not number:
                raise NothingToLearn(
                    f"round {current.number}: nothing is left to train the {learning.role} on; see "
                    f"{current.folder}/weights.json for why questions were dropped."
                )
            counts[f"{learning.role}_rows"] = number
        if PartialState().is_main_process:
            write_whole(current.folder / "rows.json", json.dumps(counts, indent=1))

    def selector_rows(
        self, current: Round, rows: Sequence[Row], weighed: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """L_S = -sum_i w_i log p(z_i | x; theta_s) (eq. 5)."""
        for (_, trajectories, _), question in zip(self.steps.scored(current, rows), weighed, strict=True):
            for trajectory, weight in zip(trajectories, question["search_K"] or [], strict=False):
                if abs(weight) > self.args.min_weight:
                    yield from training_rows(trajectory, 0.0, weight, self.args)

    def generator_rows(
        self, current: Round, rows: Sequence[Row], weighed: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """L_G = -sum_i w_i log p(y | x, d_z_i; theta_g) (eq. 6); y is the gold answer that the weight came from."""
        options = WeightOptions.of(self.args)
        for (row, trajectories, record), question in zip(self.steps.scored(current, rows), weighed, strict=True):
            answers = self.steps.generator.gold_answers(row)
            shares = zip(trajectories, record["logliks"], question["weights_K"] or [], strict=False)
            for trajectory, loglik_A, weight in shares:
                if weight > self.args.min_weight:
                    gold = answers[scored_alias(loglik_A, list(map(len, answers)), options)]
                    prompt_ids = self.steps.reading(row, list_of(trajectory))
                    target = Segment(gold, trainable=True, label="answer")
                    yield from training_rows(
                        Trajectory(prompt_ids, [target], FinishReason.STOP), weight, 0.0, self.args
                    )

    def learn(self, current: Round, before: Round, origin: Round, learning: Learning) -> None:
        """theta^{t+1} of one model; a frozen one is carried over as it is."""
        if learning in self.trained:
            learning.learn(current, origin)
        elif PartialState().is_main_process:
            shutil.copytree(learning.folder(before), learning.folder(current), dirs_exist_ok=True)

    def _refuse_hopeless(self, current: Round, weighed: Sequence[dict[str, Any]]) -> None:
        hopeless = Counter(question["dropped"] for question in weighed if question["dropped"] in HOPELESS)
        if hopeless.total() > self.args.max_dropped * len(weighed):
            raise MostDropped(
                f"round {current.number}: no list leads to the answer in {hopeless.total()} of {len(weighed)} "
                f"questions ({dict(hopeless)}), above max_dropped={self.args.max_dropped}: what is left would teach "
                f"little. See {current.folder}/weights.json. If unscored, no list could be read (invalid_rate): warm "
                "up the selector, or set constrained=True. Else the generator finds no answer (loglik_best): warm it "
                f"up, lower min_best_loglik={self.args.min_best_loglik}, or find better candidates."
            )
