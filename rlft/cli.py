"""The `rlft` command: what travels with rlft, by name. Imports no torch, so that it answers at once.

rlft check RECIPE [FLAGS]       is a run as it should be, before it starts: rewards, data, tokens, memory, disk
rlft check-reward SPEC DATA     what rewards pay for, on rows of yours
rlft recipes                    recipes and their settings
rlft recipes copy NAME [DEST]   a recipe with its settings, to edit and run
rlft rewards                    ready-made reward functions, for --reward_funcs
rlft rewards audit FOLDER       what a reward model is worth, on users that it was not trained on
rlft report RUN                 a run as one HTML page: curves, rewards, token weights, all rollouts to search
rlft diagnose MODEL ROWS        does SHEAR's signal find labelled errors, beside controls
rlft eval MODEL                 metrics of a model on held-out rows, with intervals, perhaps against another
rlft export RUN                 a run's adapter and merged model, compared with what it saved, with a model card
rlft index                      build a corpus's index, for --retriever
rlft serve-retriever            serve a corpus as POST /retrieve
"""

import argparse
import ast
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlft import __version__
from rlft.assets import shipped
from rlft.check.command import Wrong, add_check, add_check_reward
from rlft.configure import ignore_old_names
from rlft.credit.diagnose.command import add_diagnose
from rlft.evaluate.command import add_eval
from rlft.export.command import add_export
from rlft.report.command import add_report

_CORPUS_FLAGS = ("corpus", "index_folder")
_DENSE_FLAGS = ("encoder", "query_prefix", "passage_prefix")


class CommandError(Exception):
    """A command that cannot be carried out; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments; the command line if None.

    Returns:
        Exit code: 0, or 1 after an error message on stderr.
    """
    ignore_old_names()
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except Wrong as report:
        print(report)
        return 1
    except CommandError as error:
        print(f"rlft: error: {error}", file=sys.stderr)
        return 1
    return 0


def list_recipes(arguments: argparse.Namespace) -> None:
    """Print every recipe, and indented below it its settings."""
    for script in _scripts():
        print(_line(script.stem, _summary(script)))
        for settings in _settings(script.stem):
            print(_line(f"  {settings.stem}", _summary(settings)))
    print("\nRun one: ./launch.sh recipes/NAME.py --config SETTING, or copy it first: rlft recipes copy NAME DEST")


def copy_recipe(arguments: argparse.Namespace) -> None:
    """Copy a recipe's script, its settings and the accelerate configurations into a folder.

    Raises:
        CommandError: for an unknown recipe, or, without `--force`, if a file would be overwritten by another one.
    """
    source, name, folder = shipped("recipes"), arguments.name, arguments.dest
    if name not in [script.stem for script in _scripts()]:
        raise CommandError(f"there is no recipe {name!r}; there is: {', '.join(s.stem for s in _scripts())}")
    files = [source / f"{name}.py", *_settings(name), *sorted((source / "accelerate").glob("*.yaml"))]
    copies = {file: folder / file.relative_to(source) for file in files}
    existing = [str(copy) for file, copy in copies.items() if copy.exists() and copy.read_bytes() != file.read_bytes()]
    if existing and not arguments.force:
        raise CommandError(f"{existing[0]} is there already ({len(existing)} such files); another DEST, or --force")
    for file, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        print(copy)
    print(f"\nRun it: python -m rlft.launch {folder / name}.py --config {folder / 'configs' / name}/SETTING.yaml")


def list_rewards(arguments: argparse.Namespace) -> None:
    """Print the ready-made rewards."""
    for file in sorted(shipped("rewards").glob("*.py")):
        print(_line(file.stem, _summary(file)))
    print("\nUse them: --reward_funcs NAME [NAME ...]; your own: package.module:function or path/to/file.py:function")


