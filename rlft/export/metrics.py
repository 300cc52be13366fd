"""Metrics of a run before and after training, as its own files have them. No torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlft.record.jsonl import read_jsonl
from rlft.record.stages import digest
from rlft.run_folder import RunFolder

MEANING = {
    "em": "share of the questions whose answer equals a gold answer (normalised)",
    "f1": "word overlap of the answer with the nearest gold answer",
    "cover": "share of the answers that contain a gold answer",
    "retrieval_recall": "share of the gold passages that some search found",
    "recall@1": "share of the questions whose first chosen passage holds a gold answer",
    "rouge1": "ROUGE-1 F1 against the user's own text",
    "rougeL": "ROUGE-L F1 against the user's own text",
    "accuracy": "share of the labels that are right",
    "macro_f1": "F1 of the labels, each label counting once",
    "own": "share of the answers in the user's own style",
    "generic": "share of the answers in the plain style",
    "other": "share of the answers in any other style",
    "content_f1": "word overlap with what was asked for, style aside",
    "mae": "mean absolute error of ratings; lower is better",
    "rmse": "root mean squared error of ratings; lower is better",
    "hfta": "share of the facts whose first token is the likeliest",
    "sfta": "probability of the first token of a fact",
    "soft": "mean probability of a fact's tokens",
    "exact": "share of the facts whose tokens are all the likeliest",
    "parseable": "share of the completions with an answer that can be read",
}
"""Metrics by name; another one's meaning stands in the documentation of what computes it."""
_SHOWN = ("em", "f1", "cover", "retrieval_recall", "recall@1")


class Figure(NamedTuple):
    """One metric, on held-out rows."""

    name: str
    before: float
    after: float
    meaning: str


def figures_of(run: RunFolder) -> list[Figure]:
    """Held-out metrics before training and of the models that are there.

    Empty for a checkpoint of a run that evaluates at its end only, and for a run without held-out rows.
    """
    readers = {"shear": _accuracy, "prlm": _by_profiles, "stoc": _recall, "exsearch": _rounds, "dro": _rounds}
    return [figure for figure in readers[run.method](run) if figure.before == figure.before]


def _accuracy(run: RunFolder) -> Iterator[Figure]:
    path = run.run / "record" / "metrics.jsonl"
    if not run.whole or not path.is_file():
        return
    logged = {name: value for row in read_jsonl(path) for name, value in row.items() if name.startswith("accuracy/")}
    metric = str(run.configuration["recipe"]["eval_metric"])
    for how in ("sampled", "greedy"):
        before, after = logged.get(f"accuracy/before_{how}"), logged.get(f"accuracy/after_{how}")
        if before is not None and after is not None:
            yield Figure(f"{metric}, {how}", before, after, "mean of the task metric")


def _by_profiles(run: RunFolder) -> Iterator[Figure]:
    path = run.run / "evaluation.json"
    if run.whole and path.is_file():
        for setting in json.loads(path.read_text(encoding="utf-8")):
            for name, values in setting["metrics"].items():
                label = f"{name}, {setting['retriever']}, k={setting['k']}"
                yield Figure(label, values["before"]["value"], values["after"]["value"], MEANING.get(name, ""))


def _recall(run: RunFolder) -> Iterator[Figure]:
    path = run.folder / "arm.json"
    if path.is_file():
        for probes, metrics in json.loads(path.read_text(encoding="utf-8"))["recall"].items():
            for name, values in metrics.items():
                before, after = values["before"]["value"], values["after"]["value"]
                yield Figure(f"{name}, {probes} data", before, after, MEANING.get(name, ""))


def _rounds(run: RunFolder) -> Iterator[Figure]:
    """Held-out metrics of round 0 and of the round whose weights are there; a round without them has dev metrics."""
    first, last = run.run / "round-0", _round_of(run)
    if last is None:
        return
    name = next((path.name for path in sorted(last.glob("test-*.json")) if (first / path.name).is_file()), "dev.json")
    before, after = _json(first / name), _json(last / name)
    where = "" if name != "dev.json" else ", on the questions that chose the round"
    for metric in (f"{mode}_{metric}" for metric in _SHOWN for mode in ("greedy", "sampled")):
        if metric in before and metric in after:
            mode, _, bare = metric.partition("_")
            yield Figure(f"{bare}, {mode}{where}", before[metric], after[metric], MEANING[bare])


def _round_of(run: RunFolder) -> Path | None:
    """The round whose files the models are."""
    if run.folder.name.startswith("round-"):
        return run.folder
    wanted = {role: _weights(Path(saved.place)) for role, saved in run.models.items()}
    rounds = sorted(run.run.glob("round-*"), key=lambda path: int(path.name.partition("-")[2]))
    matches = [one for one in rounds if all(_weights(one / role) == found for role, found in wanted.items())]
    return matches[-1] if matches else None


def _weights(folder: Path) -> list[str | None]:
    return [digest(path) for path in sorted(folder.glob("*.safetensors"))]


def _json(path: Path) -> Mapping[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
