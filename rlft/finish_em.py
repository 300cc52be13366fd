"""Around an EM run: record, progress, held-out evaluation; after it: save, reload what was saved, sum up."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from rlft.checks import refusals
from rlft.configure import ConfigurationError
from rlft.disk import says_full_disk
from rlft.em.rounds import NothingToLearn
from rlft.prepare_em import EMPlan
from rlft.record.folder import save_config
from rlft.record.provenance import save_provenance
from rlft.record.rounds_curve import draw_rounds
from rlft.record.stages import AnotherRun
from rlft.record.summary import summary_table
from rlft.report.write import report_line
from rlft.retrieval import RetrievalError
from rlft.rollouts.server_policy import ServerError
from rlft.trainers.dro_learning import MostDropped
from rlft.trainers.health import HealthError
from rlft.trainers.trust import TrustError, check_adapter

Metrics = dict[str, float]
Lines = list[tuple[str, str]]


def _nothing(_: Metrics) -> str:
    return ""


class Method(NamedTuple):
    """How a method's run is summed up."""

    shown: Mapping[str, str]
    """Held-out metrics, and what the summary calls them."""
    reloaded: Callable[[Any, EMPlan], Lines]
    """Compares what was saved with what was trained; lines about that."""
    saved: Callable[[Path, bool], Lines]
    """Where the result is, in a folder, as adapters or not."""
    load: Callable[[Path, bool], str]
    """Python that loads it."""
    of_weights: Callable[[Metrics], Metrics] = dict
    """What is drawn of a round's weights.json."""


@says_full_disk
def train_and_report(trainer: Any, plan: EMPlan, method: Method) -> None:
    """Train, save, verify what was saved, and print where everything is.

    Args:
        trainer: an `EMTrainer` built from `plan`; every process calls this.
        plan: of the recipe.
        method: how it is summed up.

    Raises:
        SystemExit: with one line, if a search, the data or a trust check stops the run, or somebody interrupts it.
        rlft.trainers.trust.TrustError: if what was saved is not what was trained.
    """
    folder, main = Path(str(trainer.args.output_dir)), PartialState().is_main_process
    started = time.perf_counter()
    with refusals():
        if len(plan.test_rows):
            trainer.check_rows(plan.test_rows, "the held-out questions")
    with _short_endings(trainer, folder):
        trainer.claim_folder()
        if main:
            save_config(folder, plan.configuration)
            save_provenance(
                folder,
                bases=dict.fromkeys(plan.bases, plan.model_init_kwargs.get("revision")),
                rows={"train": plan.train_rows, "dev": plan.dev_rows, "held out": plan.test_rows},
                left_out=plan.left_out,
            )
        trainer.train()
        trainer.save_model()
        held_out = _held_out(trainer, plan)
    seconds = time.perf_counter() - started
    if main:
        rows = [*_accuracy_rows(held_out, method.shown), *_run_rows(trainer, plan, seconds)]
        rows += method.reloaded(trainer, plan)
        picture = draw_rounds(_by_round(trainer, folder, method), folder / "curve.png", title=plan.title)
        rows += [("curve", str(picture)), ("rounds", str(folder / "round-*")), report_line(folder)]
        adapters = plan.peft_config is not None
        rows += method.saved(folder, adapters)
        print(f"\n{summary_table(rows)}\n\nLoad it:\n{method.load(folder, adapters)}")  # noqa: T201
        if plan.smoke:
            print("\nThe smoke passed: everything works here. After so little, accuracy means nothing.")  # noqa: T201
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # one left open can abort a process as it exits


def say_round(
    plan: EMPlan, of_dev: Callable[[Metrics], str] = _nothing, of_weights: Callable[[Metrics], str] = _nothing
) -> Callable[[int, Metrics], None]:
    """Prints a line for each round: how good it is, what its weights looked like, how long it took.

    Args:
        plan: of the recipe.
        of_dev: what else the line says of the dev metrics.
        of_weights: what else it says of what weights.json holds; not asked of round 0, which has none.
    """
    training = plan.configuration["training"]
    folder, samples = Path(str(training["output_dir"])), training["num_generations"]

    def say(number: int, metrics: Metrics) -> None:
        weights = weights_of(folder, number)
        parts = [f"round {number}: dev exact match {both_modes(metrics, 'em')}", of_dev(metrics)]
        if weights:
            dropped = round(weights["questions"] - weights["kept"])
            parts.append(f"{dropped} of {weights['questions']:.0f} questions dropped")
            if weights["kept"]:
                parts[-1] += f", effective sample size {samples * weights['ess_ratio']:.1f} of {samples}"
            parts.append(of_weights(weights))
        parts.append(f"{time.perf_counter() - plan.started:.0f} s")
        tqdm.write("; ".join(filter(None, parts)))

    return say


