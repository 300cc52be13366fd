"""Around an EM run: record, held-out evaluation, progress; after it: save, reload what was saved, sum up."""

import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from rlft.em.rounds import NothingToLearn
from rlft.em.stages import AnotherRun
from rlft.finish import load_lines
from rlft.prepare_search import SearchPlan
from rlft.record.folder import save_config
from rlft.record.rounds_curve import draw_rounds
from rlft.record.summary import summary_table
from rlft.retrieval import RetrievalError
from rlft.rollouts.server_policy import ServerError
from rlft.trainers.trust import TrustError, check_adapter

Metrics = dict[str, float]


def train_and_report(trainer: Any, plan: SearchPlan) -> None:
    """Train, save, verify what was saved, and print where everything is.

    Args:
        trainer: an `ExSearchTrainer` built from `plan`; every process calls this.
        plan: from `rlft.prepare_search.prepare_search`.

    Raises:
        SystemExit: with one line, if a search, the data or a trust check stops the run, or somebody interrupts it.
        rlft.trainers.trust.TrustError: if the saved adapter is not the trained one.
    """
    folder, main = Path(str(trainer.args.output_dir)), PartialState().is_main_process
    started = time.perf_counter()
    with _short_endings(folder):
        trainer.claim_folder()
        if main:
            save_config(folder, plan.configuration)
        trainer.train()
        held_out = _held_out(trainer, plan)
    seconds = time.perf_counter() - started
    trainer.save_model()
    if main:
        rows = [*_accuracy_rows(held_out), *_run_rows(trainer, plan, seconds)]
        picture = draw_rounds(_by_round(trainer, folder), folder / "curve.png", title=plan.title)
        rows += [("curve", str(picture)), ("rounds", str(folder / "round-*"))]
        rows += [("adapter" if plan.peft_config else "model", str(folder))]
        print(f"\n{summary_table(rows)}\n\nLoad it:\n{load_lines(folder, plan.peft_config is not None)}")  # noqa: T201
        if plan.smoke:
            print("\nThe smoke passed: everything works here. After so little, accuracy means nothing.")  # noqa: T201
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # one left open can abort a process as it exits


def say_round(plan: SearchPlan) -> Callable[[int, Metrics], None]:
    """Prints a line for each round: how good it is, what its weights looked like, how long it took."""
    training = plan.configuration["training"]
    folder, samples = Path(str(training["output_dir"])), training["num_generations"]

    def say(number: int, metrics: Metrics) -> None:
        scores = [f"{mode} {metrics[f'{mode}_em']:.3f}" for mode in ("greedy", "sampled") if f"{mode}_em" in metrics]
        line = f"round {number}: dev exact match {', '.join(scores)}"
        path = folder / f"round-{number}" / "weights.json"
        if path.exists():
            weights = json.loads(path.read_text())
            dropped = round(weights["questions"] - weights["kept"])
            line += f"; {dropped} of {weights['questions']:.0f} questions dropped"
            if weights["kept"]:
                line += f", effective sample size {samples * weights['ess_ratio']:.1f} of {samples}"
        tqdm.write(f"{line}; {time.perf_counter() - plan.started:.0f} s")

    return say


def _held_out(trainer: Any, plan: SearchPlan) -> dict[str, Metrics]:
    """Metrics of the held-out questions before round 1 and with the best round."""
    if not len(plan.test_rows):
        return {}
    rounds = {"before": 0, "after": trainer.best}
    return {when: trainer.evaluate(plan.test_rows, name="test", round=number) for when, number in rounds.items()}


@contextmanager
def _short_endings(folder: Path) -> Iterator[None]:
    """End a run that cannot go on with what happened, and how to go on where that is possible."""
    kept = f"Everything finished so far is in {folder}"
    resume = f"--output_dir {shlex.quote(str(folder))} --resume_from_checkpoint true"
    same = f"{kept}; the same command with {resume} goes on from there."
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise SystemExit(f"\ninterrupted. {same}") from interrupt
    except AnotherRun as error:
        raise SystemExit(f"error: {error}") from error
    except (RetrievalError, ServerError) as error:
        raise SystemExit(f"\nerror: {error}\n{same}") from error
    except (NothingToLearn, TrustError, ValueError) as error:
        raise SystemExit(f"\nerror: {error}\n{kept}. Other settings need another --output_dir.") from error


def _accuracy_rows(held_out: dict[str, Metrics]) -> list[tuple[str, str]]:
    shown = {
        "sampled_em": "exact match, sampled",
        "greedy_em": "exact match, greedy",
        "greedy_f1": "F1, greedy",
        "greedy_cover": "cover accuracy, greedy",
        "greedy_retrieval_recall": "retrieval recall, greedy",
        "greedy_hops": "searches, greedy",
        "greedy_forced_stop_rate": "forced stops, greedy",
    }
    before, after = held_out.get("before", {}), held_out.get("after", {})
    return [
        (f"held-out {text}", f"{before[key]:.3f} -> {after[key]:.3f}") for key, text in shown.items() if key in after
    ]


def _run_rows(trainer: Any, plan: SearchPlan, seconds: float) -> list[tuple[str, str]]:
    metric = trainer.args.metric_for_best_model
    by_round = ", ".join(f"{metrics[metric]:.3f}" for metrics in trainer.history)
    return [
        (f"dev {metric} by round", by_round),
        ("best round", f"{trainer.best}"),
        ("seconds", f"{seconds:.0f} training and evaluation, {time.perf_counter() - plan.started:.0f} in all"),
        ("reloaded from disk", _reload(trainer, plan)),
    ]


def _reload(trainer: Any, plan: SearchPlan) -> str:
    if trainer.best == 0:
        return "not checked (round 0 is the best: no round improved on the start)"
    model = trainer.best_model()
    if getattr(model, "is_quantized", False):
        return "not checked (quantised base)"
    prompt = trainer.steps.rolls.frame.opening(plan.train_rows[0]["question"])
    difference = check_adapter(model, trainer.folder, torch.tensor([prompt], device=trainer.args.device))
    return f"log-probs differ by {difference:.1e}"


def _by_round(trainer: Any, folder: Path) -> list[Metrics]:
    """Dev metrics of every round, with what its weights looked like."""
    rounds = []
    for number, metrics in enumerate(trainer.history):
        path = folder / f"round-{number}" / "weights.json"
        weights = json.loads(path.read_text()) if path.exists() else {}
        rounds.append(metrics | {key: value for key, value in weights.items() if isinstance(value, float)})
    return rounds
