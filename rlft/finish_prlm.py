"""Around PrLM's training: record, trust checks, held-out evaluation; after it: save, reload what was saved, sum up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import ProgressCallback

from rlft.credit import load_credit
from rlft.disk import says_full_disk
from rlft.evaluate.by_profiles import ByProfiles, Setting
from rlft.finish import WritesDown, _run_rows, _short_endings, load_lines
from rlft.prepare_prlm import PersonalPlan
from rlft.record.callback import RecordCallback
from rlft.record.folder import write_whole
from rlft.record.jsonl import read_jsonl, to_json
from rlft.record.personal_curve import draw_personal
from rlft.record.progress import ShortProgress
from rlft.record.summary import summary_table
from rlft.report.write import report_line
from rlft.reward_models.plugin import personalization
from rlft.trainers.best import BestCheckpoint, best_row
from rlft.trainers.trust import TrustCallback, TrustError

EVALUATION = "evaluation.json"
Row = dict[str, Any]


def rewards_of(plan: PersonalPlan, training: Any) -> list[Any] | None:
    """What a `PrLMTrainer` is given: None for PrLM's own rewards, else the recipe's and the reward model's."""
    if plan.reward_funcs is None:
        return None
    if training.scorer is None or not training.personalization_weight:
        return plan.reward_funcs
    personal = personalization(
        folder=training.scorer,
        key=training.answer_key,
        think_end=training.think_end,
        no_answer=training.no_answer,
        device=str(training.device),
    )
    return [*plan.reward_funcs, personal]


@says_full_disk
def train_and_report(trainer: Any, plan: PersonalPlan) -> None:
    """Train, save, evaluate, verify what was saved, and print where everything is.

    Args:
        trainer: a `PrLMTrainer` built from `plan`; every process calls this.
        plan: from `rlft.prepare_prlm.prepare_prlm`.

    Raises:
        SystemExit: with one line, if a reward, the reward model, the credit or a trust check stops the run, or somebody
            interrupts it.
        rlft.trainers.trust.TrustError: if the saved adapter is not the trained one.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    written = WritesDown(plan, [*trainer.reward_funcs, load_credit(args.credit)])
    if not args.resume_from_checkpoint:
        written.write(args)
    trust = TrustCallback()
    temperature = plan.arguments.eval_temperature
    trainer.measured = {"eval_temperature": temperature}
    held_out = ByProfiles(trainer, plan.held_out, plan.settings, plan.measure, temperature=temperature)
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ShortProgress())
    if trainer.eval_dataset is not None:
        asked = Setting(plan.arguments.retriever, plan.arguments.profiles, trainer.eval_dataset["prompt"])
        trainer.task_metrics = ByProfiles(trainer, plan.dev, [asked], plan.measure, temperature=temperature).values
    callbacks = [written, RecordCallback(), trust, BestCheckpoint(), *([held_out] if plan.settings else [])]
    for callback in callbacks:
        trainer.add_callback(callback)
    trust.remember(trainer.model)
    with _short_endings(trainer), _answers_missed(trainer):
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    seconds = trainer.spent()["seconds"]
    trainer.save_model(str(folder))
    if plan.settings:
        held_out.evaluate("after")  # once the adapter is safe on disk
    if args.should_save:
        _report(trainer, plan, held_out.table() if plan.settings else [], trust.report, seconds)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # a process group left open can abort a process as it exits


@contextmanager
def _answers_missed(trainer: Any) -> Iterator[None]:
    """Say of a run without a gradient that none of its completions had an answer, if that is why."""
    try:
        yield
    except TrustError as error:
        shares = [row["prlm/parseable"] for row in trainer.state.log_history if "prlm/parseable" in row]
        if not str(error).startswith("no gradient") or not shares or any(shares):
            raise
        args = trainer.args
        raise TrustError(
            f"no gradient in {trainer.state.global_step} steps: no completion of the run held an answer, so rewards "
            f"had nothing to tell apart. Answers are looked for after --think_end {args.think_end} under --answer_key "
            f"{args.answer_key} (None: all of the text); a completion cut at --max_completion_length "
            f"{args.max_completion_length} may end before its answer."
        ) from None


def _report(trainer: Any, plan: PersonalPlan, table: list[Row], trust: dict[str, float], seconds: float) -> None:
    folder, logged = Path(trainer.args.output_dir), read_jsonl(Path(trainer.args.output_dir) / "record/metrics.jsonl")
    write_whole(folder / EVALUATION, to_json(table) + "\n")
    rows = [*_held_out_rows(table), *best_row(trainer), *_training_rows(logged)]
    rows += _run_rows(trainer, plan, trust, seconds)  # type: ignore[arg-type]
    rows.append(("curve", str(draw_personal(logged, table, folder / "curve.png", plan.title))))
    rows += [("record", str(folder / "record")), report_line(folder)]
    if trainer.args.scorer is not None:
        rows.append(("reward model", str(folder / "scorer")))
    rows.append(("adapter" if plan.peft_config else "model", str(folder)))
    print(f"\n{summary_table(rows)}\n\nLoad it:\n{load_lines(folder, plan.peft_config is not None)}")  # noqa: T201
    if plan.smoke:
        print("\nThe smoke passed: everything works here. After so few steps, the figures mean nothing.")  # noqa: T201


def _held_out_rows(table: Sequence[Row]) -> list[tuple[str, str]]:
    """All metrics of the setting of training, and the first one of every other setting."""
    rows = []
    for place, one in enumerate(table):
        names = list(one["metrics"])
        for name in names if place == 0 else names[:1]:
            label = f"held-out {name.replace('_', ' ')}, {one['retriever']}, k={one['k']}"
            rows.append((label, _change(one["metrics"][name])))
    return rows


def _change(metric: dict[str, dict[str, float]]) -> str:
    before, after, change = (metric[when] for when in ("before", "after", "change"))
    return (
        f"{before['value']:.3f} -> {after['value']:.3f}   {change['value']:+.3f} "
        f"[{change['low']:+.3f}, {change['high']:+.3f}]"
    )


def _training_rows(logged: Sequence[Row]) -> list[tuple[str, str]]:
    """What the terms weighed in the advantages, and what drift checks said."""
    share = "prlm/variance_share/"
    names = list(dict.fromkeys(name for row in logged for name in row if name.startswith(share)))
    shares = [f"{name.removeprefix(share)} {_mean(logged, name):.2f}" for name in names]
    rows = [("share of the advantage variance", ", ".join(shares))] if shares else []
    if checks := [row for row in logged if "drift/alarm" in row]:
        said = [f"step {row['step']} {row['drift/accuracy']:.2f}" for row in checks if "drift/accuracy" in row]
        alarms = [f"{row['step']}" for row in checks if row["drift/alarm"]]
        rows.append(("reward model on fresh pairs", ", ".join(said) or "no pairs"))
        rows.append(("drift alarms", f"at step {', '.join(alarms)}" if alarms else "none"))
    return rows


def _mean(logged: Sequence[Row], name: str) -> float:
    values = [row[name] for row in logged if name in row]
    return float(sum(values) / len(values))
