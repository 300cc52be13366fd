"""The command `rlft diagnose`: its arguments, and what it prints. Imports no torch by itself."""

import argparse
import json
from pathlib import Path

from rlft.credit.options import HIDDEN

_SETTINGS = ("window", "stride", "distance", "bins", "permutations", "resamples", "seed")
_OF_MODEL = ("hidden", "answer_marker", "batch_size", "device")


def add_diagnose(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `rlft diagnose`."""
    rows = "JSON Lines: prompt, completion(s), correct, and first_error where known"
    parser.description = (
        'A row: {"prompt": "...", "completion": "...", "correct": false, "first_error": 41}. Rows of one prompt make a '
        "group; or give `completions` and lists. `first_error` counts characters of a text, or steps where a "
        "completion is a list of them; -1 or none: no error, or not known."
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a model or of an adapter")
    parser.add_argument("rows", metavar="ROWS", type=Path, help=rows)
    parser.add_argument("--window", type=int, default=100, help="tokens in a span; default: 100")
    parser.add_argument("--stride", type=int, default=25, help="tokens between span starts; default: 25")
    parser.add_argument("--distance", default="wasserstein", help="wasserstein (default), chamfer or cosine")
    parser.add_argument("--hidden", choices=HIDDEN, default="post_norm", help="which state is compared")
    parser.add_argument(
        "--answer_marker", metavar="TEXT", help="leave out what stands behind the last of these: </think>"
    )
    parser.add_argument("--bins", type=int, default=4, help="position bins; default: 4")
    parser.add_argument("--permutations", type=int, default=100, help="relabellings for the chance level; default: 100")
    parser.add_argument("--resamples", type=int, default=500, help="of the bootstrap over groups; default: 500")
    parser.add_argument("--seed", type=int, default=0, help="of permutations and bootstrap; default: 0")
    parser.add_argument("--batch_size", type=int, default=4, help="rollouts in a forward; default: 4")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the figures as a page too")
    parser.set_defaults(command=diagnose)
    return parser


def diagnose(arguments: argparse.Namespace) -> str:
    """Diagnose SHEAR's scores on labelled rows.

    Returns:
        The figures as text, or as JSON.

    Raises:
        FileNotFoundError, ValueError: as `rlft.credit.diagnose.model.diagnose_model`.
    """
    from transformers.utils.logging import disable_progress_bar

    from rlft.credit.diagnose.model import diagnose_model
    from rlft.credit.diagnose.scores import diagnosis_record
    from rlft.credit.diagnose.table import diagnosis_text, write_diagnosis_page

    disable_progress_bar()  # of the weights, which would stand among the figures
    options = {name: getattr(arguments, name) for name in (*_SETTINGS, *_OF_MODEL)}
    found = diagnose_model(arguments.model, arguments.rows, **options)
    if arguments.html is not None:
        write_diagnosis_page(found, arguments.html, f"SHEAR's signal on {arguments.rows.name}")
    return json.dumps(diagnosis_record(found), indent=1) if arguments.json else diagnosis_text(found)
