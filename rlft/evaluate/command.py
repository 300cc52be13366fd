"""The command `rlft eval`: its arguments, what a run's own configuration fills in, and what it prints. No torch."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlft.record.folder import CONFIG_NAME
from rlft.run_folder import RunFolder, find_run

BASE = "base"
_OF_DATA = ("config", "split", "prompt_column", "answer_column")


def add_eval(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `rlft eval`."""
    parser.description = (
        "Asks a model held-out rows, greedily and in samples, and prints metrics with 95 % intervals. Of a run of "
        "recipes/shear.py, what is left out is as in the run: rows, metric, system prompt, caps."
    )
    model = "a run, adapter, merged model, Hub id or embedded task"
    parser.add_argument("model", metavar="MODEL", help=model)
    parser.add_argument("--data", metavar="ROWS", help="a .jsonl, .json, .csv or .parquet file, Hub id or tiny/ task")
    parser.add_argument("--metric", nargs="+", metavar="SPEC", help="answer_match, a reward's name, file.py:function")
    parser.add_argument(
        "--against", metavar="MODEL", help=f"another one, on the same rows; {BASE} is the base of an adapter"
    )
    parser.add_argument("--samples", type=int, default=1, help="of each row, beside the greedy one; default: 1")
    parser.add_argument("--temperature", type=float, help="of samples; default: the run's, or 1")
    parser.add_argument("--max_new_tokens", type=int, help="cap on a completion; default: the run's, or 512")
    parser.add_argument("--rows", type=int, default=0, help="the first ones; default: all")
    parser.add_argument("--config", metavar="NAME", help="configuration of a Hub data set")
    parser.add_argument("--split", help="default: test, or the only one")
    parser.add_argument("--prompt_column", help="default: prompt")
    parser.add_argument("--answer_column", help="default: answer")
    parser.add_argument("--system_prompt", help="turns prompts into conversations that open with it")
    parser.add_argument("--chat_template_kwargs", type=json.loads, metavar="JSON", help='{"enable_thinking": false}')
    parser.add_argument("--batch_size", type=int, default=64, help="completions sampled together; default: 64")
    parser.add_argument("--seed", type=int, default=0, help="of samples and bootstraps; default: 0")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, ...; default: the checkpoint's")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="write eval.json and rows.jsonl there; must be new")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.set_defaults(command=evaluate)
    return parser


def evaluate(arguments: argparse.Namespace) -> str:
    """Evaluate one model, or two on the same rows.

    Returns:
        The figures as text, or as JSON.

    Raises:
        ValueError, OSError: if a model, the rows or a metric cannot be used.
    """
    from transformers.utils.logging import disable_progress_bar

    from rlft.evaluate.asking import Asking
    from rlft.evaluate.own_task import judge, settings_of, summary, table, write_evaluation
    from rlft.rewards.outcomes import RewardError

    disable_progress_bar()
    if arguments.out is not None and arguments.out.exists():
        raise FileExistsError(f"--out {arguments.out} is there already; name another folder.")
    run = _run_of(arguments.model)
    given = _settings(arguments, run)
    rows = _rows(arguments, given, run)
    metrics = _judges(given["metric"], rows.column_names)
    rows = list(rows)
    names = ("max_new_tokens", "temperature", "samples", "batch_size", "seed")
    asking = Asking(**{name: given[name] for name in names}, template_kwargs=given["chat_template_kwargs"] or {})
    judged = []
    try:
        for name, saved in _models(arguments).items():
            judged.append(judge(name, _answers(saved, rows, asking, arguments), rows, metrics))
        entries = summary(judged, arguments.seed)
    except RewardError as error:
        raise ValueError(str(error)) from error
    if arguments.out is not None:
        write_evaluation(
            arguments.out,
            judged,
            rows,
            entries,
            settings=settings_of(asking),
            rows_of=arguments.data or "the rows that the run held out",
        )
    return json.dumps(entries, indent=1) if arguments.json else table(judged, entries)


def _run_of(place: str) -> RunFolder | None:
    """The run that a folder belongs to; None for any other model."""
    folder = Path(place).resolve()
    inside = any((one / CONFIG_NAME).is_file() for one in (folder, *folder.parents[:2]))
    return find_run(place) if folder.is_dir() and inside else None


