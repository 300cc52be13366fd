"""How the run of a search recipe is reported."""

from pathlib import Path
from typing import Any

from rlft.finish import load_lines
from rlft.finish_em import Lines, Method, reload_check
from rlft.finish_em import train_and_report as train_and_report_em
from rlft.prepare_em import EMPlan
from rlft.prepare_search import SearchPlan

SHOWN = {
    "sampled_em": "exact match, sampled",
    "greedy_em": "exact match, greedy",
    "greedy_f1": "F1, greedy",
    "greedy_cover": "cover accuracy, greedy",
    "greedy_retrieval_recall": "retrieval recall, greedy",
    "greedy_hops": "searches, greedy",
    "greedy_forced_stop_rate": "forced stops, greedy",
}


def train_and_report(trainer: Any, plan: SearchPlan) -> None:
    """As `rlft.finish_em.train_and_report`, of an `ExSearchTrainer` built from `plan`."""
    train_and_report_em(trainer, plan, Method(SHOWN, _reloaded, _saved, load_lines))


def _reloaded(trainer: Any, plan: EMPlan) -> Lines:
    found = "not checked (round 0 is the best: no round improved on the start)"
    if trainer.best > 0:
        prompt_ids = trainer.steps.rolls.frame.opening(plan.train_rows[0]["question"])
        found = reload_check(trainer, trainer.best_model(), trainer.folder, prompt_ids)
    return [("reloaded from disk", found)]


def _saved(folder: Path, adapter: bool) -> Lines:
    return [("adapter" if adapter else "model", str(folder))]
