"""What STOC learns and is asked: arms, rows, probes and tokenizer, checked without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl import ModelConfig, ScriptArguments

from rlft.arguments import ContinualArguments
from rlft.checks import MISSING, Checks
from rlft.data.continual import Continual, biography_rows, file_rows, paper_task, some
from rlft.data.json_rows import Row
from rlft.evaluate.facts import METRICS, refuse_facts
from rlft.preflight_prompts import positions_of
from rlft.prepare import inspect_model, model_init_kwargs_of
from rlft.record.summary import summary_table
from rlft.replay.items import refuse_items
from rlft.tiny import tasks
from rlft.tiny.biography_task import BiographyTask
from rlft.trainers.stoc_arms import arms_of
from rlft.trainers.stoc_samples import Sample, samples_of

CORPUS = "biographies"
"""The data set of any number of people."""
RECALLS = (*METRICS, "em")


@dataclass
class ContinualInputs:
    """What `inspect_stoc` found; `MISSING` stands for what was refused."""

    arms: Any
    new: Any
    old: Any
    probes: Any
    people: Any
    left_out: Any
    tokenizer: Any
    config: Any
    peft_config: Any
    table: Any


def inspect_stoc(
    recipe: ContinualArguments, data: ScriptArguments, model: ModelConfig, training: Any, checks: Checks
) -> ContinualInputs:
    """Find arms, samples, probes, tokenizer and adapter, and check them; no folder is claimed.

    Args:
        recipe, data, model, training: the parsed arguments, shortened for `--smoke`.
        checks: runs the steps.

    Raises:
        one of `rlft.checks.REFUSALS`, unless `checks` goes on.
    """
    checks.of("options", _refuse_options, recipe)
    training.model_init_kwargs = model_init_kwargs_of(model)
    strengths = {"ewc": recipe.ewc_strength, "l2": recipe.l2_strength}
    arms = checks.of("arms", arms_of, recipe.arms, training, strengths)
    rows = checks.of("data", _rows, recipe, data, training.seed, arms)
    checks.of("model", _refuse_model, model, recipe.from_scratch)
    tokenizer, config, peft_config = inspect_model(model, training, checks)
    new = checks.of("data", lambda found, reader: _samples(found.new, reader, "the new data"), rows, tokenizer)
    old = checks.of("data", _old_samples, rows, tokenizer)
    probes = checks.of("probes", _probes, rows, recipe, training.seed, tokenizer)
    checks.of("data", _refuse_data, arms, new, old, probes)
    checks.of("length", _refuse_length, training, config)
    left_out, people = (MISSING, MISSING) if rows is MISSING else (rows.left_out, rows.people)
    table = checks.of("batch", _table, arms, new, old, probes, left_out)
    return ContinualInputs(arms, new, old, probes, people, left_out, tokenizer, config, peft_config, table)


def _refuse_options(recipe: ContinualArguments) -> None:
    if recipe.recall not in RECALLS:
        raise ValueError(f"--recall {recipe.recall} is none of {', '.join(RECALLS)}.")
    if recipe.probe_rows < 0:
        raise ValueError(f"--probe_rows {recipe.probe_rows} counts rows; 0 asks all.")


def _rows(recipe: ContinualArguments, data: ScriptArguments, seed: int, arms: Mapping[str, Any]) -> Continual:
    name, with_old = data.dataset_name, any(args.needs_old for args in arms.values())
    if name is None:
        raise ValueError(f"no data: set --dataset_name to tiny/biographies, {CORPUS}, or a file.")
    files = {"old": recipe.old_dataset, "new_probes": recipe.new_probes, "old_probes": recipe.old_probes}
    tasks.refuse_unknown(name)
    task = tasks.TASKS.get(name)
    if name == CORPUS:
        task = paper_task(recipe.old_people, recipe.new_people, recipe.copies)
    if task is None:
        return file_rows(name, layout=recipe.layout, **files)
    if not isinstance(task, BiographyTask):
        known = ", ".join(known for known, each in tasks.TASKS.items() if isinstance(each, BiographyTask))
        raise ValueError(f"--dataset_name {name} has no old and new data; embedded with both: {known}.")
    if any(files.values()) or recipe.layout:
        raise ValueError(f"--dataset_name {name} comes with its old data and probes: leave files and --layout out.")
    return biography_rows(task, recipe.phase, seed, with_old=with_old)


def _refuse_model(model: ModelConfig, from_scratch: bool) -> None:
    name = model.model_name_or_path
    if name is None:
        raise ValueError("no model: set --model_name_or_path to tiny/biographies, a folder, or a Hub id.")
    task = tasks.TASKS.get(name)
    if task is not None and (not isinstance(task, BiographyTask) or from_scratch):
        raise ValueError(
            f"--model_name_or_path {name}: give tiny/biographies, whose model has read of people (without "
            "--from_scratch), a folder or a Hub id."
        )


def _samples(rows: Sequence[Row], tokenizer: Any, what: str) -> list[Sample]:
    found = samples_of(rows, tokenizer, what)
    refuse_items(found, what)
    return found


def _old_samples(rows: Continual, tokenizer: Any) -> list[Sample]:
    return _samples(rows.old, tokenizer, "the old data") if rows.old else []


def _probes(rows: Continual, recipe: ContinualArguments, seed: int, tokenizer: Any) -> dict[str, list[Row]]:
    probes = {which: some(found, recipe.probe_rows, seed) for which, found in rows.probes.items()}
    for found in probes.values():
        refuse_facts(tokenizer, found, [tokenizer.eos_token_id])
    return probes


def _refuse_length(training: Any, config: Any) -> None:
    longest, positions = max(training.max_length, training.replay_max_length), positions_of(config)
    if positions is not None and longest > positions:
        raise ValueError(
            f"--max_length {training.max_length} and --replay_max_length {training.replay_max_length}: the model has "
            f"{positions} positions; lower them."
        )


def _refuse_data(
    arms: Mapping[str, Any], new: Sequence[Sample], old: Sequence[Sample], probes: Mapping[str, Sequence[Row]]
) -> None:
    for arm, args in arms.items():
        if args.needs_old and not old:
            raise ValueError(f"arm {arm!r} needs old data and there is none: set --old_dataset, or leave the arm out.")
        if args.replay == "self" and args.drop_new_subjects and not any("subject" in sample for sample in new):
            raise ValueError("--drop_new_subjects needs a column `subject` in the new data, and no row has one.")
    if len(arms) > 1 and len(probes) < 2:
        raise ValueError(
            f"{len(arms)} arms are compared by recall of old and of new facts, and there are probes of "
            f"{' and '.join(probes) or 'neither'}: set --old_probes and --new_probes, or name one arm."
        )


def _table(
    arms: Mapping[str, Any],
    new: Sequence[Sample],
    old: Sequence[Sample],
    probes: Mapping[str, Sequence[Row]],
    left_out: Mapping[str, int],
) -> str:
    tokens = sum(len(sample["ids"]) for sample in new)
    rows = [("new samples", f"{len(new):,}, {tokens:,} tokens")]
    rows += [("left out, " + why, f"{count}") for why, count in left_out.items()]
    rows += [("old samples", f"{len(old):,}, {sum(len(sample['ids']) for sample in old):,} tokens")] if old else []
    rows += [(f"{which} probes", f"{len(found):,}") for which, found in probes.items()]
    args = next(iter(arms.values()))
    rows += [("tokens of a block", f"{args.max_length}"), ("processes", f"{args.world_size}")]
    rows += [(f"arm {arm}", _shares(args, tokens)) for arm, args in arms.items()]
    return summary_table(rows)


def _shares(args: Any, tokens: int) -> str:
    """What a step and a run of an arm read."""
    blocks = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    passes = f"{args.num_train_epochs:g} passes over the new data"
    if args.max_steps > 0:
        read = args.max_steps * blocks * args.max_length * args.alpha / tokens
        passes = f"{args.max_steps} steps, {read:.1f} passes over the new data"
    shares = f"{args.alpha:.0%} of the tokens new, {1 - args.alpha:.0%} replay"
    replay = round(args.replay_breadth * tokens * (1 - args.alpha) / args.alpha)
    return f"{shares} ({replay:,} tokens); {blocks} blocks a step, {passes}"
