"""The `rlft` command: what travels with rlft, by name. Imports no torch, so that it answers at once.

rlft recipes                    recipes and their settings
rlft recipes copy NAME [DEST]   a recipe with its settings, to edit and run
rlft rewards                    ready-made reward functions, for --reward_funcs
"""

import argparse
import ast
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlft import __version__
from rlft.assets import shipped


class CommandError(Exception):
    """A command that cannot be carried out; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments; the command line if None.

    Returns:
        Exit code: 0, or 1 after an error message on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
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
        CommandError: for an unknown recipe, or, without `--force`, if a file would be overwritten.
    """
    source, name, folder = shipped("recipes"), arguments.name, arguments.dest
    if name not in [script.stem for script in _scripts()]:
        raise CommandError(f"there is no recipe {name!r}; there is: {', '.join(s.stem for s in _scripts())}")
    files = [source / f"{name}.py", *_settings(name), *sorted((source / "accelerate").glob("*.yaml"))]
    copies = {file: folder / file.relative_to(source) for file in files}
    existing = [str(copy) for copy in copies.values() if copy.exists()]
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlft", description="What travels with rlft, by name.")
    parser.add_argument("--version", action="version", version=f"rlft {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    recipes = commands.add_parser("recipes", help="list the recipes and their settings, or copy one")
    recipes.set_defaults(run=list_recipes)
    copy = recipes.add_subparsers(metavar="copy").add_parser("copy", help="copy a recipe to edit and run")
    copy.add_argument("name", metavar="NAME", help="a name that `rlft recipes` lists")
    copy.add_argument("dest", metavar="DEST", nargs="?", type=Path, default=Path(), help="folder; default: here")
    copy.add_argument("--force", action="store_true", help="overwrite files that are there")
    copy.set_defaults(run=copy_recipe)

    rewards = commands.add_parser("rewards", help="list the ready-made reward functions")
    rewards.set_defaults(run=list_rewards)
    return parser


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
