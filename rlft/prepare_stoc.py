"""Before STOC loads a model: refuse what cannot work, read rows and probes, settle the arms, find the model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import ModelConfig, ScriptArguments

from rlft.arguments import ContinualArguments
from rlft.data.continual import Continual, biography_rows, file_rows, paper_task, some
from rlft.data.json_rows import Row
from rlft.evaluate.facts import METRICS, refuse_facts
from rlft.prepare import free_or_claimed_folder, model_init_kwargs_of, model_path, peft_config_of
from rlft.prepare_em import refusals, start_clock
from rlft.record.stages import IDENTITY, claim_identity, digest
from rlft.record.summary import summary_table
from rlft.replay.items import refuse_items
from rlft.resume.find import holds_run, look_ahead
from rlft.tiny import tasks
from rlft.tiny.biography_task import BiographyTask
from rlft.tiny.people import People
from rlft.trainers.stoc_arms import arms_of
from rlft.trainers.stoc_options import STOCOptions
from rlft.trainers.stoc_replay import FREE_TO_CHANGE, digest_of
from rlft.trainers.stoc_samples import Sample, samples_of

CORPUS = "biographies"
"""The data set of any number of people."""
RECALLS = (*METRICS, "em")
SMOKE_STEPS, SMOKE_PROBES = 5, 32
FINISHED = "arm.json"
"""What a finished arm leaves in its folder."""
_SETTINGS = (
    *(field.name for field in fields(STOCOptions) if field.name not in FREE_TO_CHANGE),
    *("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "bf16", "fp16", "seed"),
)


@dataclass
class StocPlan:
    """What `prepare_stoc` found: everything the arms' trainers and their comparison are built from."""

    model: str
    model_init_kwargs: dict[str, Any]
    from_scratch: bool
    tokenizer: Any
    peft_config: Any
    new: list[Row]
    """Tokenised, as a `STOCTrainer` takes them."""
    old: list[Row]
    probes: dict[str, list[Row]]
    people: People | None
    arms: dict[str, Any]
    """A `STOCConfig` each, with its own folder."""
    recall: str
    folder: Path
    configuration: dict[str, Any]
    title: str
    smoke: bool
    started: float

    def to_train(self) -> dict[str, Any]:
        """The arms that are not finished."""
        return {arm: args for arm, args in self.arms.items() if not (Path(args.output_dir) / FINISHED).is_file()}

    def start(self) -> Any:
        """What a trainer is given as its model: a name, or a model with random weights, the same for every arm."""
        if not self.from_scratch:
            return self.model
        set_seed(next(iter(self.arms.values())).seed)
        how = {name: value for name, value in self.model_init_kwargs.items() if name != "revision"}
        config = AutoConfig.from_pretrained(self.model, revision=self.model_init_kwargs.get("revision"))
        return AutoModelForCausalLM.from_config(config, **how)


