"""Before STOC loads a model: refuse what cannot work, read rows and probes, settle the arms, find the model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, set_seed
from trl import ModelConfig, ScriptArguments

from rlft.arguments import ContinualArguments
from rlft.checks import Checks, refusals
from rlft.data.json_rows import Row
from rlft.prepare import free_or_claimed_folder, model_path
from rlft.prepare_continual import inspect_stoc
from rlft.prepare_em import start_clock
from rlft.record.stages import IDENTITY, claim_identity, digest
from rlft.resume.find import holds_run, look_ahead
from rlft.tiny import tasks
from rlft.tiny.people import People
from rlft.trainers.stoc_options import STOCOptions
from rlft.trainers.stoc_replay import FREE_TO_CHANGE, digest_of
from rlft.trainers.stoc_samples import Sample

SMOKE_STEPS, SMOKE_PROBES = 5, 32
_OF_FILES = ("revision", "use_safetensors")
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
    left_out: Mapping[str, int]
    """Facts of the data that are not used, by reason."""
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
        how = {name: value for name, value in self.model_init_kwargs.items() if name not in _OF_FILES}
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
    recipe = shortened_stoc(recipe, data, model, training)
    with refusals():
        return _prepare(name, recipe, data, model, training, started)


def shortened_stoc(
    recipe: ContinualArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> ContinualArguments:
    """The recipe as `--smoke` runs it, for which `data`, `model` and `training` are edited; without, as it is."""
    if not recipe.smoke:
        return recipe
    if model.model_name_or_path == data.dataset_name in tasks.SMOKE:
        model.model_name_or_path = data.dataset_name = tasks.SMOKE[str(data.dataset_name)]
    training.max_steps = min(training.max_steps, SMOKE_STEPS) if training.max_steps > 0 else SMOKE_STEPS
    training.warmup_steps, training.logging_steps = 0, 1
    return replace(recipe, probe_rows=min(recipe.probe_rows, SMOKE_PROBES) or SMOKE_PROBES)


def _prepare(
    name: str, recipe: ContinualArguments, data: ScriptArguments, model: ModelConfig, training: Any, started: float
) -> StocPlan:
    checks = Checks()
    found = inspect_stoc(recipe, data, model, training, checks)
    arms, new, old, probes = found.arms, found.new, found.old, found.probes
    resume = _resumes(training, len(arms))
    training.output_dir = free_or_claimed_folder(name, training, bool(resume))
    folder = Path(str(training.output_dir))
    for arm, args in arms.items():
        args.output_dir = str(folder if len(arms) == 1 else folder / arm)
        args.resume_from_checkpoint = holds_run(Path(args.output_dir)) or None if resume is True else resume
    claim_identity(folder / IDENTITY, _identity(recipe, data, model, training) | _content(recipe, arms, new, probes))
    if training.process_index == 0:
        print("\n".join([f"run folder: {folder}", found.table, *checks.notes()]))  # noqa: T201
    return StocPlan(
        model=str(model.model_name_or_path)
        if recipe.from_scratch
        else model_path(model.model_name_or_path, training.seed),
        model_init_kwargs=training.model_init_kwargs,
        from_scratch=recipe.from_scratch,
        tokenizer=found.tokenizer,
        peft_config=found.peft_config,
        new=_as_rows(new),
        old=_as_rows(old),
        probes=probes,
        people=found.people,
        left_out=found.left_out,
        arms=arms,
        recall=recipe.recall,
        folder=folder,
        configuration={"recipe": asdict(recipe), "data": asdict(data), "model": asdict(model)},
        title=f"{name} on {data.dataset_name}",
        smoke=recipe.smoke,
        started=started,
    )


def _as_rows(samples: Sequence[Sample]) -> list[Row]:
    """Samples as rows that need no tokenising."""
    return [{"input_ids" if name == "ids" else name: value for name, value in one.items()} for one in samples]


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
