"""Questions, candidates and demonstrations that a pair cannot be trained with are refused before a model is loaded."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
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


def check_list_questions(
    rows: Sequence[Row] | Dataset, steps: DROSteps, name: str, retriever: Retriever | None
) -> None:
    """Refuse questions that could not be scored, and candidates that no list can be chosen from or that do not fit.

    Args:
        rows: with candidates; those without are let pass where there is a retriever.
        steps: of the run.
        name: of the rows, for messages.
        retriever: finds the candidates of rows that lack them.

    Raises:
        ValueError: naming the first bad row and the number of them; or the cap that would cut lists.
    """
    state, places, counts = PartialState(), itertools.count(), set()

    def check(row: Row) -> None:
        own_share = next(places) % state.num_processes == state.process_index
        check_answerable(row, steps.generator.gold_answers(row), steps.args.max_answer_tokens)
        if row.get("candidates") is not None:
            refuse_candidates(row, steps.args.list_size)
            (shown,) = with_candidates([row], None, steps.args.candidates)
            counts.add(len(shown["candidates"]))
            if own_share:  # tokenising every candidate of many questions takes minutes
                check_prompts_fit(shown, steps)
        elif retriever is None:
            raise ValueError("it has no candidates, and there is no retriever to find any.")

    check_each(rows, check, name)
    for count in sorted(counts):
        check_list_fits(steps.selector.frame, count, steps.list_options)


def check_prompts_fit(row: Row, steps: DROSteps) -> None:
    """Refuse candidates that are too long for the selector, or the longest K of which are for the generator.

    Raises:
        ValueError: with the row's id, the tokens and the cap.
    """
    places = range(len(row["candidates"]))
    list_prompt(steps.selector.frame, row, places, steps.list_options)
    try:
        steps.reading(row, places)
        return  # all of them fit, so any K do
    except ValueError:
        pass
    alone = [len(steps.reading(row, [place])) for place in places]
    steps.reading(row, sorted(places, key=lambda place: -alone[place])[: steps.args.list_size])


def check_shared_sampler(args: Any, peft_config: Any, *, shared: bool) -> None:
    """Refuse samplers that cannot hold this pair.

    Raises:
        ValueError: for one server and two bases, or vLLM and whole modules in two adapters of one base.
    """
    if args.sampler == "server" and not shared:
        raise ValueError(
            "sampler='server' serves one base, and the selector has another (selector_model); sample with "
            "sampler='transformers' or 'vllm'."
        )
    if args.sampler == "vllm" and shared and getattr(peft_config, "modules_to_save", None):
        raise ValueError(
            f"modules_to_save={peft_config.modules_to_save} cannot be handed to vLLM from two adapters of one base; "
            "sample with sampler='transformers'."
        )


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
            current: the round whose folder keeps what is found, in candidates-<name>-<number>.jsonl, and counts what is
                left out, in left-out-<name>.json.
            name: of the rows.
            rows: with candidates or without.
            drop_unanswerable: leave out rows no candidate of which holds an answer; they are counted in any case.

        Raises:
            ValueError: as `check_list_questions`, of candidates that were found.
        """
        lacking = [row for row in rows if row.get("candidates") is None]
        if lacking:
            files = f"candidates-{name}"
            current.stage(f"candidates {name}", lambda: self._find(current, files, lacking), f"{files}-*.jsonl")
            paths = [current.folder / f"{files}-{number:05d}.jsonl" for number, _ in self.steps.selector.all(lacking)]
            found = {record["id"]: record["candidates"] for path in paths for record in read_jsonl(path)}
            check_list_questions([{**row, "candidates": found[row["id"]]} for row in lacking], self.steps, name, None)
            rows = [{**row, "candidates": found[row["id"]]} if row["id"] in found else row for row in rows]
        rows = with_candidates(rows, None, self.args.candidates)
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
        if drop_unanswerable and PartialState().is_main_process:
            counts = {"questions": len(rows), "no answer in any candidate": len(rows) - len(answerable)}
            write_whole(current.folder / f"left-out-{name}.json", json.dumps(counts, indent=1))
        if drop_unanswerable and not answerable:
            raise ValueError(f"{name}: no question has its answer in a candidate, and drop_unanswerable leaves none.")
        return answerable if drop_unanswerable else rows

    def _find(self, current: Round, files: str, rows: Sequence[Row]) -> None:
        """Ask for what is not there yet, in shards, so that whoever is killed asks for little of it again."""
        for number, shard in self.steps.selector.mine(rows, "candidates"):
            path = current.folder / f"{files}-{number:05d}.jsonl"
            if not path.exists():
                found = with_candidates(shard, self.retriever, self.args.candidates)
                records = ({"id": row["id"], "candidates": row["candidates"]} for row in found)
                write_whole(path, json_lines(records))


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
