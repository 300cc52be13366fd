"""What the EM recipes do before a model is loaded: refuse what cannot work, find questions, demonstrations, model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from datasets import Dataset
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, ScriptArguments

from rlft.arguments import ContinualArguments, EMArguments
from rlft.checks import Checks
from rlft.data.json_rows import iter_json_rows
from rlft.data.qa import load_questions
from rlft.em.stages import IDENTITY
from rlft.prepare import free_or_claimed_folder, inspect_model, model_init_kwargs_of, model_path
from rlft.record.summary import summary_table
from rlft.retrieval import CachedRetriever, Retriever
from rlft.tiny import tasks

SMOKE_QUESTIONS, SMOKE_ROWS = 16, 16
TINY_SEED = 11

Arguments = TypeVar("Arguments", bound=EMArguments)


@dataclass(kw_only=True)
class EMPlan:
    """What every EM trainer and its evaluation are built from."""

    model: str
    model_init_kwargs: dict[str, Any]
    peft_config: Any
    train_rows: Dataset
    dev_rows: Dataset
    test_rows: Dataset
    left_out: Mapping[str, int]
    """Rows of the data that are not used, by reason."""
    configuration: dict[str, Any]
    title: str
    smoke: bool
    started: float

    @property
    def bases(self) -> list[str]:
        """Folders or Hub ids of the models that the run starts from."""
        return [self.model]


class QuestionSplits(NamedTuple):
    """Rows to train on, to choose the round by, and held out; and counts of rows left out."""

    train: Dataset
    dev: Dataset
    test: Dataset
    rejects: Mapping[str, int]


@dataclass
class QuestionInputs:
    """What was found before a run folder is claimed; `MISSING` stands for what was refused."""

    splits: Any
    retriever: Any
    warm_ups: dict[str, Any]
    """Demonstrations by role."""
    tokenizer: Any
    config: Any
    peft_config: Any
    table: Any


class Embedded(NamedTuple):
    """The embedded tasks that a method can be trained on."""

    kind: type
    train_questions: Callable[[Any], int]
    """How many questions of a task are trained on."""
    lacking: str
    """What another embedded task lacks."""


def start_clock(recipe: EMArguments | ContinualArguments) -> float:
    """Set torch's threads, silence its bars, and note the time."""
    started = time.perf_counter()
    if recipe.torch_threads:
        torch.set_num_threads(recipe.torch_threads)
    disable_progress_bar()  # a bar for each of the many small loads of weights
    return started


def shortened(recipe: Arguments, data: ScriptArguments, model: ModelConfig, training: Any) -> Arguments:
    """The recipe as `--smoke` runs it, for which `data`, `model` and `training` are edited; without, as it is."""
    if not recipe.smoke:
        return recipe
    if model.model_name_or_path == data.dataset_name in tasks.SMOKE:
        model.model_name_or_path = data.dataset_name = tasks.SMOKE[str(data.dataset_name)]
    training.num_rounds = min(training.num_rounds, 1)
    training.questions_per_round = SMOKE_QUESTIONS
    training.min_best_loglik = None  # a model warmed up this briefly may answer nothing
    training.warmup_steps = 0  # the only step of a short M-step would have learning rate 0
    training.metric_for_best_model = "round"  # the round that learnt is the one to reload and compare
    return replace(recipe, dev_rows=min(recipe.dev_rows, SMOKE_ROWS), eval_rows=min(recipe.eval_rows, SMOKE_ROWS))


def find_questions(recipe: EMArguments, data: ScriptArguments, embedded: Embedded) -> QuestionSplits:
    """The questions of an embedded task, a file, a folder or the Hub.

    Raises:
        ValueError: if there are none, too few, or a row cannot be read.
    """
    if data.dataset_name is None:
        known = " or ".join(name for name, task in tasks.TASKS.items() if isinstance(task, embedded.kind))
        raise ValueError(f"no questions: set --dataset_name to {known}, a file, or a Hub id.")
    tasks.refuse_unknown(data.dataset_name)
    if recipe.dev_rows < 1:
        raise ValueError(f"--dev_rows {recipe.dev_rows}: at least one question must choose the best round.")
    if data.dataset_name in tasks.TASKS:
        return _embedded_questions(data.dataset_name, recipe, embedded)
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
    return QuestionSplits(train.select(range(cut)), train.select(range(cut, len(train))), test, rejects)


