"""The recipe of lists as a user runs it: the smoke end to end, questions of one's own, and bad input refused early."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from rlft.configure import parse_recipe
from rlft.finish_lists import load_lines
from rlft.prepare_em import QuestionSplits
from rlft.prepare_lists import prepare_lists, with_own_candidates
from rlft.record.jsonl import read_jsonl
from rlft.tiny.tasks import TASKS
from tests import scripts

RECIPE = str(scripts.ROOT / "recipes/dro.py")
SMALL = "tiny/select-small"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder and printed text of one smoke run that keeps its last round."""
    return scripts.smoke(RECIPE, tmp_path_factory.mktemp("runs") / "smoke")


def test_smoke_leaves_a_whole_run(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["training"]["list_size"] == 2
    assert json.loads((folder / "em.json").read_text())["retriever"] is None
    assert len(read_jsonl(folder / "round-1/weights.jsonl")) == 16
    weights = json.loads((folder / "round-1/weights.json").read_text())
    assert weights["invalid_rate"] < 0.5, "the small model has learnt to write lists"
    assert weights["kept"] > 8
    assert json.loads((folder / "pair.json").read_text())["list"]["size"] == 2
    assert not list(folder.rglob("README.md")), "PEFT's card with nothing filled in"
    for role in ("selector", "generator"):
        for place in (folder, folder / "round-0", folder / "round-1"):
            assert (place / role / "adapter_model.safetensors").is_file()
        assert {line["round"] for line in read_jsonl(folder / "record/metrics.jsonl") if line["role"] == role} == {1}
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert '<section id="rollouts">' in (folder / "report.html").read_text()


def test_smoke_says_what_happened(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    for name in ("candidates from", "lists per round", "best round"):
        assert f"\n{name}  " in text
    before, after = (next(line for line in text.splitlines() if f"round {number}: dev" in line) for number in (0, 1))
    for part in ("exact match greedy ", "recall@1 greedy ", ", sampled "):
        assert part in before
        assert part in after
    for part in ("of 16 questions dropped", "effective sample size ", "unreadable, entropy "):
        assert part in after
    recalls = [f"recall@{cut} of the selector, greedy" for cut in (1, 2)]
    for line in ("exact match, sampled", "exact match, greedy", "F1, greedy", *recalls):
        assert f"\nheld-out {line}  " in text
    for role in ("selector", "generator"):
        assert f"\n{role} reloaded from disk" in text
        assert f"{role} reloaded from disk  not checked" not in text
        assert str(folder / role) in text


def test_the_printed_lines_load_the_adapters_without_rlft_and_the_pair_with_it(
    smoke: tuple[Path, str], tmp_path: Path
) -> None:
    lines = smoke[1].partition("Load it:\n")[2].partition("\n\n")[0]
    assert lines == load_lines(smoke[0], adapters=True)
    pair, _, alone = lines.partition("# Or each by itself, without rlft:\n")
    passages = TASKS[SMALL].rows(1, 0)[0]["candidates"]
    code = f"""
import sys
sys.modules["rlft"] = None
{alone}
assert all(any("lora" in name for name, _ in model.named_parameters()) for model in (selector, generator))
assert selector_tokenizer("[1]") == generator_tokenizer("[1]")
del sys.modules["rlft"]
{pair}
print(pair.select("?", {passages}), repr(pair.answer("?", {passages})))
"""
    (tmp_path / "load.py").write_text(code)
    finished = scripts.run(tmp_path / "load.py")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert len(json.loads(finished.stdout.strip().splitlines()[-1].partition("]")[0] + "]")) == 2


def in_process(monkeypatch: pytest.MonkeyPatch, *flags: str) -> str:
    """What a run says that ends before a model is loaded."""
    monkeypatch.setattr("sys.argv", ["dro.py", *flags])
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(RECIPE, run_name="__main__")
    message = str(refused.value.code).strip()
    assert message.startswith("error: ")
    return message


def test_the_folder_of_a_run_is_not_overwritten(smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "holds another run" in in_process(monkeypatch, "--smoke", "--output_dir", str(smoke[0]))


def test_a_run_of_other_settings_is_not_gone_on_with(smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = (smoke[0] / "config.yaml").read_bytes()
    flags = ["--smoke", "--output_dir", str(smoke[0]), "--resume_from_checkpoint", "true"]
    message = in_process(monkeypatch, *flags, "--metric_for_best_model", "round", "--dedup", "none")
    assert "dedup was 'count', is 'none'" in message
    assert (smoke[0] / "config.yaml").read_bytes() == before


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepared(folder: Path, *flags: str) -> Any:
    """The plan that the recipe makes of these flags."""
    dataclasses = runpy.run_path(RECIPE)["dataclasses"]
    argv = ["--model_name_or_path", SMALL, "--output_dir", str(folder / "run"), "--dev_rows", "3", "--eval_rows", "3"]
    return prepare_lists("dro", *parse_recipe("dro", dataclasses, description="", argv=[*argv, *flags]))


def test_questions_bring_their_candidates_or_a_retriever_finds_them(smoke: tuple[Path, str], tmp_path: Path) -> None:
    rows = TASKS[SMALL].rows(12, 3)
    own = write(tmp_path / "own.jsonl", rows)
    plan = prepared(tmp_path / "1", "--dataset_name", own, "--retriever", "bm25(corpus='never asked')")
    assert plan.retriever is None
    assert plan.selector_model is None
    assert [row["candidates"] for row in plan.train_rows] == [row["candidates"] for row in rows[:6]]

    bare = [{key: row[key] for key in ("id", "question", "golden_answers")} for row in rows]
    passages = {each["id"]: each for row in rows for each in row["candidates"]}
    corpus = write(
        tmp_path / "corpus.jsonl", [{key: one[key] for key in ("id", "title", "text")} for one in passages.values()]
    )
    some = write(tmp_path / "some.jsonl", [rows[0], *bare[1:]])
    cache = ["--retriever", f"bm25(corpus={corpus!r})", "--retrieval_cache", str(tmp_path / "cache")]
    plan = prepared(tmp_path / "2", "--dataset_name", some, *cache)
    assert plan.retriever.name.startswith("bm25(")
    assert [row["candidates"] is None for row in plan.train_rows] == [False, *[True] * 5]


def test_demonstrations_go_to_their_models(smoke: tuple[Path, str], tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", TASKS[SMALL].rows(12, 3))
    shown = {role: [{"role": "user", "content": "?"}, {"role": "assistant", "content": role}] for role in ("a", "b")}
    files = [write(tmp_path / role, [{"messages": turns}]) for role, turns in shown.items()]
    flags = ["--dataset_name", own, "--selector_warm_up", files[0], "--generator_warm_up", files[1]]
    plan = prepared(tmp_path, *flags, "--selector_model", SMALL)
    assert {role: rows[0]["messages"] for role, rows in plan.warm_ups.items()} == {
        "selector": shown["a"],
        "generator": shown["b"],
    }
    assert plan.selector_model is None, "it is the generator's"


def test_the_released_layout_is_read() -> None:
    texts = ['Title: "Great Lakes" Text:  They meet the sea.', "Title: Nova. Content: A lab:\nfast.", "no title here"]
    rows = Dataset.from_list([{"question": "?", "retrieval": texts, "candidates": None}])
    (row,) = with_own_candidates(QuestionSplits(rows, rows, rows, {})).train
    assert row["candidates"] == [
        {"id": "0", "title": "Great Lakes", "text": "They meet the sea."},
        {"id": "1", "title": "Nova", "text": "A lab:\nfast."},
        {"id": "2", "title": "", "text": "no title here"},
    ]
    assert "retrieval" not in row


FILE = ["--dataset_name", "{tmp}/{file}.jsonl"]
FEW = ["--model_name_or_path", SMALL, "--dev_rows", "1", "--eval_rows", "1"]
BAD_INPUT = {
    "no candidates and no retriever": ("bare", [], "set --retriever"),
    "retriever that does not resolve": ("bare", ["--retriever", "bm52"], "Did you mean 'bm25'?"),
    "retriever that nobody asks, and does not resolve": ("rows", ["--retriever", "bm52"], "Did you mean 'bm25'?"),
    "retriever without its corpus": ("bare", ["--retriever", "bm25(corpus='{tmp}/none.jsonl')"], "no corpus file"),
    "fewer candidates than a list takes": ("few", [], "has 1 candidates and 2 are needed"),
    "candidates that are no passages": ("odd", [], "its text is None"),
    "candidates that are no list": ("text", [], "candidates is a str, not a list"),
    "a candidate twice": ("twice", [], "candidates 1 and 2 have the same id"),
    "questions without an answer": ("open", [], "no answer"),
    "an answer without a known token": ("unknown", [], "'xyzzy' holds no token"),
    "lists longer than the candidates": ("rows", ["--list_size", "7"], "candidates=6 are fewer"),
    "nothing to train": ("rows", ["--freeze_selector", "true", "--freeze_generator", "true"], "leave nothing to train"),
    "lists of any kind": ("rows", ["--invalid_lists", "dorp"], "drop, pad or resample"),
    "more dev questions than there are": ("rows", ["--dev_rows", "9"], "--dev_rows 9 of 4"),
    "selector that is not there": ("rows", ["--selector_model", "{tmp}/none"], "none"),
    "warm-up without messages": ("rows", ["--selector_warm_up", "{tmp}/rows.jsonl"], "--selector_warm_up"),
    "warm-up that is not there": ("rows", ["--generator_warm_up", "{tmp}/none.jsonl"], "no such file"),
    "warm-up that ends with the user": ("rows", ["--generator_warm_up", "{tmp}/shown.jsonl"], "demonstration 1"),
    "unknown flag": ("rows", ["--list_sise", "4"], "did you mean 'list_size'"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_a_model_is_loaded(
    case: str, smoke: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, flags, message = BAD_INPUT[case]
    write_bad_input(tmp_path)
    out = tmp_path / "run"
    wanted = [flag.format(tmp=tmp_path, file=file) for flag in [*FILE, *FEW, *flags]]
    said = in_process(monkeypatch, *wanted, "--output_dir", str(out))
    assert message in said
    assert "\n" not in said
    assert not out.exists() or not list(out.iterdir())


def test_an_interrupt_before_the_rounds_ends_it_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlft.prepare_em.model_path", interrupt)
    monkeypatch.setattr("sys.argv", ["dro.py", "--smoke", "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^\ninterrupted before training began\.$"):
        runpy.run_path(RECIPE, run_name="__main__")


def test_a_task_without_candidates_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--dataset_name", "tiny/addition", "--output_dir", str(tmp_path)]
    assert "embedded with candidates: tiny/select, tiny/select-small." in in_process(monkeypatch, *flags)


def write_bad_input(folder: Path) -> None:
    rows = TASKS[SMALL].rows(5, 3)
    write(folder / "rows.jsonl", rows)
    write(folder / "bare.jsonl", [{key: row[key] for key in ("id", "question", "golden_answers")} for row in rows])
    changed: dict[str, dict[str, Any]] = {
        "few": {"candidates": rows[0]["candidates"][:1]},
        "odd": {"candidates": [{"id": str(place), "text": None} for place in range(6)]},
        "text": {"candidates": "see above"},
        "twice": {"candidates": [rows[0]["candidates"][0]] * 6},
        "long": {"candidates": [one | {"text": one["text"] * 99} for one in rows[0]["candidates"]]},
        "open": {"golden_answers": []},
        "unknown": {"golden_answers": ["xyzzy"]},
    }
    for name, change in changed.items():
        write(folder / f"{name}.jsonl", [row | change for row in rows])
    write(folder / "shown.jsonl", [{"messages": [{"role": "user", "content": "where ?"}]}])
    one = rows[0]["candidates"][0]
    write(folder / "corpus.jsonl", [{"id": "p", "contents": f"{one['title']}\n{one['text']}"}])


WHILE_PREPARING = {
    "candidates that are too long": ("long", [], "raise max_tokens, or give fewer or shorter"),
    "too few are found": ("bare", ["--retriever", "bm25(corpus='{tmp}/corpus.jsonl')"], "2 are needed"),
}


@pytest.mark.parametrize("case", WHILE_PREPARING)
def test_candidates_that_cannot_be_used_end_the_run_before_a_model_is_loaded(
    case: str, smoke: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, flags, message = WHILE_PREPARING[case]
    write_bad_input(tmp_path)
    wanted = [flag.format(tmp=tmp_path, file=file) for flag in [*FILE, *FEW, *flags]]
    said = in_process(monkeypatch, *wanted, "--output_dir", str(tmp_path / "run"))
    assert message in said
    assert "\n" not in said


def test_a_search_that_fails_ends_the_run_in_few_words(
    smoke: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bad_input(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from rlft.retrieval import RetrievalError\n"
        "class Broken:\n"
        "    name = 'broken'\n"
        "    def search(self, queries, k):\n"
        "        raise RetrievalError('the index is gone')\n"
    )
    out = tmp_path / "run"
    flags = ["--dataset_name", f"{tmp_path}/bare.jsonl", "--retriever", f"{tmp_path}/mine.py:Broken"]
    assert in_process(monkeypatch, *flags, *FEW, "--output_dir", str(out)).splitlines() == [
        "error: the index is gone",
        f"Everything finished so far is in {out}; the same command with --output_dir {out} "
        "--resume_from_checkpoint true goes on from there.",
    ]
