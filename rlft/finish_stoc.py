"""Around STOC's training: record, trust checks, recall before and after; after all arms: the table and the picture."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from textwrap import indent
from typing import Any

from accelerate import PartialState
from transformers import ProgressCallback

from rlft.configure import ConfigurationError
from rlft.disk import says_full_disk
from rlft.evaluate.personal import Measured, bootstrap, paired_bootstrap
from rlft.finish import load_lines
from rlft.finish_em import reload_check
from rlft.prepare_stoc import FINISHED, StocPlan
from rlft.record.callback import RecordCallback
from rlft.record.folder import save_config, write_whole
from rlft.record.forgetting_plot import draw_forgetting
from rlft.record.jsonl import to_json
from rlft.record.progress import ShortProgress
from rlft.record.provenance import save_provenance
from rlft.record.stages import AnotherRun
from rlft.record.summary import summary_table
from rlft.report.write import report_line
from rlft.resume.find import NothingToResume
from rlft.saved import drop_blank_card
from rlft.tiny.stated import audit
from rlft.trainers.health import HealthError
from rlft.trainers.stoc_options import STOCOptions
from rlft.trainers.stoc_replay import read_rows, write_rows
from rlft.trainers.trust import TrustCallback, TrustError

Row = dict[str, Any]
Asked = dict[str, dict[str, Measured]]
"""Recall on every probe set, by metric."""
CALLED = {
    "hfta": "first-token recall",
    "sfta": "probability of the first token",
    "soft": "mean probability of the tokens",
    "soft_end": "mean probability of the tokens and the end",
    "exact": "exact recall",
    "em": "recall in what is written",
}

_REPLAY = ("replay true", "about new", "old people", "distinct items", "distinct seeds")


class Report:
    """Trains the arms of a plan and says what came of them.

    Args:
        plan: from `rlft.prepare_stoc.prepare_stoc`.
    """

    def __init__(self, plan: StocPlan):
        self.plan = plan
        self._main = PartialState().is_main_process
        self._before: Asked | None = None
        if self._main:
            together = {arm: args.to_dict() for arm, args in plan.arms.items()}
            save_config(plan.folder, plan.configuration | {"training": together})
            probes = {f"probes, {which}": rows for which, rows in plan.probes.items()}
            revision = plan.model_init_kwargs.get("revision")
            rows = {"new": plan.new, "old": plan.old, **probes}
            save_provenance(plan.folder, bases={plan.model: revision}, rows=rows, left_out=plan.left_out)

    @says_full_disk
    def train(self, arm: str, trainer: Any) -> None:
        """Train one arm, save it, verify what was saved, and write down what it kept and learnt.

        Args:
            arm: a key of the plan's arms.
            trainer: its `STOCTrainer`; every process calls this.

        Raises:
            SystemExit: with one line, if replay is too short, a trust check stops the run, or somebody interrupts it.
            rlft.trainers.trust.TrustError: if what was saved is not what was trained.
        """
        args, folder = trainer.args, Path(trainer.args.output_dir)
        started, of_processor = time.perf_counter(), time.process_time()
        trust = TrustCallback()
        if self._main and args.resume_from_checkpoint:
            print(f"arm {arm} goes on")  # noqa: T201
        if not args.disable_tqdm:
            trainer.remove_callback(ProgressCallback)
            trainer.add_callback(ShortProgress(arm if len(self.plan.arms) > 1 else None))
        for callback in (RecordCallback(), trust):
            trainer.add_callback(callback)
        with _short_endings(trainer, self.plan.folder):
            if self._before is None:  # the same for every arm
                self._before = self._ask(trainer)
            trust.remember(trainer.model)
            trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
            trainer.save_model(str(folder))
            if self._main:
                drop_blank_card(folder)
            after = self._ask(trainer)
        if self._main:
            found = {
                "arm": arm,
                "options": {field.name: getattr(args, field.name) for field in fields(STOCOptions)},
                "recall": self._recall(after),
                "replay": self._replay(trainer),
                "steps": trainer.state.global_step,
                "seconds": time.perf_counter() - started + trainer.spent_before["seconds"],
                "cpu_seconds": time.process_time() - of_processor + trainer.spent_before["cpu_seconds"],
                "trainable_parameters": trust.report["trainable_parameters"],
                "distance": trust.report.get("delta_norm"),
                "reloaded": _reload(trainer, folder),
            }
            write_rows(folder / "probes.jsonl.gz", self._asked(after))
            write_whole(folder / FINISHED, to_json(found) + "\n")
            print(f"{_line(found, self.plan.recall)}\n{indent(found['replay']['mix']['text'], '  ')}")  # noqa: T201
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.free_memory()

    def finish(self) -> None:
        """Compare the arms, and say where everything is."""
        if self._main:
            folder, arms = self.plan.folder, list(self.plan.arms)
            found = [json.loads((Path(self.plan.arms[arm].output_dir) / FINISHED).read_text()) for arm in arms]
            write_whole(folder / "comparison.json", to_json(found) + "\n")
            table = self._table(found) if self.plan.probes else "Recall is unknown: there are no probes."
            print(f"\n{table}\n\n{summary_table(self._rows(found))}")  # noqa: T201
            last = Path(self.plan.arms[arms[-1]].output_dir)
            print(f"\nLoad it:\n{load_lines(last, self.plan.peft_config is not None)}")  # noqa: T201
            if self.plan.smoke:
                print("\nThe smoke passed: everything works here. After so few steps, the figures mean nothing.")  # noqa: T201
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()  # one left open can abort a process as it exits

    def _ask(self, trainer: Any) -> Asked:
        generated = self.plan.recall == "em"
        return {which: trainer.recall(rows, generated=generated) for which, rows in self.plan.probes.items()}

    def _recall(self, after: Asked) -> Row:
        """Before, after and change of every metric, with intervals over the people, or over the rows without any."""
        assert self._before is not None
        found: Row = {}
        for which, rows in self.plan.probes.items():
            owners = [str(row.get("subject") or number) for number, row in enumerate(rows)]
            for metric, second in after[which].items():
                first = self._before[which][metric]
                found.setdefault(which, {})[metric] = {
                    "before": bootstrap(first, users=owners)._asdict(),
                    "after": bootstrap(second, users=owners)._asdict(),
                    "change": paired_bootstrap(second, first, users=owners)._asdict(),
                }
        return found

    def _asked(self, after: Asked) -> Iterator[Row]:
        assert self._before is not None
        for which, rows in self.plan.probes.items():
            for number, row in enumerate(rows):
                values = {
                    when: {metric: float(measured.rows[number]) for metric, measured in asked[which].items()}
                    for when, asked in (("before", self._before), ("after", after))
                }
                yield {"set": which, "id": row["id"], "subject": row.get("subject")} | values

    def _replay(self, trainer: Any) -> Row:
        """What the replay was made of and, where all that is true is known, how true it was."""
        report: Row = trainer.replay.report()
        if self.plan.people is not None and trainer.args.replay != "none":
            items = [row for row in read_rows(trainer.replay.folder / "mix.jsonl.gz") if row["source"] == "replay"]
            texts = self.plan.tokenizer.batch_decode([row["ids"] for row in items], skip_special_tokens=False)
            report["stated"] = audit(self.plan.people, texts)._asdict()
        return report

    def _table(self, found: Sequence[Row]) -> str:
        """A line for each arm."""
        sets = [which for which in ("old", "new") if which in self.plan.probes]
        lines = [["", *(f"{which} recall" for which in sets)] + list(_REPLAY)]
        if sets and found:
            recall = found[0]["recall"]
            lines.append(["before", *(_figure(recall[which][self.plan.recall]["before"]) for which in sets)])
        for one in found:
            after = [_figure(one["recall"][which][self.plan.recall]["after"]) for which in sets]
            lines.append([one["arm"], *after, *_of_replay(one["replay"])])
        return _aligned(lines)

    def _drawn(self, one: Row, when: str) -> Row:
        return {which: sets[self.plan.recall][when] for which, sets in one["recall"].items()}

    def _rows(self, found: Sequence[Row]) -> list[tuple[str, str]]:
        rows = [(f"arm {one['arm']}", _run(one)) for one in found]
        if {"old", "new"} <= self.plan.probes.keys():
            runs = {one["arm"]: self._drawn(one, "after") for one in found}
            runs["before"] = self._drawn(found[0], "before")
            picture = draw_forgetting(
                runs, self.plan.folder / "forgetting.png", self.plan.title, recall=CALLED[self.plan.recall]
            )
            rows.append(("old against new", str(picture)))
        rows += [("comparison", str(self.plan.folder / "comparison.json")), report_line(self.plan.folder)]
        rows.append(("seconds in all", f"{time.perf_counter() - self.plan.started:.0f}"))
        return rows


@contextmanager
def _short_endings(trainer: Any, folder: Path) -> Iterator[None]:
    """End a run that cannot go on with what happened, and how to go on where that is possible."""
    kept = f"Everything finished so far is in {folder}"
    resume = f"--output_dir {shlex.quote(str(folder))} --resume_from_checkpoint true"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise SystemExit(
            f"\ninterrupted after {trainer.state.global_step} steps. {kept}; the same command with {resume} goes on "
            "from there."
        ) from interrupt
    except (AnotherRun, NothingToResume) as error:
        raise ConfigurationError(str(error)) from error
    except HealthError as error:
        raise SystemExit(f"\nerror: {error}\n{kept}. {error.what_now(folder)}") from error
    except (TrustError, ValueError, FloatingPointError) as error:
        raise SystemExit(f"\nerror: {error}\n{kept}. Other settings need another --output_dir.") from error


def _reload(trainer: Any, folder: Path) -> str:
    """Compare the files with the model in memory, where one process holds it whole."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return "not checked (sharded)"
    return reload_check(trainer, trainer.accelerator.unwrap_model(trainer.model), folder, trainer.replay.new[0]["ids"])


