"""What a PrLM run is shown: rows with their past items as prompts, to train on and to be evaluated with."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset
from trl import ScriptArguments

from rlft.arguments import PersonalArguments
from rlft.data.personal import (
    HarmlessChooser,
    PersonalRows,
    Wanted,
    harmless,
    held_out_split,
    lamp_rows,
    style_rows,
)
from rlft.data.profile_prompt import ProfilePrompt
from rlft.evaluate.by_profiles import Measure, Setting
from rlft.evaluate.personal import Measured, personal_metrics
from rlft.evaluate.style import style_metrics
from rlft.prepare_scorer import rows_for_pairs
from rlft.reward_models.harmless import Harmless
from rlft.reward_models.origin import without_seen
from rlft.reward_models.pairs import Chooser
from rlft.tiny import tasks

Row = dict[str, Any]


class Shown(NamedTuple):
    """Rows without control strings, what writes their prompts, what chooses their items, and what came of it."""

    rows: PersonalRows
    prompt: ProfilePrompt
    choosers: dict[str, HarmlessChooser]
    train_rows: Dataset
    counts: Mapping[str, int]
    """Of prompts that are cut, and of users with few items."""


def personal_rows(recipe: PersonalArguments, data: ScriptArguments, training: Any) -> PersonalRows:
    """Rows of an embedded task or of a folder of LaMP.

    Raises:
        ValueError: if there are none, or the data cannot be read.
    """
    if data.dataset_name is None:
        raise ValueError("no rows: set --dataset_name to tiny/style, or to a folder of LaMP (with --task).")
    wanted = Wanted(recipe.train_rows, rows_for_pairs(recipe, training), recipe.eval_rows)
    if data.dataset_name in tasks.TASKS:
        rows = style_rows(data.dataset_name, wanted, max(recipe.profiles, *recipe.eval_profiles, 1))
    else:
        splits = data.dataset_train_split, held_out_split(data.dataset_name, data.dataset_test_split)
        if splits[1] != data.dataset_test_split and training.process_index == 0:
            print(f"{data.dataset_name} has no outputs of {data.dataset_test_split!r}: {splits[1]!r} is held out")  # noqa: T201
        rows = lamp_rows(data.dataset_name, recipe.task, splits, wanted)
    return rows if training.scorer is None else without_seen(rows, training.scorer)


def shown_rows(recipe: PersonalArguments, training: Any, rows: PersonalRows, tokenizer: Any, *found: Chooser) -> Shown:
    """Past items chosen and prompts written for the rows to train on; `training` gets the answer's key.

    Args:
        recipe, training: the parsed arguments.
        rows: from `personal_rows`.
        tokenizer: of the model.
        found: choosers of past items, of `--retriever` and each of `--eval_retrievers`.
    """
    training.answer_key = rows.answer_key(training.answer_key)
    broken = Harmless(tokenizer).broken
    rows = harmless(rows, broken)
    specs = (recipe.retriever, *recipe.eval_retrievers)
    choosers = {spec: HarmlessChooser(one, broken) for spec, one in zip(specs, found, strict=True)}
    prompt = _prompt(recipe, rows, tokenizer, training.chat_template_kwargs)
    chooser = choosers[recipe.retriever]
    train_rows = _train_rows(rows.train, chooser.choose(rows.train, recipe.profiles), prompt)
    return Shown(rows, prompt, choosers, train_rows, {**chooser.counts, "prompt cut": prompt.counts["cut"]})


def _prompt(
    recipe: PersonalArguments, rows: PersonalRows, tokenizer: Any, template_kwargs: dict[str, Any] | None
) -> ProfilePrompt:
    return ProfilePrompt(
        rows.wording,
        tokenizer,
        max_tokens=recipe.prompt_tokens,
        system=recipe.system_prompt or None,
        over_budget=recipe.over_budget,
        template_kwargs=template_kwargs,
    )


def _train_rows(rows: Sequence[Row], shown: Sequence[Sequence[Any]], prompt: ProfilePrompt) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": prompt.messages(row, items),
                "answer": row["answer"],
                "query": row["query"],
                "profile_items": [dict(item) for item in items],
            }
            for row, items in zip(rows, shown, strict=True)
        ]
    )


def evaluation_settings(
    recipe: PersonalArguments, rows: Sequence[Row], choosers: Mapping[str, Chooser], prompt: ProfilePrompt
) -> list[Setting]:
    """That of training first, then every other pair of a chooser and a number of items."""
    if not rows:
        return []
    counts = dict.fromkeys([recipe.profiles, *recipe.eval_profiles])
    asked = [
        (spec if k and spec != "none" else "none", k if spec != "none" else 0) for spec in choosers for k in counts
    ]
    found = []
    for spec, k in dict.fromkeys(asked):
        shown: Sequence[Sequence[Any]] = choosers[spec].choose(rows, k) if k else [[] for _ in rows]
        prompts = [prompt.messages(row, items) for row, items in zip(rows, shown, strict=True)]
        found.append(Setting(spec, k, prompts))
    return found


def measure_of(rows: PersonalRows, think_end: str | None) -> Measure:
    """What measures completions of these rows: LaMP's metrics, or those of the embedded task."""
    task = rows.lamp
    if task is None:
        return partial(style_metrics, think_end=think_end)

    def measure(completions: Sequence[str], of_rows: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
        return personal_metrics(task, completions, [row["gold"] for row in of_rows], think_end=think_end)

    return measure
