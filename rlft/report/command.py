"""The command `rlft report`: its arguments, and what it prints."""

import argparse
from pathlib import Path


def add_report(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `rlft report`."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a run's output_dir; it may still be going on")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: report.html in RUN")
    parser.add_argument("--rollouts", metavar="N", type=int, default=10_000, help="most on the page; default: 10000")
    parser.add_argument("--tokenizer", metavar="FOLDER", type=Path, help="default: the one that the run saved")
    parser.set_defaults(command=report)
    return parser


def report(arguments: argparse.Namespace) -> str:
    """Write the page of a run.

    Returns:
        Its path.

    Raises:
        FileNotFoundError, ValueError: as `rlft.report.write.write_report`.
    """
    from rlft.report.choose import Limits
    from rlft.report.write import write_report

    limits = Limits(rollouts=arguments.rollouts)
    return str(write_report(arguments.run_folder, arguments.out, limits=limits, tokenizer=arguments.tokenizer))
