"""Before a recipe of lists loads a model: refuse what cannot work, find questions, their candidates, and the models."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from trl import ModelConfig, ScriptArguments

from rlft.arguments import ListArguments
from rlft.checks import Checks, refusals
from rlft.pair_folder import GENERATOR, SELECTOR
from rlft.prepare import model_path, peft_config_of
from rlft.prepare_em import (
    Embedded,
    EMPlan,
    QuestionInputs,
    QuestionSplits,
    cached,
    demonstrations,
    find_questions,
    question_inputs,
    questions_per_round,
    settle,
    shortened,
    start_clock,
)
from rlft.retrieval import Retriever, load_retriever
from rlft.retrieval.loading import find_retriever
from rlft.tiny import tasks

TRAIN_QUESTIONS = 2048
"""Of an embedded task, which could give any number."""
LIST_TASKS = Embedded(
    tasks.SelectTask, lambda task: TRAIN_QUESTIONS, "has no passages to choose from; embedded with candidates"
)
RELEASED = "retrieval"
"""The column of candidates in the data released with the paper."""

_TITLE_AND_TEXT = re.compile(r"\s*Title:\s*(?P<title>.*?)\.?\s+(?:Text|Content):\s*(?P<text>.*)", re.DOTALL)


@dataclass(kw_only=True)
class ListPlan(EMPlan):
    """What `prepare_lists` found: everything a `DROTrainer` and its evaluation are built from."""

    selector_model: str | None
    retriever: Retriever | None
    warm_ups: dict[str, Dataset]

    @property
    def bases(self) -> list[str]:
        """The generator's and, where it has its own, the selector's."""
        return [self.model] if self.selector_model is None else [self.model, self.selector_model]


def prepare_lists(
    name: str, recipe: ListArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> ListPlan:
    """Check everything that can be checked without a model, then find the models.

    Args:
        name: the recipe's name; a run without `--output_dir` goes to the first free `runs/<name>-<n>`.
        recipe, data, model, training: the parsed arguments; `training` is a `DROConfig`, edited for `--smoke`.

    Returns:
        The plan.

    Raises:
        ConfigurationError: whatever is wrong, in one message.
    """
    started = start_clock(recipe)
    recipe, checks = shortened_lists(recipe, data, model, training), Checks()
    with refusals():
        found = inspect_lists(recipe, data, model, training, checks)
        parts = settle(name, recipe, data, model, training, found, checks)
        selector = recipe.selector_model
        other = selector and model_path(selector, training.seed)
        return ListPlan(
            **parts,
            title=f"DRO-RAG ({training.selector_objective}), {training.weighting} weights, on {data.dataset_name}",
            started=started,
            selector_model=None if other == parts["model"] else other,
            retriever=found.retriever,
            warm_ups={role: rows for role, rows in found.warm_ups.items() if rows is not None},
        )


def shortened_lists(recipe: ListArguments, data: ScriptArguments, model: ModelConfig, training: Any) -> ListArguments:
    """As `shortened`; a pair warmed up this briefly may drop every question."""
    if recipe.smoke:
        training.max_dropped = 1.0
    return shortened(recipe, data, model, training)


def inspect_lists(
    recipe: ListArguments, data: ScriptArguments, model: ModelConfig, training: Any, checks: Checks
) -> QuestionInputs:
    """Find questions, candidates, demonstrations, tokenizer and adapters, and check them; no folder is claimed.

    Args:
        recipe, data, model, training: the parsed arguments, shortened for `--smoke`.
        checks: runs the steps.

    Raises:
        one of `rlft.checks.REFUSALS`, unless `checks` goes on.
    """
    splits = checks.of("data", lambda: with_own_candidates(find_questions(recipe, data, LIST_TASKS)))
    retriever = checks.of("retriever", _retriever, recipe, splits)
    files = {SELECTOR: recipe.selector_warm_up, GENERATOR: recipe.generator_warm_up}
    shown = {
        role: checks.of("demonstrations", demonstrations, path, f"--{role}_warm_up") for role, path in files.items()
    }
    checks.of("selector", _check_selector, recipe, model, training)

    def lines(found: QuestionSplits, searched: Retriever | None) -> list[tuple[str, str]]:
        samples = questions_per_round(training, found.train) * training.num_generations
        return [
            ("lists per round", f"{samples}, of {training.list_size} out of {training.candidates} candidates"),
            ("candidates from", searched.name if searched else "the questions' own rows; no retriever is asked"),
        ]

    return question_inputs(model, training, checks, splits, retriever, shown, lines)


def with_own_candidates(splits: QuestionSplits) -> QuestionSplits:
    """Questions with `candidates` as `[{id, title, text}, ...]` where their rows have passages.

    A row's passages stand in `candidates`, or in the `retrieval` of the data released with the paper; one that is a
    mere text, perhaps as `Title: ... Text: ...`, is read, and gets its place as id.
    """
    return splits._replace(train=_read(splits.train), dev=_read(splits.dev), test=_read(splits.test))


def _read(rows: Dataset) -> Dataset:
    if not {"candidates", RELEASED} & set(rows.column_names):
        return rows
    read = []
    for row in rows:
        released = row.pop(RELEASED, None)
        found = row.get("candidates") if row.get("candidates") is not None else released
        if isinstance(found, list):  # what is none is for the trainer to say
            found = [_passage(place, one) for place, one in enumerate(found)]
        read.append(row | {"candidates": found})
    return Dataset.from_list(read)


def _passage(place: int, given: Any) -> Any:
    if not isinstance(given, str):
        return given
    parts = _TITLE_AND_TEXT.fullmatch(given)
    if parts is None:
        return {"id": str(place), "title": "", "text": given}
    return {"id": str(place), "title": parts["title"].strip('" '), "text": parts["text"].strip()}


def _retriever(recipe: ListArguments, splits: QuestionSplits) -> Retriever | None:
    """What finds candidates; None if every question has its own: what `--retriever` names is then not made."""
    if recipe.retriever is not None:
        find_retriever(recipe.retriever)
    parts: Mapping[str, Dataset] = {"training": splits.train, "dev": splits.dev, "held-out": splits.test}
    lacking = {name: _without_candidates(rows) for name, rows in parts.items()}
    if not any(lacking.values()):
        return None
    if recipe.retriever is None:
        counts = ", ".join(f"{count} of {len(parts[name])} {name}" for name, count in lacking.items() if count)
        raise ValueError(
            f"{counts} questions have no candidates and there is no retriever to find them: set --retriever, for "
            "example to 'bm25(corpus=\"corpus.jsonl\")', or give rows with a column candidates."
        )
    return cached(load_retriever(recipe.retriever), recipe)


def _without_candidates(rows: Dataset) -> int:
    if "candidates" not in rows.column_names:
        return len(rows)
    return sum(candidates is None for candidates in rows["candidates"])


def _check_selector(recipe: ListArguments, model: ModelConfig, training: Any) -> None:
    """Check the adapter's targets on the selector's own base, if one is named."""
    if recipe.selector_model is not None:
        other = copy.copy(model)
        other.model_name_or_path = recipe.selector_model
        peft_config_of(other, training.trust_remote_code)
