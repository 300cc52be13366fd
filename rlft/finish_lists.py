"""How the run of a recipe of lists is reported: what a selector chooses, and what a generator makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlft.evaluate.list_metrics import cuts_of
from rlft.finish_em import Lines, Method, Metrics, both_modes, reload_check, say_round
from rlft.finish_em import train_and_report as train_and_report_em
from rlft.pair_folder import ROLES
from rlft.prepare_em import EMPlan
from rlft.prepare_lists import ListPlan


def train_and_report(trainer: Any, plan: ListPlan) -> None:
    """As `rlft.finish_em.train_and_report`, of a `DROTrainer` built from `plan`."""
    shown = _shown(plan.configuration["training"]["list_size"])
    train_and_report_em(trainer, plan, Method(shown, _reloaded, _saved, load_lines, _drawn))


def say_pair_round(plan: ListPlan) -> Callable[[int, Metrics], None]:
    """As `rlft.finish_em.say_round`, with what the selector chooses and how far its lists differ."""
    return say_round(plan, lambda metrics: f"recall@1 {both_modes(metrics, 'recall@1')}", _of_lists)


def load_lines(folder: Path, adapters: bool) -> str:
    """Python that loads a pair: the two of them for use, and each by itself without rlft."""
    library, auto = ("peft", "AutoPeftModelForCausalLM") if adapters else ("transformers", "AutoModelForCausalLM")
    return "\n".join(
        [
            "from rlft import DROPair",
            f'pair = DROPair.load("{folder}")  # pair.select(question, passages), pair.answer(question, passages)',
            "# Or each by itself, without rlft:",
            f"from {library} import {auto}; from transformers import AutoTokenizer",
            *(f'{role} = {auto}.from_pretrained("{folder / role}")' for role in ROLES),
            *(f'{role}_tokenizer = AutoTokenizer.from_pretrained("{folder / role}")' for role in ROLES),
        ]
    )


def _shown(size: int) -> dict[str, str]:
    """Held-out metrics of lists of that size, and what the summary calls them."""
    return {
        "sampled_em": "exact match, sampled",
        "greedy_em": "exact match, greedy",
        "greedy_f1": "F1, greedy",
        "sampled_recall@1": "recall@1 of the selector, sampled",
        **{f"greedy_recall@{cut}": f"recall@{cut} of the selector, greedy" for cut in cuts_of(size)},
        "greedy_gold_recall@1": "gold recall@1 of the selector, greedy",
        "greedy_retriever_recall@1": "recall@1 of the given order",
        "greedy_candidate_recall": "recall of all candidates (upper bound)",
        "sampled_invalid_rate": "unreadable lists, sampled",
    }


def _of_lists(weights: Metrics) -> str:
    entropy = weights.get("permutation_entropy")  # absent where no list could be read
    differing = "" if entropy is None else f", entropy {entropy:.2f} nats"
    return f"lists: {weights['invalid_rate']:.1%} unreadable{differing}"


def _drawn(weights: Metrics) -> Metrics:
    """The weights' figures, with the reasons why lists could not be read as shares of all lists."""
    faults = {name: count for name, count in weights.items() if name.startswith("fault/")}
    return weights | {f"sampled_{name}": count / weights["lists"] for name, count in faults.items()}


def _reloaded(trainer: Any, plan: EMPlan) -> Lines:
    return [(f"{role} reloaded from disk", _reload(trainer, plan, role)) for role in ROLES]


def _reload(trainer: Any, plan: EMPlan, role: str) -> str:
    if role not in trainer.warm_up_datasets and (trainer.best == 0 or getattr(trainer.args, f"freeze_{role}")):
        return "not checked (best round 0: as it started)" if trainer.best == 0 else "not checked (frozen)"
    model = trainer.models[role].load(trainer.folder / f"round-{trainer.best}" / role)
    prompt_ids = trainer.rolls[role].frame.opening(plan.train_rows[0]["question"])
    return reload_check(trainer, model, trainer.folder / role, prompt_ids)


def _saved(folder: Path, adapters: bool) -> Lines:
    return [(f"{role}'s {'adapter' if adapters else 'model'}", str(folder / role)) for role in ROLES]
