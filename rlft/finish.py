"""Around training: record, trust checks, held-out evaluation; after it: save, reload what was saved, sum up."""

import shlex
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlft.configure import ConfigurationError
from rlft.credit import CreditError, load_credit
from rlft.disk import says_full_disk
from rlft.evaluate.policy import HeldOut, evaluate_policy
from rlft.prepare import DEV, Plan
from rlft.record.callback import RecordCallback
from rlft.record.curve import draw_curve
from rlft.record.folder import save_config
from rlft.record.jsonl import read_jsonl
from rlft.record.progress import ShortProgress
from rlft.record.provenance import save_provenance
from rlft.record.stages import AnotherRun
from rlft.record.summary import summary_table
from rlft.report.write import report_line
from rlft.resume.find import NothingToResume
from rlft.resume.manifest import checkpoints, is_sealed
from rlft.rewards import RewardError
from rlft.saved import drop_blank_card
from rlft.trainers.best import BestCheckpoint, best_row
from rlft.trainers.health import HealthError
from rlft.trainers.trust import TrustCallback, TrustError, check_adapter

Results = dict[str, dict[str, float]]


@says_full_disk
def train_and_report(trainer: Any, plan: Plan) -> None:
    """Train, save, verify what was saved, and print where everything is.

    Args:
        trainer: a `GRPOTrainer` built from `plan`; every process calls this.
        plan: from `rlft.prepare.prepare`.

    Raises:
        SystemExit: with one line, if a reward, the credit or a trust check stops the run, or somebody interrupts it.
        rlft.trainers.trust.TrustError: if the saved adapter is not the trained one.
    """
    folder, accuracy = Path(trainer.args.output_dir), HeldOut(trainer, list(plan.held_out), plan.metric)
    trainer.measured = {"eval_metric": plan.configuration["recipe"]["eval_metric"]}
    if trainer.eval_dataset is not None:
        dev = list(trainer.eval_dataset)
        trainer.task_metrics = lambda: {
            DEV: evaluate_policy(trainer, dev, plan.metric, temperature=0.0),
            "rows": len(dev),
        }
    trust, seconds = train_and_save(trainer, plan, [plan.metric], accuracy if len(plan.held_out) else None)
    if trainer.args.should_save:
        rows = [*_accuracy_rows(accuracy.results), *best_row(trainer), *run_rows(trainer, plan, trust, seconds)]
        curve = _curve(folder, accuracy.results, plan.title)
        rows += [("curve", str(curve)), ("record", str(folder / "record")), report_line(folder)]
        rows += [("adapter" if plan.peft_config else "model", str(folder))]
        print(f"\n{summary_table(rows)}\n\nLoad it:\n{load_lines(folder, plan.peft_config is not None)}")  # noqa: T201
        if plan.smoke:
            print("\nThe smoke passed: everything works here. After so few steps, accuracy means nothing.")  # noqa: T201
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # a process group left open can abort a process as it exits


def train_and_save(
    trainer: Any,
    plan: Any,
    functions: Sequence[Any],
    held_out: Any = None,
    endings: AbstractContextManager[Any] | None = None,
) -> tuple[dict[str, float], float]:
    """Train with a record, trust checks and the best checkpoint kept; save; evaluate what was saved.

    Args:
        trainer: a `GRPOTrainer`; every process calls this.
        plan: from `rlft.prepare.prepare` or `rlft.prepare_prlm.prepare_prlm`.
        functions: plug-ins whose files are digested, beside the rewards and the credit.
        held_out: a callback that evaluates before training, and `after` it.
        endings: open while it trains, for a method's own errors.

    Returns:
        What the trust checks found, and the seconds of the training.

    Raises:
        SystemExit: with one line, if the run cannot go on, or somebody interrupts it.
        rlft.trainers.trust.TrustError: if the saved adapter is not the trained one.
    """
    args, trust = trainer.args, TrustCallback()
    written = WritesDown(plan, [*trainer.reward_funcs, *functions, load_credit(args.credit)])
    if not args.resume_from_checkpoint:
        written.write(args)
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ShortProgress())
    for callback in (written, RecordCallback(), trust, BestCheckpoint(), *([held_out] if held_out else [])):
        trainer.add_callback(callback)
    trust.remember(trainer.model)
    with short_endings(trainer), endings or nullcontext():
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    seconds = trainer.spent()["seconds"]
    trainer.save_model(str(args.output_dir))
    if args.should_save:
        drop_blank_card(Path(args.output_dir))
    if held_out:
        held_out.evaluate("after")  # once the adapter is safe on disk
    return trust.report, seconds


