"""Metrics of models on held-out rows, greedy and sampled, with intervals, and the paired difference of two models.

eval.json     metrics, settings, digest of the rows
rows.jsonl    every completion with its values
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft.evaluate.asking import Answer
from rlft.evaluate.intervals import difference_interval, mean_interval
from rlft.record.folder import write_whole
from rlft.record.jsonl import json_lines, to_json
from rlft.record.provenance import rows_digest
from rlft.rewards.boundary import reward_name

Row = Mapping[str, Any]
Answers = Mapping[str, Sequence[Sequence[Answer]]]
Values = list[list[float | None]]
"""(N, K): of K completions of each of N rows; None where the metric does not apply."""


@dataclass(frozen=True)
class Judged:
    """One model's completions and what they are worth."""

    name: str
    answers: Answers
    """By mode (greedy, sampled)."""
    values: Mapping[str, Mapping[str, Values]]
    """By mode and metric."""


def judge(name: str, answers: Answers, rows: Sequence[Row], metrics: Sequence[Callable[..., Any]]) -> Judged:
    """Score a model's completions.

    Args:
        name: of the model.
        answers: from `rlft.evaluate.asking.ask`.
        rows: N rows with `prompt` and the columns that metrics read.
        metrics: with the signature of a reward, as `rlft.rewards.checked` returns them.

    Raises:
        rlft.rewards.RewardError: if a metric fails.
    """
    columns = [column for column in rows[0] if column != "prompt"]
    values: dict[str, dict[str, Values]] = {}
    for mode, of_rows in answers.items():
        flat = [(row, answer) for row, found in zip(rows, of_rows, strict=True) for answer in found]
        given: dict[str, list[Any]] = {column: [row[column] for row, _ in flat] for column in columns}
        given["prompts"] = [row["prompt"] for row, _ in flat]
        given["completions"] = [_as_prompted(answer.text, row["prompt"]) for row, answer in flat]
        width = len(of_rows[0])
        scored = {reward_name(metric): list(metric(**given)) for metric in metrics}
        values[mode] = {
            metric: [found[start : start + width] for start in range(0, len(found), width)]
            for metric, found in scored.items()
        }
    return Judged(name, answers, values)


def summary(models: Sequence[Judged], seed: int = 0) -> list[dict[str, Any]]:
    """An entry for each mode and metric: every model's mean with its interval, and the first less the second.

    Args:
        models: one or two, on the same rows.
        seed: of bootstraps.

    Raises:
        ValueError: if a metric applies to no row.
    """
    return [
        {"mode": mode, "metric": metric} | _figures(models, mode, metric, seed)
        for mode, metrics in models[0].values.items()
        for metric in metrics
    ]


def _figures(models: Sequence[Judged], mode: str, metric: str, seed: int) -> dict[str, Any]:
    means = [_row_means(model.values[mode][metric]) for model in models]
    places = [place for place, of_models in enumerate(zip(*means, strict=True)) if None not in of_models]
    if not places:
        raise ValueError(f"metric {metric!r} applies to none of the rows; name one that does with --metric.")
    kept = [[float(mean[place] or 0.0) for place in places] for mean in means]
    names = [model.name for model in models]
    found: dict[str, Any] = {"rows": len(places)}
    found["models"] = {
        name: mean_interval(values, seed)._asdict() | {"cut": _cut(model.answers[mode])}
        for name, values, model in zip(names, kept, models, strict=True)
    }
    if len(models) == 2:
        ahead = [a - b for a, b in zip(*kept, strict=True)]
        found["difference"] = difference_interval(kept[0], kept[1], seed)._asdict() | {
            "better_rows": sum(one > 0 for one in ahead),
            "worse_rows": sum(one < 0 for one in ahead),
        }
    return found


def _row_means(values: Values) -> list[float | None]:
    known = [[value for value in of_row if value is not None] for of_row in values]
    return [sum(map(float, of_row)) / len(of_row) if of_row else None for of_row in known]


def _cut(answers: Sequence[Sequence[Answer]]) -> float:
    """Share of the completions that the token cap cut."""
    stopped = [one.stopped for of_row in answers for one in of_row]
    return 1 - sum(stopped) / len(stopped)


def _as_prompted(text: str, prompt: Any) -> Any:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def write_evaluation(
    folder: Path, models: Sequence[Judged], rows: Sequence[Row], entries: Sequence[Mapping[str, Any]], **said: Any
) -> None:
    """Write `eval.json` and `rows.jsonl`, each of them whole.

    Args:
        folder: made if it is not there.
        models: judged.
        rows: their rows.
        entries: from `summary`.
        **said: further things to keep in `eval.json`, such as the settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "rows.jsonl", json_lines(_lines(models, rows)))
    write_whole(folder / "eval.json", to_json({"metrics": list(entries), "data": rows_digest(rows), **said}) + "\n")


def _lines(models: Sequence[Judged], rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        for model in models:
            for mode, answers in model.answers.items():
                for sample, answer in enumerate(answers[number]):
                    values = {name: found[number][sample] for name, found in model.values[mode].items()}
                    yield {"row": number, "model": model.name, "mode": mode, "sample": sample, "values": values} | {
                        "prompt": row["prompt"],
                        "completion": answer.text,
                        "answer": row.get("answer"),
                        "cut": not answer.stopped,
                    }


def table(models: Sequence[Judged], entries: Sequence[Mapping[str, Any]]) -> str:
    """The figures as text."""
    lines = []
    for entry in entries:
        lines.append(f"{entry['metric']}, {entry['mode']}, {entry['rows']} rows")
        for name, found in entry["models"].items():
            cut = f"   {found['cut']:.1%} cut at the token cap" if found["cut"] else ""
            lines.append(f"  {name:<24} {_interval(found)}{cut}")
        if "difference" in entry:
            found = entry["difference"]
            rows = f"better on {found['better_rows']} rows, worse on {found['worse_rows']}"
            lines.append(f"  {'difference':<24} {_interval(found, '+')}   {rows}")
    return "\n".join(lines)


def _interval(found: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (format(found[name], f"{sign}.3f") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
