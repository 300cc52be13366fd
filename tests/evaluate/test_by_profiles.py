"""Evaluation by past items: which row gets which completion, what is kept, and paired changes; and style, by row."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlft.data.lamp_tasks import LAMP_TASKS
from rlft.evaluate import policy
from rlft.evaluate.by_profiles import ByProfiles, Setting
from rlft.evaluate.personal import personal_metrics
from rlft.evaluate.style import style_metrics
from rlft.record.jsonl import read_jsonl
from rlft.tiny.style import style_shares
from rlft.tiny.tasks import StyleTask

ROWS = [{"id": f"r{number}", "gold": f"word{number} word"} for number in range(5)]
SETTINGS = [Setting("bm25", k, [f"{k} {row['id'][1:]}" for row in ROWS]) for k in (2, 1)]


class Policy:
    """Answers prompts `k number` rightly where `right(k, number)`."""

    def __init__(self, folder: Path) -> None:
        self.args = SimpleNamespace(output_dir=str(folder))
        self.accelerator = SimpleNamespace(process_index=0, num_processes=1, is_main_process=True)
        self.logged: list[dict[str, float]] = []
        self.log = self.logged.append
        self.after = False

    def complete(self, prompt: str) -> list[dict[str, str]]:
        k, number = map(int, prompt.split())
        right = number == 0 or (self.after and k == 2)
        text = f"hm</think>{{'title': '{'word' if right else 'x'}{number} {'word' if right else 'y'}'}}"
        return [{"role": "assistant", "content": text}]


@pytest.fixture
def held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ByProfiles:
    def sample(trainer: Any, prompts: Any, *, temperature: float, seed: int) -> list[Any]:
        assert temperature == 0.5
        return [trainer.complete(prompt) for prompt in prompts]

    monkeypatch.setattr(policy, "sample_completions", sample)
    return ByProfiles(Policy(tmp_path), ROWS, SETTINGS, measure, temperature=0.5)


def measure(completions: Any, rows: Any) -> Any:
    return personal_metrics(LAMP_TASKS[4], completions, [row["gold"] for row in rows])


def begin(held_out: ByProfiles, step: int = 0) -> None:
    held_out.on_train_begin(None, SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]


def test_metrics_by_setting_before_and_after(held_out: ByProfiles, tmp_path: Path) -> None:
    begin(held_out)
    held_out.trainer.after = True
    held_out.evaluate("after")
    two, one = held_out.table()
    assert (two["retriever"], two["k"], two["rows"]) == ("bm25", 2, 5)
    rouge = two["metrics"]["rouge1"]
    assert [rouge[when]["value"] for when in ("before", "after", "change")] == pytest.approx([0.2, 1, 0.8])
    assert rouge["after"] == {"value": 1, "low": 1, "high": 1}
    assert one["metrics"]["rouge1"]["change"] == {"value": 0, "low": 0, "high": 0}
    assert two["metrics"]["thinking_words"]["after"]["value"] == 1
    assert [row.keys() >= {"held_out/before_rouge1"} for row in held_out.trainer.logged] == [True, False]
    kept = read_jsonl(tmp_path / "record/held_out_after.jsonl")
    assert [(row["id"], row["k"]) for row in kept] == [(row["id"], k) for k in (2, 1) for row in ROWS]
    assert [row["prompt"] for row in kept] == [prompt for setting in SETTINGS for prompt in setting.prompts]


def test_a_resumed_run_reads_what_was_before(held_out: ByProfiles, tmp_path: Path) -> None:
    begin(held_out)
    before = held_out.results["before"][0]["rouge1"].value
    held_out.trainer.after = True
    begin(held_out, step=3)
    assert held_out.results["before"][0]["rouge1"].value == before
    held_out.settings = SETTINGS[:1]
    with pytest.raises(ValueError, match="other rows, retrievers or numbers of items"):
        begin(held_out, step=3)
    (tmp_path / "record/held_out_before.jsonl").unlink()
    with pytest.raises(ValueError, match="held_out_before.jsonl is missing, and at step 3"):
        begin(held_out, step=3)


def test_style_by_row_has_the_means_of_the_shares() -> None:
    rows = StyleTask().rows(40, 0, "test")
    answers = [row["gold"] if place % 3 else "hello gora" for place, row in enumerate(rows)]
    completions = [f"[plan] a b [/plan] {said}" for said in answers]
    completions[5], answers[5] = "[plan] a b", ""
    found = {name: one.value for name, one in style_metrics(completions, rows, think_end="[/plan]").items()}
    assert found.pop("parseable") == 39 / 40
    assert found == pytest.approx(style_shares([said or None for said in answers], rows))
    with pytest.raises(ValueError, match="39 completions, 40 rows"):
        style_metrics(completions[:-1], rows, think_end="[/plan]")
