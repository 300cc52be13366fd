"""Before a search recipe loads a model: refuse what cannot work, find retriever, questions and model."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, ScriptArguments

from rlft.arguments import SearchArguments
from rlft.configure import ConfigurationError
from rlft.data.json_rows import iter_json_rows
from rlft.data.qa import load_questions
from rlft.em.stages import IDENTITY
from rlft.prepare import free_or_claimed_folder, model_init_kwargs_of, model_path, peft_config_of
from rlft.record.summary import summary_table
from rlft.retrieval import BM25Retriever, CachedRetriever, RetrievalError, Retriever, load_retriever
from rlft.rollouts.trajectory import Trajectory
from rlft.tiny import tasks
from rlft.tiny.questions import questions
from rlft.tiny.searcher import known_mistake

SMOKE_QUESTIONS, SMOKE_ROWS = 16, 16
TINY_SEED = 11


@dataclass
class SearchPlan:
    """What `prepare_search` found: everything an `ExSearchTrainer` and its evaluation are built from."""

    model: str
    model_init_kwargs: dict[str, Any]
    peft_config: Any
    retriever: Retriever
    train_rows: Dataset
    dev_rows: Dataset
    test_rows: Dataset
    warm_up_rows: Dataset | None
    metrics: Any
    configuration: dict[str, Any]
    title: str
    smoke: bool
    started: float


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
    started = time.perf_counter()
    if recipe.torch_threads:
        torch.set_num_threads(recipe.torch_threads)
    disable_progress_bar()  # a bar for each of the many small loads of weights
    if recipe.smoke:
        recipe = _shortened(recipe, data, model, training)
    with refusals():
        return _prepare(name, recipe, data, model, training, started)


@contextmanager
def refusals() -> Iterator[None]:
    """End a recipe in one line for settings or data that cannot be used.

    Raises:
        ConfigurationError: in the place of errors about values, files and retrievers.
    """
    try:
        yield
    except (ValueError, OSError, RetrievalError) as error:
        raise ConfigurationError(str(error)) from error


def _shortened(recipe: SearchArguments, data: ScriptArguments, model: ModelConfig, training: Any) -> SearchArguments:
    if model.model_name_or_path == data.dataset_name in tasks.SMOKE:
        model.model_name_or_path = data.dataset_name = tasks.SMOKE[str(data.dataset_name)]
    training.num_rounds = min(training.num_rounds, 1)
    training.questions_per_round = SMOKE_QUESTIONS
    training.min_best_loglik = None  # a model warmed up this briefly may answer nothing
    return replace(recipe, dev_rows=min(recipe.dev_rows, SMOKE_ROWS), eval_rows=min(recipe.eval_rows, SMOKE_ROWS))


def _prepare(
    name: str, recipe: SearchArguments, data: ScriptArguments, model: ModelConfig, training: Any, started: float
) -> SearchPlan:
    given = None if recipe.retriever is None else load_retriever(recipe.retriever)
    train, dev, test, rejects = _questions(recipe, data)
    warm_up = _demonstrations(recipe.warm_up_dataset)
    peft_config = peft_config_of(model, training.trust_remote_code)
    retriever = _retriever(given, recipe, data)
    training.output_dir = free_or_claimed_folder(name, training, _resumes(training))
    if training.process_index == 0:
        print(f"run folder: {training.output_dir}\n{_table(training, train, dev, test, rejects, retriever)}")  # noqa: T201
    return SearchPlan(
        model=model_path(model.model_name_or_path, training.seed),
        model_init_kwargs=model_init_kwargs_of(model),
        peft_config=peft_config,
        retriever=retriever,
        train_rows=train,
        dev_rows=dev,
        test_rows=test,
        warm_up_rows=warm_up,
        metrics=mistakes if data.dataset_name in tasks.TASKS else None,
        configuration={
            "recipe": asdict(recipe),
            "data": asdict(data),
            "model": asdict(model),
            "training": training.to_dict(),
        },
        title=f"{name}, {training.weighting} weights, on {data.dataset_name}",
        smoke=recipe.smoke,
        started=started,
    )


def _resumes(training: Any) -> bool:
    """Whether the run in `output_dir` is to be gone on with."""
    wanted, folder = str(training.resume_from_checkpoint), training.output_dir
    if wanted.lower() in ("none", "false", ""):
        return False
    if wanted.lower() != "true":
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: a run goes on in its own folder; set --output_dir to that, and "
            "--resume_from_checkpoint true."
        )
    if folder is None or not (Path(folder) / IDENTITY).is_file():
        raise ValueError(
            f"--resume_from_checkpoint true: {folder} holds no run (no {IDENTITY}); set --output_dir to one, or leave "
            "the flag out to start afresh."
        )
    return True


def _questions(recipe: SearchArguments, data: ScriptArguments) -> tuple[Dataset, Dataset, Dataset, dict[str, int]]:
    """Rows to train on, to choose the round by, and held out; and counts of rows left out."""
    if data.dataset_name is None:
        raise ValueError("no questions: set --dataset_name to tiny/search, a file, or a Hub id.")
    if recipe.dev_rows < 1:
        raise ValueError(f"--dev_rows {recipe.dev_rows}: at least one question must choose the best round.")
    task = tasks.TASKS.get(data.dataset_name)
    if isinstance(task, tasks.SearchTask):
        sizes = {"train": len(questions(task.world(), split="train")), "dev": recipe.dev_rows, "test": recipe.eval_rows}
        rows = {split: Dataset.from_list(task.rows(count, TINY_SEED, split)) for split, count in sizes.items()}
        return rows["train"], rows["dev"], rows["test"], {}
    if task is not None:
        known = ", ".join(name for name, each in tasks.TASKS.items() if isinstance(each, tasks.SearchTask))
        raise ValueError(f"--dataset_name {data.dataset_name} has nothing to search; embedded with a corpus: {known}.")
    train, test, rejects = load_questions(
        data.dataset_name,
        config=data.dataset_config,
        train_split=data.dataset_train_split,
        test_split=data.dataset_test_split,
        held_out=recipe.eval_rows,
        layout=recipe.layout,
    )
    cut = len(train) - recipe.dev_rows
    if cut < 1:
        raise ValueError(
            f"--dev_rows {recipe.dev_rows} of {len(train)} training questions: at least one must be left to train on."
        )
    return train.select(range(cut)), train.select(range(cut, len(train))), test, rejects


def mistakes(row: Any, trajectory: Trajectory) -> dict[str, float]:
    """The embedded task's mistakes are known."""
    mistake = known_mistake(trajectory.fields["queries"], row)
    return {f"mistake/{name}": float(name == mistake) for name in ("stop", "wrong", "other")}