def _embedded_questions(name: str, recipe: EMArguments, embedded: Embedded) -> QuestionSplits:
    task: Any = tasks.TASKS[name]
    if not isinstance(tasks.TASKS[name], embedded.kind):
        known = ", ".join(name for name, each in tasks.TASKS.items() if isinstance(each, embedded.kind))
        raise ValueError(f"--dataset_name {name} {embedded.lacking}: {known}.")
    sizes = {"train": embedded.train_questions(task), "dev": recipe.dev_rows, "test": recipe.eval_rows}
    rows = {split: Dataset.from_list(task.rows(count, TINY_SEED, split)) for split, count in sizes.items()}
    return QuestionSplits(rows["train"], rows["dev"], rows["test"], {})


def demonstrations(path: str | None, flag: str) -> Dataset | None:
    """Conversations from a file of rows `{messages}`.

    Args:
        path: of the file; None is none.
        flag: that named it, for messages.

    Raises:
        ValueError: naming the first line that is none.
    """
    if path is None:
        return None
    rows = []
    for place, row in iter_json_rows(Path(path)):
        if "messages" not in row:
            raise ValueError(f"{flag} {place} has no column 'messages', only {', '.join(row) or 'none'}.")
        rows.append({"messages": row["messages"]})
    return Dataset.from_list(rows)


def cached(retriever: Retriever, recipe: EMArguments) -> Retriever:
    """With `--retrieval_cache` around it, if there is one."""
    return CachedRetriever(retriever, recipe.retrieval_cache) if recipe.retrieval_cache else retriever


def question_inputs(
    model: ModelConfig,
    training: Any,
    checks: Checks,
    splits: Any,
    retriever: Any,
    warm_ups: dict[str, Any],
    further: Callable[[QuestionSplits, Any], Sequence[tuple[str, str]]],
) -> QuestionInputs:
    """What a method found, with tokenizer, adapter and table, checked.

    Args:
        model, training: the parsed arguments.
        checks: runs the steps.
        splits, retriever, warm_ups: found by the method.
        further: (splits, retriever) -> lines of the table: what the method calls its passages and its samples.

    Raises:
        one of `rlft.checks.REFUSALS`, unless `checks` goes on.
    """
    tokenizer, config, peft_config = inspect_model(model, training, checks)
    table = checks.of(
        "batch",
        lambda found, args, given: _table(args, found, further(found, given)),
        splits,
        training,
        retriever,
    )
    return QuestionInputs(splits, retriever, warm_ups, tokenizer, config, peft_config, table)


def settle(
    name: str,
    recipe: EMArguments,
    data: ScriptArguments,
    model: ModelConfig,
    training: Any,
    found: QuestionInputs,
    checks: Checks,
) -> dict[str, Any]:
    """The rest of an `EMPlan` but its title and its start, with the run folder claimed and a table printed.

    Args:
        name: the recipe's name; a run without `--output_dir` goes to the first free `runs/<name>-<n>`.
        recipe, data, model, training: the parsed arguments; `training.output_dir` is set.
        found: by the recipe's checks.
        checks: that were run; their notes are printed.

    Raises:
        ValueError, OSError: for a folder that cannot be used, or a model that is not there.
    """
    training.output_dir = free_or_claimed_folder(name, training, _resumes(training))
    if training.process_index == 0:
        print("\n".join([f"run folder: {training.output_dir}", found.table, *checks.notes()]))  # noqa: T201
    return {
        "model": model_path(model.model_name_or_path, training.seed),
        "model_init_kwargs": model_init_kwargs_of(model),
        "peft_config": found.peft_config,
        "train_rows": found.splits.train,
        "dev_rows": found.splits.dev,
        "test_rows": found.splits.test,
        "left_out": found.splits.rejects,
        "configuration": {
            "recipe": asdict(recipe),
            "data": asdict(data),
            "model": asdict(model),
            "training": training.to_dict(),
        },
        "smoke": recipe.smoke,
    }


def questions_per_round(training: Any, train: Dataset) -> int:
    """How many a round takes."""
    return min(training.questions_per_round, len(train)) or len(train)


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


def _table(training: Any, questions: QuestionSplits, further: Sequence[tuple[str, str]]) -> str:
    rows = [
        ("questions to train on", f"{len(questions.train)}"),
        ("dev questions", f"{len(questions.dev)}"),
        ("held-out questions", f"{len(questions.test)}"),
        *((f"left out, {why}", f"{count}") for why, count in questions.rejects.items()),
        ("rounds", f"{training.num_rounds}"),
        ("questions per round", f"{questions_per_round(training, questions.train)}"),
        *further,
        ("passes over them", f"{training.num_train_epochs:g}"),
        (
            "rows per optimiser step",
            f"{training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size}",
        ),
        ("processes", f"{training.world_size}"),
    ]
    return summary_table(rows)