def audit_rewards(arguments: argparse.Namespace) -> None:
    """Audit a reward model's folder (PrLM, arXiv 2508.07342).

    Raises:
        CommandError: if the folder or the pairs cannot be used, or it gives scores that are no numbers.
    """
    from transformers.utils.logging import disable_progress_bar

    from rlft.reward_models.audit import audit_command, audit_text

    disable_progress_bar()  # of the weights, which would stand among the figures
    try:
        audit = audit_command(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        raise CommandError(error) from error
    print(json.dumps(audit, indent=2) if arguments.json else audit_text(audit))


def run_or_refuse(arguments: argparse.Namespace) -> None:
    """Carry out `arguments.command` and print what it returns.

    Raises:
        CommandError: if its input cannot be used.
    """
    try:
        print(arguments.command(arguments))
    except (ValueError, OSError) as error:
        raise CommandError(error) from error


def index_corpus(arguments: argparse.Namespace) -> None:
    """Build the index of a corpus, or find it built.

    Raises:
        CommandError: if the corpus is malformed, or the index cannot be built.
    """
    print(_retriever(arguments).name)


def serve_retriever(arguments: argparse.Namespace) -> None:
    """Serve a retriever until interrupted.

    Raises:
        CommandError: if the retriever cannot be made, packages are missing, or the address is taken.
    """
    from rlft.retrieval.extras import optional
    from rlft.retrieval.passage import RetrievalError

    try:
        for module in ("fastapi", "uvicorn"):  # before an index is built for minutes
            optional(module, "serve")
        from rlft.retrieval.limits import Limits
        from rlft.retrieval.server import serve

        limits = Limits(queries=arguments.max_queries)
        serve(_retriever(arguments), arguments.host, arguments.port, arguments.topk, limits)
    except RetrievalError as error:
        raise CommandError(error) from error


def _retriever(arguments: argparse.Namespace) -> Any:
    from rlft.plugins import PluginError
    from rlft.retrieval import RetrievalError, load_retriever

    try:
        return load_retriever(_retriever_spec(arguments))
    except (RetrievalError, PluginError) as error:
        raise CommandError(error) from error


def _retriever_spec(arguments: argparse.Namespace) -> str:
    """The spec that the flags add up to; a flag that would have no effect is refused."""
    given = {flag: value for flag in _CORPUS_FLAGS + _DENSE_FLAGS if (value := getattr(arguments, flag)) is not None}
    if arguments.retriever is not None:
        if given:
            raise CommandError(f"--retriever has its settings in brackets; leave out --{' --'.join(given)}")
        return str(arguments.retriever)
    if arguments.corpus is None:
        raise CommandError("name what is searched: --corpus FILE, or --retriever SPEC")
    unused = [flag for flag in _DENSE_FLAGS if flag in given]
    if arguments.index == "bm25" and unused:
        raise CommandError(f"--{unused[0]} needs --index dense")
    if arguments.index == "dense" and arguments.encoder is None:
        raise CommandError("--index dense needs --encoder, e.g. --encoder intfloat/e5-base-v2")
    settings = {"index" if flag == "index_folder" else flag: value for flag, value in given.items()}
    return f"{arguments.index}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlft", description="What travels with rlft, by name.")
    parser.add_argument("--version", action="version", version=f"rlft {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for add, name, what in (
        (add_check, "check", "is a run as it should be, before it starts"),
        (add_check_reward, "check-reward", "what rewards pay for, on rows of yours"),
    ):
        add(commands.add_parser(name, help=what)).set_defaults(run=run_or_refuse)

    recipes = commands.add_parser("recipes", help="list the recipes and their settings, or copy one")
    recipes.set_defaults(run=list_recipes)
    copy = recipes.add_subparsers(metavar="copy").add_parser("copy", help="copy a recipe to edit and run")
    copy.add_argument("name", metavar="NAME", help="a name that `rlft recipes` lists")
    copy.add_argument("dest", metavar="DEST", nargs="?", type=Path, default=Path(), help="folder; default: here")
    copy.add_argument("--force", action="store_true", help="overwrite files that are there")
    copy.set_defaults(run=copy_recipe)

    rewards = commands.add_parser("rewards", help="list the ready-made reward functions, or audit a reward model")
    rewards.set_defaults(run=list_rewards)
    audit = "audit a reward model's folder"
    figures = "Print its pair accuracy by kind of rejected answer, swap gap, dependence on length and calibration."
    _add_audit(rewards.add_subparsers(metavar="audit").add_parser("audit", help=audit, description=figures))

    report = add_report(commands.add_parser("report", help="a run as one HTML page"))
    diagnosis = "does SHEAR's signal find labelled errors, beside controls"
    export = add_export(commands.add_parser("export", help="a run's models, checked, with a model card"))
    evaluation = add_eval(commands.add_parser("eval", help="metrics of a model on held-out rows, with intervals"))
    for parsed in (report, evaluation, export, add_diagnose(commands.add_parser("diagnose", help=diagnosis))):
        parsed.set_defaults(run=run_or_refuse)

    index = commands.add_parser("index", help="build a corpus's index")
    _add_corpus(index)
    index.set_defaults(run=index_corpus)
    serve = commands.add_parser("serve-retriever", help="serve a corpus as POST /retrieve")
    _add_corpus(serve)
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines too; default: this one")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    serve.add_argument("--topk", type=int, default=3, help="passages per query where a client does not say; default: 3")
    serve.add_argument("--max_queries", type=int, default=4096, help="queries in one request; default: 4096")
    serve.set_defaults(run=serve_retriever)
    return parser


def _add_audit(audit: argparse.ArgumentParser) -> None:
    audit.add_argument("folder", metavar="FOLDER", type=Path, help="a reward model: runs/prlm-1/scorer")
    audit.add_argument("--pairs", metavar="FILE", help="pairs of users it never saw; default: those its training kept")
    audit.add_argument("--task", help="refuse one of another task: LaMP_4, tiny/style; default: any")
    audit.add_argument("--seed", type=int, default=0, help="of whose profile is swapped for whose; default: 0")
    audit.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    audit.add_argument("--json", action="store_true", help="print all figures as JSON")
    audit.set_defaults(run=audit_rewards)


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", metavar="FILE", help='JSON Lines: {"id", "contents"} or {"id", "title", "text"}')
    parser.add_argument("--index", choices=["bm25", "dense"], default="bm25", help="default: bm25")
    parser.add_argument("--index_folder", metavar="FOLDER", help="where the index lies; default: beside the corpus")
    parser.add_argument("--encoder", help="dense: a sentence-transformers model, by name or folder")
    parser.add_argument("--query_prefix", help="dense: put before queries, e.g. 'query: ' for E5")
    parser.add_argument("--passage_prefix", help="dense: put before passages, e.g. 'passage: ' for E5")
    parser.add_argument("--retriever", metavar="SPEC", help="any other: bm25(corpus=..., k1=1.2), my_file.py:make")


def _scripts() -> list[Path]:
    return sorted(shipped("recipes").glob("*.py"))


def _settings(recipe: str) -> Iterable[Path]:
    return sorted((shipped("recipes") / "configs" / recipe).glob("*.yaml"))


def _summary(file: Path) -> str:
    """First line of a script's docstring, or of a YAML file's opening comment."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    return text.partition("\n")[0].lstrip("# ")


def _line(name: str, summary: str) -> str:
    return f"{name:<16}{summary}"
