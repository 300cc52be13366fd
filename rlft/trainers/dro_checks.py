"""Questions, candidates and demonstrations that a pair cannot be trained with are refused before a model is loaded."""

import logging
from collections.abc import Mapping, Sequence

from accelerate import PartialState
from accelerate.utils import tqdm
from datasets import Dataset

from rlft.em.stages import Round
from rlft.evaluate.list_metrics import holds_answer
from rlft.record.folder import write_whole
from rlft.record.jsonl import json_lines, read_jsonl
from rlft.retrieval.candidates import refuse_candidates, with_candidates
from rlft.retrieval.passage import Retriever
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.grammar import ListGrammar
from rlft.rollouts.list_text import ListOptions, spell
from rlft.rollouts.permutation import list_prompt
from rlft.trainers.dro_steps import DROSteps
from rlft.trainers.rolls import Rolls, Row
from rlft.trainers.search_checks import check_answerable, check_demonstrations, check_each

logger = logging.getLogger(__name__)


def check_list_questions(rows: Dataset, steps: DROSteps, name: str, retriever: Retriever | None) -> None:
    """Refuse questions that could not be scored, and candidates that no list can be chosen from.

    Raises:
        ValueError: naming the first bad row and the number of them.
    """

    def check(row: Row) -> None:
        check_answerable(row, steps.answers(row), steps.args.max_answer_tokens)
        if row.get("candidates") is not None:
            refuse_candidates(row, steps.args.list_size)
        elif retriever is None:
            raise ValueError("it has no candidates, and there is no retriever to find any.")

    check_each(rows, check, name)


def check_demonstrations_of(rows: Mapping[str, Dataset], rolls: Mapping[str, Rolls]) -> None:
    """Refuse demonstrations of a role that does not exist, or that cannot be learnt.

    Raises:
        ValueError: naming the first bad one.
    """
    if unknown := set(rows) - set(rolls):
        raise ValueError(f"warm_up_datasets for {', '.join(sorted(unknown))}; the roles are {', '.join(rolls)}.")
    for role, shown in rows.items():
        check_demonstrations(shown, rolls[role].frame)


class CandidateRows:
    """Rows with their candidates: given in the row, or found once and kept in the run folder.

    Args:
        steps: of the run.
        retriever: finds the candidates of rows that lack them.
    """

    def __init__(self, steps: DROSteps, retriever: Retriever | None):
        self.steps, self.args, self.retriever = steps, steps.args, retriever

    def prepared(self, current: Round, name: str, rows: Sequence[Row], *, drop_unanswerable: bool) -> Sequence[Row]:
        """Rows that both models can be asked about, with `candidates`.

        Args:
            current: the round whose folder keeps what is found, in candidates-<name>.jsonl.
            name: of the rows.
            rows: with candidates or without.
            drop_unanswerable: leave out rows no candidate of which holds an answer; they are counted in any case.

        Raises:
            ValueError: for fewer candidates than a list takes, or a prompt or a list that is too long.
        """
        file = f"candidates-{name}.jsonl"
        lacking = [row for row in rows if row.get("candidates") is None]
        if lacking:
            current.stage(f"candidates {name}", lambda: self._find(current, file, lacking), file)
            found = {record["id"]: record["candidates"] for record in read_jsonl(current.folder / file)}
            rows = [
                row if row.get("candidates") is not None else {**row, "candidates": found[row["id"]]} for row in rows
            ]
        rows = with_candidates(rows, None, self.args.candidates)
        self._check(rows, name)
        answerable = [row for row in rows if any(holds_answer(one, row["golden_answers"]) for one in row["candidates"])]
        if len(answerable) < len(rows):
            fate = "left out" if drop_unanswerable else "kept: drop_unanswerable leaves such out"
            logger.warning(
                "%s: %d of %d questions have no answer in any candidate (%s).",
                name,
                len(rows) - len(answerable),
                len(rows),
                fate,
            )
        if drop_unanswerable and not answerable:
            raise ValueError(f"{name}: no question has its answer in a candidate, and drop_unanswerable leaves none.")
        return answerable if drop_unanswerable else rows

    def _find(self, current: Round, file: str, rows: Sequence[Row]) -> None:
        if not PartialState().is_main_process:
            return
        with tqdm(
            total=len(rows), desc="candidates", unit="question", leave=False, disable=self.args.disable_tqdm
        ) as bar:
            advance = lambda done, _: bar.update(done - bar.n)  # noqa: E731
            found = with_candidates(rows, self.retriever, self.args.candidates, progress=advance)
        write_whole(
            current.folder / file, json_lines({"id": row["id"], "candidates": row["candidates"]} for row in found)
        )

    def _check(self, rows: Sequence[Row], name: str) -> None:
        """Refuse what does not fit; each process looks at its share."""
        steps, state, size = self.steps, PartialState(), self.args.list_size
        mine = rows[state.process_index :: state.num_processes]
        for row in mine:
            refuse_candidates(row, size)
            list_prompt(steps.selector.frame, row, range(len(row["candidates"])), steps.list_options)
            alone = [len(steps.reading(row, [place])) for place in range(len(row["candidates"]))]
            steps.reading(row, sorted(range(len(alone)), key=lambda place: -alone[place])[:size])
        for count in sorted({len(row["candidates"]) for row in mine}):
            check_list_fits(steps.selector.frame, count, steps.list_options)


def check_list_fits(frame: ChatFrame, count: int, options: ListOptions) -> None:
    """Refuse a cap that would cut lists out of `count` candidates.

    Raises:
        ValueError: naming the cap and the tokens of a list; with `constrained`, also as `ListGrammar`.
    """
    last = spell(range(count - options.size, count))
    longest = ListGrammar(frame, count, options.size).longest if options.constrained else len(frame.turn_ids(last))
    if longest > options.max_list_tokens:
        raise ValueError(
            f"max_list_tokens={options.max_list_tokens} would cut lists such as {last!r} of {longest} tokens; raise it."
        )