class WritesDown(TrainerCallback):
    """Writes down what a run is made of; a resume does so as training begins, since one that is refused must not.

    Args:
        plan: from `rlft.prepare.prepare` or `rlft.prepare_prlm.prepare_prlm`.
        functions: plug-ins whose files are digested.
    """

    def __init__(self, plan: Any, functions: Sequence[Any]):
        self.plan, self.functions = plan, functions

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write for a resume."""
        if args.resume_from_checkpoint:
            self.write(args)

    def write(self, args: TrainingArguments) -> None:
        """Write `config.yaml` and `provenance.json`."""
        folder, plan = Path(str(args.output_dir)), self.plan
        if args.should_save:
            save_config(folder, plan.configuration)
            bases = {plan.model: plan.model_init_kwargs.get("revision")}
            rows = {"train": plan.train_rows, "held out": plan.held_out}
            save_provenance(folder, bases=bases, rows=rows, functions=self.functions, left_out=plan.left_out)


@contextmanager
def short_endings(trainer: Any) -> Iterator[None]:
    """End a run that cannot go on with what happened, where the user's own code raised, and what is kept."""
    folder = Path(trainer.args.output_dir)

    def kept() -> str:
        saved = next((one for one in checkpoints(folder) if is_sealed(one)), None)
        return f"Kept: the record in {folder / 'record'}; {saved or 'no checkpoint was saved'}"

    resume = f"--output_dir {shlex.quote(str(folder))} --resume_from_checkpoint true"
    on = f"the same command with {resume} goes on from there."
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise SystemExit(f"\ninterrupted after {trainer.state.global_step} steps. {kept()}; {on}") from interrupt
    except (AnotherRun, NothingToResume) as error:
        raise ConfigurationError(str(error)) from error
    except HealthError as error:
        raise SystemExit(f"\nerror: {error}\n{kept()}. {error.what_now(folder)}") from error
    except (RewardError, CreditError, TrustError, FloatingPointError) as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise SystemExit(f"\nerror: {error}\n{kept()}; {on}") from error


def _accuracy_rows(results: Results) -> list[tuple[str, str]]:
    return [
        (f"held-out accuracy, {how}", f"{results['before'][how]:.3f} -> {results['after'][how]:.3f}")
        for how in ("sampled", "greedy")
        if results
    ]


def run_rows(trainer: Any, plan: Any, trust: dict[str, float], seconds: float) -> list[tuple[str, str]]:
    """Lines of the summary on what `train_and_save` gave; what was saved is loaded again and compared."""
    return [
        ("seconds", f"{seconds:.0f} training, {time.perf_counter() - plan.started:.0f} in this process"),
        ("trainable parameters", f"{trust['trainable_parameters']:,}"),
        ("distance from start (L2)", f"{trust.get('delta_norm', float('nan')):.4g}"),
        ("reloaded from disk", _reload(trainer, plan)),
    ]


def _reload(trainer: Any, plan: Any) -> str:
    """Compare the files with the model in memory, where one process holds it whole."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return "not checked (sharded)"
    model = trainer.accelerator.unwrap_model(trainer.model)
    if getattr(model, "is_quantized", False):
        return "not checked (quantised base)"
    prompt = trainer.processing_class(str(plan.train_rows[0]["prompt"]), return_tensors="pt")
    difference = check_adapter(model, trainer.args.output_dir, prompt["input_ids"].to(trainer.args.device))
    return f"log-probs differ by {difference:.1e}"


def _curve(folder: Path, results: Results, title: str) -> Path:
    sampled = {when: values["sampled"] for when, values in results.items()}
    return draw_curve(read_jsonl(folder / "record" / "metrics.jsonl"), folder / "curve.png", **sampled, title=title)


def load_lines(folder: Path, adapter: bool) -> str:
    library, auto = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    return (
        f"from {library} import {auto}; from transformers import AutoTokenizer\n"
        f'model = {auto}.from_pretrained("{folder}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")'
    )
