"""Before a search recipe loads a model: refuse what cannot work, find retriever, questions and model."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from trl import ModelConfig, ScriptArguments

from rlft.arguments import SearchArguments
from rlft.prepare_em import (
    Embedded,
    EMPlan,
    cached,
    demonstrations,
    find_questions,
    questions_per_round,
    refusals,
    settle,
    shortened,
    start_clock,
)
from rlft.retrieval import BM25Retriever, Retriever, load_retriever
from rlft.rollouts.trajectory import Trajectory
from rlft.tiny import tasks
from rlft.tiny.questions import questions
from rlft.tiny.searcher import known_mistake

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
    if recipe.smoke:
        recipe = shortened(recipe, data, model, training)
    with refusals():
        given = None if recipe.retriever is None else load_retriever(recipe.retriever)
        splits = find_questions(recipe, data, SEARCH_TASKS)
        warm_up = demonstrations(recipe.warm_up_dataset, "--warm_up_dataset")
        retriever = cached(_retriever(given, data), recipe)
        samples = questions_per_round(training, splits.train) * training.num_generations
        table = [("trajectories per round", f"{samples}"), ("retriever", retriever.name)]
        return SearchPlan(
            **settle(name, recipe, data, model, training, splits, table),
            title=f"{name}, {training.weighting} weights, on {data.dataset_name}",
            started=started,
            retriever=retriever,
            warm_up_rows=warm_up,
            metrics=mistakes if data.dataset_name in tasks.TASKS else None,
        )


def mistakes(row: Any, trajectory: Trajectory) -> dict[str, float]:
    """The embedded task's mistakes are known."""
    mistake = known_mistake(trajectory.fields["queries"], row)
    return {f"mistake/{name}": float(name == mistake) for name in ("stop", "wrong", "other")}


def _retriever(given: Retriever | None, data: ScriptArguments) -> Retriever:
    task = tasks.TASKS.get(str(data.dataset_name))
    if given is not None:
        return given
    if isinstance(task, tasks.SearchTask):
        return BM25Retriever.over(task.passages())
    raise ValueError("no retriever: set --retriever, for example to 'bm25(corpus=\"corpus.jsonl\")'.")