def both_modes(metrics: Metrics, name: str) -> str:
    """A metric as `greedy 0.512, sampled 0.430`, as far as it is there."""
    modes = [mode for mode in ("greedy", "sampled") if f"{mode}_{name}" in metrics]
    return ", ".join(f"{mode} {metrics[f'{mode}_{name}']:.3f}" for mode in modes)


def weights_of(folder: Path, number: int) -> Metrics:
    """What a round's weights.json sums up; nothing for round 0."""
    path = folder / f"round-{number}" / "weights.json"
    if not path.exists():
        return {}
    return {name: value for name, value in json.loads(path.read_text()).items() if isinstance(value, float)}


def reload_check(trainer: Any, model: torch.nn.Module, folder: Path, prompt_ids: list[int]) -> str:
    """Compare what plain peft (or transformers) loads from a folder with a model.

    Raises:
        rlft.trainers.trust.TrustError: if they differ.
    """
    if getattr(model, "is_quantized", False):
        return "not checked (quantised base)"
    difference = check_adapter(model, folder, torch.tensor([prompt_ids], device=trainer.args.device))
    return f"log-probs differ by {difference:.1e}"


def _held_out(trainer: Any, plan: EMPlan) -> dict[str, Metrics]:
    """Metrics of the held-out questions before round 1 and with the best round."""
    if not len(plan.test_rows):
        return {}
    rounds = {"before": 0, "after": trainer.best}
    return {when: trainer.evaluate(plan.test_rows, name="test", round=number) for when, number in rounds.items()}


@contextmanager
def _short_endings(trainer: Any, folder: Path) -> Iterator[None]:
    """End a run that cannot go on with what happened, and how to go on where that is possible."""
    kept = f"Everything finished so far is in {folder}"
    resume = f"--output_dir {shlex.quote(str(folder))} --resume_from_checkpoint true"
    same = f"{kept}; the same command with {resume} goes on from there."
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise SystemExit(f"\ninterrupted. {same}") from interrupt
    except AnotherRun as error:
        raise ConfigurationError(str(error)) from error
    except (RetrievalError, ServerError) as error:
        raise SystemExit(f"\nerror: {error}\n{same}") from error
    except HealthError as error:
        raise SystemExit(f"\nerror: {error}\n{kept}. {error.what_now(folder)}") from error
    except (MostDropped, NothingToLearn, TrustError, ValueError) as error:
        if isinstance(error, ValueError) and not trainer.history:
            raise ConfigurationError(f"{error} (Other settings need another --output_dir than {folder}.)") from error
        raise SystemExit(f"\nerror: {error}\n{kept}. Other settings need another --output_dir.") from error


def _accuracy_rows(held_out: dict[str, Metrics], shown: Mapping[str, str]) -> Lines:
    before, after = held_out.get("before", {}), held_out.get("after", {})
    return [
        (f"held-out {text}", f"{before[key]:.3f} -> {after[key]:.3f}") for key, text in shown.items() if key in after
    ]


def _run_rows(trainer: Any, plan: EMPlan, seconds: float) -> Lines:
    metric = trainer.args.metric_for_best_model
    chosen = [("best round", f"{trainer.best}, the last one (metric_for_best_model=round)")]
    if metric != "round":
        by_round = ", ".join(f"{metrics[metric]:.3f}" for metrics in trainer.history)
        chosen = [(f"dev {metric} by round", by_round), ("best round", f"{trainer.best}")]
    return [
        *chosen,
        (
            "seconds",
            f"{seconds:.0f} training and evaluation, {time.perf_counter() - plan.started:.0f} in this process",
        ),
    ]


def _by_round(trainer: Any, folder: Path, method: Method) -> list[Metrics]:
    """Dev metrics of every round, with what its weights looked like."""
    rounds = enumerate(trainer.history)
    return [metrics | dict(method.of_weights(weights_of(folder, number))) for number, metrics in rounds]
