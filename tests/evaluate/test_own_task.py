"""Figures of models on rows: values that do not apply, samples of a row, pairs of models, files."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlft.evaluate.asking import Answer, Asking
from rlft.evaluate.own_task import Judged, judge, summary, table, write_evaluation

ROWS = [{"prompt": f"{n}", "answer": f"{n}"} for n in range(4)]


def said(*texts: str) -> dict[str, list[list[Answer]]]:
    """Greedy completions, a letter for each sample of a row."""
    return {"greedy": [[Answer(letter, letter != "x") for letter in of_row] for of_row in texts]}


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float | None]:
    values = zip(completions, answer, strict=True)
    return [None if said == "?" else float(said == gold) for said, gold in values]


def judged(name: str, *texts: str) -> Judged:
    return judge(name, said(*texts), ROWS, [right])


def test_values_that_do_not_apply_are_left_out_of_both_models() -> None:
    (entry,) = summary([judged("one", "0", "?", "2", "x"), judged("other", "x", "1", "?", "x")])
    assert entry["rows"] == 2
    assert entry["models"]["one"]["value"] == 0.5
    assert entry["models"]["one"]["cut"] == 0.25
    assert entry["difference"]["value"] == 0.5
    assert (entry["difference"]["better_rows"], entry["difference"]["worse_rows"]) == (1, 0)
    with pytest.raises(ValueError, match="metric 'right' applies to none of the rows"):
        summary([judged("one", "?", "?", "?", "?")])


def test_a_row_counts_once_whatever_its_samples() -> None:
    (entry,) = summary([judged("one", "0y", "1?", "2y", "yy")])
    assert entry["models"]["one"]["value"] == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)


def test_conversations_are_answered_as_conversations() -> None:
    seen: list[Any] = []

    def look(completions: list[Any], prompts: list[Any], **_: Any) -> list[float]:
        seen.extend(zip(completions, prompts, strict=True))
        return [1.0] * len(completions)

    prompt = [{"role": "user", "content": "hi"}]
    judge("one", said("a"), [{"prompt": prompt, "answer": "a"}], [look])
    assert seen == [([{"role": "assistant", "content": "a"}], prompt)]


def test_files_and_table_say_the_same(tmp_path: Path) -> None:
    models = [judged("one", "0", "1", "2", "x"), judged("other", "x", "1", "x", "x")]
    entries = summary(models)
    write_evaluation(tmp_path / "out", models, ROWS, entries, settings={"seed": 0})
    kept = json.loads((tmp_path / "out/eval.json").read_text())
    assert kept["metrics"] == entries
    assert kept["data"]["rows"] == 4
    lines = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert sum(line["values"]["right"] for line in lines if line["model"] == "one") == 3
    text = table(models, entries)
    assert "right, greedy, 4 rows" in text
    assert "+0.500 [" in text
    assert "better on 2 rows, worse on 0" in text
    assert "25.0% cut at the token cap" in text


def test_askings_that_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match="--samples 0 is greedy alone"):
        Asking(temperature=0.0)