def _figure(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _line(found: Row, metric: str) -> str:
    """An arm in one line, when it is done."""
    recall = [
        f"{which} {sets[metric]['before']['value']:.3f} -> {sets[metric]['after']['value']:.3f}"
        for which, sets in found["recall"].items()
    ]
    return f"arm {found['arm']}: {'; '.join([*recall, _run(found)])}"


def _run(found: Row) -> str:
    moved = "" if found["distance"] is None else f", moved by {found['distance']:.3g}"
    return (
        f"{found['steps']} steps, {found['seconds']:.0f} s, {found['trainable_parameters']:,} parameters{moved}; "
        f"reloaded: {found['reloaded']}"
    )


def _of_replay(replay: Row) -> list[str]:
    """How true replay is, how much of it is about new people, whom it covers, how it repeats, how its seeds differ."""
    stated, mix, seeds = replay.get("stated"), replay["mix"], replay.get("seeds")
    cells = ["", "", ""]
    if stated and stated["stated"]:
        true = stated["true_of_old"] / stated["about_old"] if stated["about_old"] else float("nan")
        cells = [f"{true:.1%}", f"{stated['about_new'] / stated['stated']:.1%}", f"{stated['old_people']}"]
    items = f"{mix['replay_distinct']} of {mix['replay_items']}" if mix["replay_items"] else ""
    return [*cells, items, f"{seeds['distinct']} of {seeds['seeds']}" if seeds and seeds["distinct"] > 1 else ""]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns under their headings; one that is empty but for its heading is left out."""
    full = [[*line, *[""] * (len(lines[0]) - len(line))] for line in lines]
    kept = [column for column in zip(*full, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*kept, strict=True)
    )
