"""The command `rlft export`: its arguments, and what it prints. Imports no torch by itself."""

import argparse
from pathlib import Path

FORMS = {"adapter": ["adapter"], "merged": ["merged"], "both": ["adapter", "merged"]}


def add_export(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `rlft export`."""
    parser.description = (
        "Writes DEST/adapter and DEST/merged (of a whole model DEST/model), each with tokenizer and model card, loads "
        "them again, and compares their log-probs with the model that the run saved."
    )
    parser.add_argument(
        "run_folder", metavar="RUN", type=Path, help="a run's output_dir, or a checkpoint, round or arm"
    )
    parser.add_argument("dest", metavar="DEST", nargs="?", type=Path, help="a new folder; default: export in the run")
    parser.add_argument("--form", choices=FORMS, help="of an adapter; default: both")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of a merged or whole model; default: as trained"
    )
    parser.add_argument("--license", metavar="ID", help="for the model card, as the Hub names it: apache-2.0")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    parser.set_defaults(command=export)
    return parser


def export(arguments: argparse.Namespace) -> str:
    """Export a run.

    Returns:
        A line for each model in each form: its folder, and how far it is from what the run saved.

    Raises:
        ValueError, OSError: as `rlft.export.write.export_run`.
    """
    from transformers.utils.logging import disable_progress_bar

    from rlft.export.write import export_run

    disable_progress_bar()
    forms = None if arguments.form is None else FORMS[arguments.form]
    options = {name: getattr(arguments, name) for name in ("dtype", "device", "license")}
    found = export_run(arguments.run_folder, arguments.dest, forms=forms, **options)
    return "\n".join(f"{one.folder}\n  {one.comparison or one.compared_on}" for one in found)