def _settings(arguments: argparse.Namespace, run: RunFolder | None) -> dict[str, Any]:
    """How the model is asked: flags, then what the run was configured with, then defaults."""
    defaults = {"temperature": 1.0, "max_new_tokens": 512, "system_prompt": None, "chat_template_kwargs": None}
    own: dict[str, Any] = {}
    if run is not None and run.method == "shear":
        recipe, training = run.configuration["recipe"], run.training
        own = {name: training[name] for name in ("temperature", "chat_template_kwargs")}
        own |= {"max_new_tokens": training["max_completion_length"], "system_prompt": recipe["system_prompt"]}
        own["metric"] = [recipe["eval_metric"]]
    elif arguments.data is None:
        own_way = "" if run is None else f" (a run of {run.method} asks in its own way, which this command does not)"
        raise ValueError(f"nothing says what {arguments.model} is to be asked{own_way}: give --data rows.jsonl.")
    found = defaults | own | {name: value for name, value in vars(arguments).items() if value is not None}
    if "metric" not in found:
        raise ValueError("nothing says what answers are worth: give --metric answer_match, or another.")
    return found


def _rows(arguments: argparse.Namespace, given: Mapping[str, Any], run: RunFolder | None) -> Any:
    """Rows of `--data`, else exactly those that the run held out."""
    import datasets

    from rlft.data.prompts import load_held_out, load_prompts

    datasets.disable_progress_bars()
    flags = {name: given[name] for name in _OF_DATA if name in given}
    if run is None or arguments.data is not None:
        return load_held_out(arguments.data, system_prompt=given["system_prompt"], rows=arguments.rows, **flags)
    if flags:
        raise ValueError(f"--{next(iter(flags))} says how --data is read, and there is none; leave it out.")
    recipe, data = run.configuration["recipe"], run.configuration["data"]
    held_out = load_prompts(
        data["dataset_name"],
        config=data["dataset_config"],
        train_split=data["dataset_train_split"],
        test_split=data["dataset_test_split"],
        prompt_column=recipe["prompt_column"],
        answer_column=recipe["answer_column"],
        system_prompt=given["system_prompt"],
        held_out=recipe["eval_rows"],
    ).held_out
    if not len(held_out):
        raise ValueError(f"{run.run} held out no rows (--eval_rows 0); give --data rows.jsonl.")
    return held_out.select(range(min(arguments.rows or len(held_out), len(held_out))))


def _judges(specs: list[str], columns: list[str]) -> list[Any]:
    from rlft.evaluate.metrics import METRICS
    from rlft.plugins import resolve
    from rlft.rewards import RewardError, check_columns, checked
    from rlft.rewards.loading import ready_made, refuse_same_names

    found = [resolve(spec, kind="metric", names=METRICS | ready_made()) for spec in specs]
    try:
        refuse_same_names(found)
        check_columns(found, columns)
    except RewardError as error:
        raise ValueError(str(error)) from error
    return [checked(metric) for metric in found]


def _models(arguments: argparse.Namespace) -> dict[str, Any]:
    """By name in the figures: the model, and the one it is compared with."""
    from rlft.saved import SavedModel

    first = _saved(arguments.model)
    if arguments.against == BASE and first.base is None:
        raise ValueError(f"--against {BASE} needs an adapter, and {arguments.model} is a whole model; name a model.")
    if arguments.against is None:
        return {_name(arguments.model): first}
    base = SavedModel(first.start, None, first.revision)
    other = base if arguments.against == BASE else _saved(arguments.against)
    names = [_name(arguments.model), BASE if arguments.against == BASE else _name(arguments.against)]
    if names[0] == names[1]:
        names = [arguments.model, arguments.against]
    if names[0] == names[1]:
        raise ValueError(f"--against {arguments.against} is the model itself; name another one.")
    return dict(zip(names, (first, other), strict=True))


def _saved(place: str) -> Any:
    from rlft.saved import saved_model
    from rlft.tiny.tasks import TASKS, warm_start

    return saved_model(warm_start(place, 0) if place in TASKS else place)


def _name(place: str) -> str:
    return Path(place).name if Path(place).is_dir() else place


def _answers(saved: Any, rows: list[Any], asking: Any, arguments: argparse.Namespace) -> Any:
    """What a model says; it is let go of afterwards, so that two models are never in memory together."""
    from rlft.evaluate.asking import ask
    from rlft.saved import load_model, load_tokenizer

    model = load_model(saved, dtype=arguments.dtype, device=arguments.device)
    return ask(model, load_tokenizer(saved), [row["prompt"] for row in rows], asking)
