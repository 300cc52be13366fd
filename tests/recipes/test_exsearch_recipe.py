"""The search recipe as a user runs it: the smoke end to end, a corpus of one's own, and bad input refused early."""

import functools
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlft.record.jsonl import read_jsonl
from rlft.record.provenance import read_provenance
from rlft.rollouts.store import read_shard
from rlft.tiny.searcher import demonstrations
from rlft.tiny.tasks import TASKS
from tests import scripts

RECIPE = str(scripts.ROOT / "recipes/exsearch.py")
TASK: Any = TASKS["tiny/search-small"]
exsearch = functools.partial(scripts.run, RECIPE)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder and printed text of one smoke run."""
    return scripts.smoke(RECIPE, tmp_path_factory.mktemp("runs") / "smoke")


def test_smoke_leaves_a_whole_run(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["training"]["weighting"] == "likelihood"
    assert json.loads((folder / "em.json").read_text())["retriever"].startswith("bm25(")
    assert len(read_jsonl(folder / "round-1/weights.jsonl")) == 16
    for number in (0, 1):
        assert (folder / f"round-{number}/adapter_model.safetensors").is_file()
        assert json.loads((folder / f"round-{number}/dev.json").read_text())["greedy_mistake/stop"] >= 0
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or path.name == "training"]
    assert {line["round"] for line in read_jsonl(folder / "record/metrics.jsonl")} == {1}
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert '<section id="rollouts">' in (folder / "report.html").read_text()
    for line in ("round 0: dev exact match", "round 1: dev exact match", "effective sample size", "best round"):
        assert line in text
    for line in ("exact match, sampled", "exact match, greedy", "F1, greedy", "retrieval recall", "forced stops"):
        assert f"held-out {line}" in text


def test_the_printed_lines_load_the_adapter_without_rlft(smoke: tuple[Path, str]) -> None:
    assert scripts.loaded_lora(*smoke) > 0


def in_process(monkeypatch: pytest.MonkeyPatch, *flags: str) -> str:
    """What a run says that ends before a model is loaded."""
    monkeypatch.setattr("sys.argv", ["exsearch.py", *flags])
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(RECIPE, run_name="__main__")
    message = str(refused.value.code)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def test_the_folder_of_a_run_is_not_overwritten(smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "holds another run" in in_process(monkeypatch, "--smoke", "--output_dir", str(smoke[0]))


def test_a_run_of_other_settings_is_not_gone_on_with(smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = (smoke[0] / "config.yaml").read_bytes()
    flags = ["--smoke", "--output_dir", str(smoke[0]), "--resume_from_checkpoint", "true", "--num_generations", "4"]
    message = in_process(monkeypatch, *flags, "--learning_rate", "1e-4")
    assert "learning_rate was 0.003, is 0.0001; num_generations was 8, is 4" in message
    assert (smoke[0] / "config.yaml").read_bytes() == before


def test_a_finished_run_goes_on_without_doing_anything_again(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("round-*/*")}
    finished = exsearch("--smoke", "--output_dir", str(folder), "--resume_from_checkpoint", "true")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("round-*/*")} == kept
    assert [line for line in finished.stdout.splitlines() if line.startswith("held-out")] == [
        line for line in text.splitlines() if line.startswith("held-out")
    ]


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_corpus_and_questions_of_one_s_own(smoke: tuple[Path, str], tmp_path: Path) -> None:
    """Files only, relative to where the recipe is started; demonstrations too, and a run folder with a number."""
    rows = TASK.rows(60, 3, "train")
    columns = ("id", "question", "golden_answers")
    write(tmp_path / "questions.jsonl", [{column: row[column] for column in columns} for row in [*rows, rows[0]]])
    passages = [(passage["id"], f'"{passage["title"]}"\n{passage["text"]}') for passage in TASK.passages()]
    write(tmp_path / "corpus.jsonl", [{"id": name, "contents": text} for name, text in passages])
    write(tmp_path / "shown.jsonl", [{"messages": messages} for messages in demonstrations(64, 5)])
    (tmp_path / "runs/exsearch-1").mkdir(parents=True)
    flags = {
        "--model_name_or_path": "tiny/search-small",
        "--dataset_name": "questions.jsonl",
        "--retriever": 'bm25(corpus="corpus.jsonl")',
        "--retrieval_cache": "cache",
        "--warm_up_dataset": "shown.jsonl",
        "--dev_rows": "8",
        "--eval_rows": "8",
    }
    finished = exsearch("--smoke", *(word for pair in flags.items() for word in pair), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    folder = tmp_path / "runs/exsearch-2"
    assert (folder / "adapter_model.safetensors").is_file()
    assert {line["round"] for line in read_jsonl(folder / "record/metrics.jsonl")} == {0, 1}
    pairs = read_shard(folder / "round-1/trajectories-00000.jsonl.gz")
    assert {key["id"] for key, _ in pairs} <= {row["id"] for row in rows[:44]}
    found = {name for _, trajectory in pairs for names in trajectory.fields["passage_ids"] for name in names}
    assert found
    assert found <= {name for name, _ in passages}
    assert any((tmp_path / "cache").iterdir())
    assert read_provenance(folder)["left_out"] == {"train: duplicate id": 1}
    assert "train: duplicate id" in (folder / "report.html").read_text()
    held_out = {line.partition("  ")[0] for line in finished.stdout.splitlines() if line.startswith("held-out ")}
    assert "held-out exact match, greedy" in held_out
    assert "held-out retrieval recall, greedy" not in held_out, "no gold passages were named"


OWN = ["--model_name_or_path", "tiny/search-small", "--dataset_name", "{tmp}/rows.jsonl"]
CORPUS = ["--retriever", "bm25(corpus='{tmp}/corpus.jsonl')"]
FEW = ["--dev_rows", "2", "--eval_rows", "2"]
BAD_INPUT = {
    "retriever that does not resolve": (["--retriever", "bm52"], "Did you mean 'bm25'?"),
    "retriever without its corpus": (["--retriever", "bm25(corpus='{tmp}/none.jsonl')"], "no corpus file"),
    "corpus with a bad line": (["--retriever", "bm25(corpus='{tmp}/bad.jsonl')"], "bad.jsonl, line 2 is not JSON"),
    "corpus with an id twice": (["--retriever", "bm25(corpus='{tmp}/twice.jsonl')"], "lines 1 and 2 have one id"),
    "questions without a retriever": ([*OWN, *FEW], "set --retriever"),
    "questions that are not there": (["--dataset_name", "{tmp}/none.jsonl"], "no such file"),
    "questions without a column of answers": (["--dataset_name", "{tmp}/corpus.jsonl"], "fit no known layout"),
    "questions without an answer": (["--dataset_name", "{tmp}/open.jsonl"], "no answer"),
    "questions whose answer has no known token": ([*OWN, *FEW, *CORPUS], "'xyzzy' holds no token"),
    "task without a corpus": (["--dataset_name", "tiny/addition"], "nothing to search"),
    "more dev questions than there are": (["--dev_rows", "9999"], "9999 questions wanted"),
    "more dev questions than the file has": (
        [*OWN, *CORPUS, "--eval_rows", "2", "--dev_rows", "9"],
        "--dev_rows 9 of 4",
    ),
    "no dev questions": (["--dev_rows", "0"], "at least one question"),
    "warm-up without messages": (
        ["--warm_up_dataset", "{tmp}/rows.jsonl"],
        "line 1 has no column 'messages'",
    ),
    "warm-up that is not there": (["--warm_up_dataset", "{tmp}/none.jsonl"], "no such file"),
    "warm-up that ends with the user": (["--smoke", "--warm_up_dataset", "{tmp}/shown.jsonl"], "demonstration 1"),
    "server without its address": (["--sampler", "server"], "server needs the URL"),
    "weighting that does not exist": (["--weighting", "likelyhood"], "none of likelihood, uniform, rejection"),
    "unknown flag": (["--questions_per_rond", "4"], "did you mean 'questions_per_round'"),
    "unknown key": (["--config", "{tmp}/bad.yaml"], "did you mean 'num_rounds'"),
    "length that would cut answers": (["--max_length", "256"], "--max_tokens"),
    "resuming where nothing is": (["--resume_from_checkpoint", "true"], "holds no run"),
    "resuming from elsewhere": (["--resume_from_checkpoint", "{tmp}"], "goes on in its own folder"),
    "adapter target that matches nothing": (["--lora_target_modules", "query"], "'query' matches no module"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_a_model_is_loaded(
    case: str, smoke: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [{"id": f"{n}", "question": f"where is nova {n} ?", "golden_answers": ["xyzzy"]} for n in range(6)]
    write(tmp_path / "rows.jsonl", questions)
    write(tmp_path / "open.jsonl", [questions[0] | {"golden_answers": []}])
    write(tmp_path / "shown.jsonl", [{"messages": [{"role": "user", "content": "where ?"}]}])
    passage = {"id": "p", "contents": "desu niva\ndesu niva works at baso bank ."}
    write(tmp_path / "corpus.jsonl", [passage])
    write(tmp_path / "twice.jsonl", [passage, passage])
    (tmp_path / "bad.jsonl").write_text(json.dumps(passage) + '\n{"id": 2,\n')
    (tmp_path / "bad.yaml").write_text("num_ronds: 4\n")
    flags, message = BAD_INPUT[case]
    out = tmp_path / "run"
    assert message in in_process(monkeypatch, *(flag.format(tmp=tmp_path) for flag in flags), "--output_dir", str(out))
    assert not out.exists() or not list(out.iterdir())


def test_a_search_that_fails_ends_the_run_in_few_words(smoke: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from rlft.retrieval import RetrievalError\n"
        "class Broken:\n"
        "    name = 'broken'\n"
        "    def search(self, queries, k):\n"
        "        raise RetrievalError('the index is gone')\n"
    )
    folder = tmp_path / "run"
    failed = exsearch("--smoke", "--retriever", f"{tmp_path}/mine.py:Broken", "--output_dir", str(folder))
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert failed.stderr.strip().splitlines()[-2:] == [
        "error: the index is gone",
        f"Everything finished so far is in {folder}; the same command with --output_dir {folder} "
        "--resume_from_checkpoint true goes on from there.",
    ]
