"""Before a search recipe loads a model: refuse what cannot work, find retriever, questions and model."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from trl import ModelConfig, ScriptArguments

from rlft.arguments import SearchArguments
from rlft.checks import Checks, refusals
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
)
from rlft.retrieval import BM25Retriever, Retriever, load_retriever
from rlft.rollouts.trajectory import Trajectory
from rlft.start import start_clock
from rlft.tiny import tasks
from rlft.tiny.questions import questions
from rlft.tiny.searcher import known_mistake

WARM_UP = "warm_up_dataset"
SEARCH_TASKS = Embedded(
    tasks.SearchTask,
    lambda task: len(questions(task.world(), split="train")),
    "has nothing to search; embedded with a corpus",
)


@dataclass(kw_only=True)
class SearchPlan(EMPlan):
    """What `prepare_search` found: everything an `ExSearchTrainer` and its evaluation are built from."""

    retriever: Retriever
    warm_up_rows: Dataset | None
    metrics: Any


def prepare_search(
    name: str, recipe: SearchArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> SearchPlan:
    """Check everything that can be checked without a model, then find the model.

    Args:
        name: the recipe's name; a run without `--output_dir` goes to the first free `runs/<name>-<n>`.
        recipe, data, model, training: the parsed arguments; `training` is an `ExSearchConfig`, edited for `--smoke`.

    Returns:
        The plan.

    Raises:
        ConfigurationError: whatever is wrong, in one message.
    """
    started = start_clock(recipe)
    recipe, checks = shortened(recipe, data, model, training), Checks()
    with refusals():
        found = inspect_search(recipe, data, model, training, checks)
        return SearchPlan(
            **settle(name, recipe, data, model, training, found, checks),
            title=f"{name}, {training.weighting} weights, on {data.dataset_name}",
            started=started,
            retriever=found.retriever,
            warm_up_rows=found.warm_ups[WARM_UP],
            metrics=mistakes if data.dataset_name in tasks.TASKS else None,
        )


def inspect_search(
    recipe: SearchArguments, data: ScriptArguments, model: ModelConfig, training: Any, checks: Checks
) -> QuestionInputs:
    """Find retriever, questions, demonstrations, tokenizer and adapter, and check them; no folder is claimed.

    Args:
        recipe, data, model, training: the parsed arguments, shortened for `--smoke`.
        checks: runs the steps.

    Raises:
        one of `rlft.checks.REFUSALS`, unless `checks` goes on.
    """
    splits = checks.of("data", find_questions, recipe, data, SEARCH_TASKS)
    warm_up = checks.of("demonstrations", demonstrations, recipe.warm_up_dataset, f"--{WARM_UP}")
    retriever = checks.of("retriever", _retriever, recipe, data)

    def lines(found: QuestionSplits, searched: Retriever) -> list[tuple[str, str]]:
        samples = questions_per_round(training, found.train) * training.num_generations
        return [("trajectories per round", f"{samples}"), ("retriever", searched.name)]

    return question_inputs(model, training, checks, splits, retriever, {WARM_UP: warm_up}, lines)


def mistakes(row: Any, trajectory: Trajectory) -> dict[str, float]:
    """The embedded task's mistakes are known."""
    mistake = known_mistake(trajectory.fields["queries"], row)
    return {f"mistake/{name}": float(name == mistake) for name in ("stop", "wrong", "other")}


def _retriever(recipe: SearchArguments, data: ScriptArguments) -> Retriever:
    task = tasks.TASKS.get(str(data.dataset_name))
    if recipe.retriever is not None:
        return cached(load_retriever(recipe.retriever), recipe)
    if isinstance(task, tasks.SearchTask):
        return cached(BM25Retriever.over(task.passages()), recipe)
    raise ValueError("no retriever: set --retriever, for example to 'bm25(corpus=\"corpus.jsonl\")'.")