def prepare_stoc(
    name: str, recipe: ContinualArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> StocPlan:
    """Check everything that can be checked without a model, then find the model.

    Args:
        name: the recipe's name; a run without `--output_dir` goes to the first free `runs/<name>-<n>`.
        recipe, data, model, training: the parsed arguments; `training` is a `STOCConfig`, edited for `--smoke`.

    Returns:
        The plan.

    Raises:
        ConfigurationError: whatever is wrong, in one message.
    """
    started = start_clock(recipe)
    if recipe.smoke:
        recipe = _shortened(recipe, data, model, training)
    with refusals():
        return _prepare(name, recipe, data, model, training, started)


def _shortened(
    recipe: ContinualArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> ContinualArguments:
    if model.model_name_or_path == data.dataset_name in tasks.SMOKE:
        model.model_name_or_path = data.dataset_name = tasks.SMOKE[str(data.dataset_name)]
    training.max_steps = min(training.max_steps, SMOKE_STEPS) if training.max_steps > 0 else SMOKE_STEPS
    training.warmup_steps, training.logging_steps = 0, 1
    return replace(recipe, probe_rows=min(recipe.probe_rows, SMOKE_PROBES) or SMOKE_PROBES)


def _prepare(
    name: str, recipe: ContinualArguments, data: ScriptArguments, model: ModelConfig, training: Any, started: float
) -> StocPlan:
    _refuse_options(recipe)
    training.model_init_kwargs = model_init_kwargs_of(model)
    arms = arms_of(recipe.arms, training, {"ewc": recipe.ewc_strength, "l2": recipe.l2_strength})
    rows = _rows(recipe, data, training.seed, any(args.needs_old for args in arms.values()))
    tokenizer = _tokenizer(model, recipe.from_scratch, training.trust_remote_code)
    new = _samples(rows.new, tokenizer, "the new data")
    old = _samples(rows.old, tokenizer, "the old data") if rows.old else []
    probes = {which: some(found, recipe.probe_rows, training.seed) for which, found in rows.probes.items()}
    _refuse_data(arms, new, old, probes)
    for found in probes.values():
        refuse_facts(tokenizer, found, [tokenizer.eos_token_id])
    peft_config = peft_config_of(model, training.trust_remote_code)
    resume = _resumes(training, len(arms))
    training.output_dir = free_or_claimed_folder(name, training, bool(resume))
    folder = Path(str(training.output_dir))
    for arm, args in arms.items():
        args.output_dir = str(folder if len(arms) == 1 else folder / arm)
        args.resume_from_checkpoint = holds_run(Path(args.output_dir)) or None if resume is True else resume
    claim_identity(folder / IDENTITY, _identity(recipe, data, model, training) | _content(recipe, arms, new, probes))
    if training.process_index == 0:
        print(f"run folder: {folder}\n{_table(arms, new, old, probes, rows.left_out)}")  # noqa: T201
    return StocPlan(
        model=str(model.model_name_or_path)
        if recipe.from_scratch
        else model_path(model.model_name_or_path, training.seed),
        model_init_kwargs=training.model_init_kwargs,
        from_scratch=recipe.from_scratch,
        tokenizer=tokenizer,
        peft_config=peft_config,
        new=_as_rows(new),
        old=_as_rows(old),
        probes=probes,
        people=rows.people,
        arms=arms,
        recall=recipe.recall,
        folder=folder,
        configuration={"recipe": asdict(recipe), "data": asdict(data), "model": asdict(model)},
        title=f"{name} on {data.dataset_name}",
        smoke=recipe.smoke,
        started=started,
    )


def _refuse_options(recipe: ContinualArguments) -> None:
    if recipe.recall not in RECALLS:
        raise ValueError(f"--recall {recipe.recall} is none of {', '.join(RECALLS)}.")
    if recipe.probe_rows < 0:
        raise ValueError(f"--probe_rows {recipe.probe_rows} counts rows; 0 asks all.")


def _rows(recipe: ContinualArguments, data: ScriptArguments, seed: int, with_old: bool) -> Continual:
    name = data.dataset_name
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


def _tokenizer(model: ModelConfig, from_scratch: bool, trust_remote_code: bool) -> Any:
    name = model.model_name_or_path
    if name is None:
        raise ValueError("no model: set --model_name_or_path to tiny/biographies, a folder, or a Hub id.")
    tasks.refuse_unknown(name)
    task = tasks.TASKS.get(name)
    if task is None:
        return AutoTokenizer.from_pretrained(name, revision=model.model_revision, trust_remote_code=trust_remote_code)
    if not isinstance(task, BiographyTask) or from_scratch:
        raise ValueError(
            f"--model_name_or_path {name}: give tiny/biographies, whose model has read of people (without "
            "--from_scratch), a folder or a Hub id."
        )
    return task.tokenizer()


def _samples(rows: Sequence[Row], tokenizer: Any, what: str) -> list[Sample]:
    found = samples_of(rows, tokenizer, what)
    refuse_items(found, what)
    return found


def _as_rows(samples: Sequence[Sample]) -> list[Row]:
    """Samples as rows that need no tokenising."""
    return [{"input_ids" if name == "ids" else name: value for name, value in one.items()} for one in samples]


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


def _resumes(training: Any, arms: int) -> bool | str:
    """Whether the run in `output_dir` is to be gone on with, or the checkpoint that it goes on from."""
    wanted, folder = str(training.resume_from_checkpoint), training.output_dir
    if wanted.lower() in ("none", "false", ""):
        return False
    if wanted.lower() != "true":
        if arms > 1:
            raise ValueError(f"--resume_from_checkpoint {wanted} is one arm's; give true, or name that arm alone.")
        return str(look_ahead(wanted, folder))
    if folder is None or not (Path(folder) / IDENTITY).is_file():
        raise ValueError(
            f"--resume_from_checkpoint true: {folder} holds no run (no {IDENTITY}); set --output_dir to one, or leave "
            "the flag out to start afresh."
        )
    return True


def _identity(recipe: ContinualArguments, data: ScriptArguments, model: ModelConfig, training: Any) -> dict[str, Any]:
    """What every arm of a run has in common; arms can be added to it."""
    of_recipe = {name: value for name, value in asdict(recipe).items() if name not in ("arms", "torch_threads")}
    of_training = {name: getattr(training, name) for name in _SETTINGS}
    return of_recipe | of_training | asdict(model) | {"data": data.dataset_name}


def _content(
    recipe: ContinualArguments, arms: Mapping[str, Any], new: Sequence[Sample], probes: Mapping[str, Sequence[Row]]
) -> dict[str, Any]:
    """What the files hold. A run of one arm is that arm, as its model lies in the run folder itself."""
    return {
        "arms": next(iter(arms)) if len(arms) == 1 else "several",
        "new data": digest_of(new),
        "probes": digest_of(probes),
        "old data": recipe.old_dataset and digest(Path(recipe.old_dataset)),
    }


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