def _demonstrations(path: str | None) -> Dataset | None:
    if path is None:
        return None
    rows = []
    for place, row in iter_json_rows(Path(path)):
        if "messages" not in row:
            raise ValueError(f"--warm_up_dataset {place} has no column 'messages', only {', '.join(row) or 'none'}.")
        rows.append({"messages": row["messages"]})
    return Dataset.from_list(rows)


def _retriever(given: Retriever | None, recipe: SearchArguments, data: ScriptArguments) -> Retriever:
    task = tasks.TASKS.get(str(data.dataset_name))
    if given is not None:
        retriever = given
    elif isinstance(task, tasks.SearchTask):
        retriever = BM25Retriever.over(task.passages())
    else:
        raise ValueError("no retriever: set --retriever, for example to 'bm25(corpus=\"corpus.jsonl\")'.")
    return CachedRetriever(retriever, recipe.retrieval_cache) if recipe.retrieval_cache else retriever


def _table(
    training: Any, train: Dataset, dev: Dataset, test: Dataset, rejects: dict[str, int], retriever: Retriever
) -> str:
    questions = min(training.questions_per_round, len(train)) or len(train)
    rows = [
        ("questions to train on", f"{len(train)}"),
        ("dev questions", f"{len(dev)}"),
        ("held-out questions", f"{len(test)}"),
        *((f"left out, {why}", f"{count}") for why, count in rejects.items()),
        ("retriever", retriever.name),
        ("rounds", f"{training.num_rounds}"),
        ("questions per round", f"{questions}"),
        ("trajectories per round", f"{questions * training.num_generations}"),
        ("passes over them", f"{training.num_train_epochs:g}"),
        (
            "rows per optimiser step",
            f"{training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size}",
        ),
        ("processes", f"{training.world_size}"),
    ]
    return summary_table(rows)
