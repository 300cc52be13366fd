"""The commands `rlft check` and `rlft check-reward`: arguments, and what they print. Imports no torch by itself."""

import argparse
import json
from collections.abc import Sequence
from typing import Any


class Wrong(Exception):
    """The check found faults; its text is the whole report."""


def add_check(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `rlft check`."""
    parser.description = (
        "Looks at a run before it starts: plug-ins, rewards on probes, columns, tokens, batches, adapter, memory, "
        "disk. No GPU, no weights. Whatever is wrong is listed at once, and the exit code is then 1. All behind RECIPE "
        "is as on the recipe's own command line: rlft check shear --config single_gpu --reward_funcs my.py:score"
    )
    own = "[--device_gib GIB] [--num_processes N] [--gold FORM] [--weights] [--json]"
    parser.usage = f"rlft check RECIPE [flags of the recipe] {own}"
    parser.add_argument("recipe", metavar="RECIPE", help="shear, exsearch, dro, prlm, stoc, or the path of a copy")
    parser.add_argument("flags", nargs=argparse.REMAINDER, default=[], metavar="...", help="flags of the recipe")
    _add_own(parser)
    parser.set_defaults(command=check)
    return parser


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device_gib", type=float, metavar="GIB", help="memory of one device; default: the GPU's")
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="that will train; default: 1")
    parser.add_argument("--gold", metavar="FORM", help="how rewards want the answer: 'Answer: {answer}'")
    parser.add_argument("--weights", action="store_true", help="load the model too, and try a forward and a backward")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")


def check(arguments: argparse.Namespace) -> str:
    """Look at a run.

    Returns:
        The report.

    Raises:
        Wrong: with the report, if there is a fault.
        ValueError: if there is no such recipe.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_own(parser)
    own, flags = parser.parse_known_args(arguments.flags, arguments)

    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    from rlft.check.recipes import as_launched
    from rlft.checks import Checks

    disable_progress_bar()
    disable_progress_bars()
    checks = Checks(go_on=True)
    with as_launched(own.num_processes):
        seen = _seen(own, flags, checks)
    head = f"rlft check {' '.join([own.recipe, *flags])}"
    return _report(head, seen.sections, seen.figures, checks, as_json=own.json)


def _seen(own: argparse.Namespace, flags: Sequence[str], checks: Any) -> Any:
    """What there is to see of a run whose flags can be read."""
    from rlft.check.look import look
    from rlft.check.recipes import parsed
    from rlft.check.subject import subject_of
    from rlft.check.text import Look

    run = parsed(own.recipe, flags, checks)
    if run is None:
        return Look()
    subject = subject_of(run, checks)
    seen = look(run, subject, checks, device_gib=own.device_gib, gold=own.gold)
    if own.weights:
        from rlft.check.weights import try_weights

        seen.add(checks.of("weights", try_weights, run.model, run.training, subject.inputs.peft_config))
    return seen


def add_check_reward(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `rlft check-reward`."""
    parser.description = (
        "Tries rewards on rows of yours, with completions whose worth is known: the gold answer, another row's, "
        "nothing, a copy of the prompt, the gold answer over and over, and with garbage behind it. Exit code 1 if one "
        "breaks its contract, or pays for nothing as for the answer."
    )
    parser.add_argument("spec", metavar="SPEC", nargs="+", help="a ready-made name, package.module:f or my.py:f; then")
    parser.add_argument("data", metavar="DATA", help="rows: .jsonl, .json, .parquet, .csv, tiny/addition, or a Hub id")
    parser.add_argument("--prompt_column", default="prompt", help="default: prompt")
    parser.add_argument("--answer_column", default="answer", help="seen by rewards as `answer`; default: answer")
    parser.add_argument("--system_prompt", help="makes conversations of the prompts, as in the recipe")
    parser.add_argument("--rows", type=int, default=8, help="rows to try, the first ones; default: 8")
    parser.add_argument("--gold", metavar="FORM", help="how rewards want the answer: 'Answer: {answer}'")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a batch; default: 60")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.set_defaults(command=check_reward)
    return parser


def check_reward(arguments: argparse.Namespace) -> str:
    """Try rewards on rows.

    Returns:
        The report.

    Raises:
        Wrong: with the report, if there is a fault.
    """
    from datasets import disable_progress_bars

    from rlft.check.probes import probe, sample_rows, spellings
    from rlft.check.reward import note_findings, reward_figures, rewards_section
    from rlft.checks import MISSING, Checks
    from rlft.data.prompts import load_prompts
    from rlft.rewards import check_columns, load_rewards

    disable_progress_bars()
    checks, columns = Checks(go_on=True), ("prompt_column", "answer_column", "system_prompt")
    options = {name: getattr(arguments, name) for name in columns}
    loaded = checks.of("data", load_prompts, arguments.data, held_out=0, **options)
    rewards = [checks.of("reward", load_rewards, [spec])[0] for spec in arguments.spec]
    for reward in rewards:
        checks.of("columns", lambda one, rows: check_columns([one], rows.column_names), reward, loaded[0])
    probed: Any = MISSING
    rows = checks.of("data", sample_rows, loaded[0], arguments.rows)
    if not checks.faults:
        forms = [arguments.gold] if arguments.gold else spellings()
        probed = checks.of("reward", probe, rewards, rows, forms=forms, timeout=arguments.timeout)
    sections, figures = [], {}
    if probed is not MISSING:
        note_findings(probed, checks)
        sections, figures = [rewards_section(probed, len(rows))], {"rewards": reward_figures(probed)}
    head = f"rlft check-reward {' '.join([*arguments.spec, arguments.data])}"
    return _report(head, sections, figures, checks, as_json=arguments.json)


def _report(head: str, sections: Sequence[str], figures: dict[str, Any], checks: Any, *, as_json: bool) -> str:
    from rlft.check.text import faults_text

    lists = {name: [one._asdict() for one in getattr(checks, name)] for name in ("faults", "warnings")}
    end = faults_text(checks.faults, checks.warnings) or "Nothing is wrong."
    text = json.dumps({**figures, **lists}, indent=1) if as_json else "\n\n".join([head, *sections, end])
    if checks.faults:
        raise Wrong(text)
    return text
