"""The page of a run: figures of what was recorded, and the rollouts themselves, within limits that the page states."""

import os
from pathlib import Path

from rlft.credit.diagnose.page import credit_sections
from rlft.record.page import contents, page, paragraph, section, write_page
from rlft.report.batch import batch_section
from rlft.report.choose import Limits
from rlft.report.curves import curves_section
from rlft.report.dropped import dropped_section
from rlft.report.files import files_section
from rlft.report.gather import gather
from rlft.report.pack import SCRIPT, STYLE
from rlft.report.results import results_section
from rlft.report.run import find_run
from rlft.report.settings import alarms_section, configuration_section, summary_section

PAGE_NAME = "report.html"


def write_report(
    run: str | os.PathLike[str],
    out: Path | None = None,
    *,
    limits: Limits | None = None,
    tokenizer: Path | None = None,
    resamples: int = 500,
) -> Path:
    """Write the page of a run.

    Args:
        run: the run's output folder, or its `record`; the run may still be going on.
        out: the page; `report.html` in the run's folder if None.
        limits: how much is read and shown; the defaults of `Limits` if None.
        tokenizer: a `tokenizer.json` or its folder; the run's own if None.
        resamples: of the bootstrap over groups.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: if there is no such run, or no folder for the page.
        ValueError: if a file of the run is damaged, a limit is below 1, or the tokenizer is none.
    """
    limits = limits or Limits()
    if min(limits) < 1:
        raise ValueError(f"{limits}: every limit must be at least 1.")
    found = find_run(run)
    gathered = gather(found, limits, tokenizer, resamples)
    sections = [
        alarms_section(found),
        summary_section(found),
        results_section(found),
        curves_section(found),
        gathered.tally.distributions(),
        gathered.packed.section(*gathered.notes) if gathered.packed.rollouts else nothing_recorded(),
        *credit_sections(gathered.credit),
        gathered.tally.slowest(),
        dropped_section(found, gathered.tally),
        batch_section(found),
        configuration_section(found),
        files_section(found.folder),
    ]
    script = SCRIPT if gathered.packed.rollouts else ""
    document = page(f"Run {found.folder.resolve().name}", [contents(sections), *sections], style=STYLE, script=script)
    return write_page(out or found.folder / PAGE_NAME, document)


def report_line(folder: Path) -> tuple[str, str]:
    """The line about the page in a run's summary; writes the page.

    A run that trained well must not fail for want of a page, so what went wrong is said in its place.
    """
    try:
        return "report", str(write_report(folder))
    except Exception as error:  # whatever it is, the run is done and saved
        return "report", f"not written ({type(error).__name__}: {error}); rlft report {folder}"


def nothing_recorded() -> str:
    """Stands in for the rollouts."""
    told = "no rollouts are recorded: the method records none, or the run was started with --record_rollouts false."
    return section("Rollouts", paragraph(told, "missing"))
