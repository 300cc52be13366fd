"""EXSEARCH end to end on the small world: what a round leaves, what is trained on, and how a killed run goes on."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

from rlft.em.rounds import NothingToLearn
from rlft.em.rows import IGNORED, read_rows
from rlft.em.stages import Round
from rlft.health import round_rules
from rlft.record.jsonl import read_jsonl
from rlft.record.stages import AnotherRun
from rlft.retrieval import BM25Retriever, Passage, RetrievalError
from rlft.rollouts.store import read_shard
from rlft.rollouts.trajectory import FinishReason
from rlft.tiny.searcher import demonstrations
from rlft.trainers.exsearch_learning import SearchLearning
from rlft.trainers.exsearch_steps import SearchSteps
from rlft.trainers.health import HealthError
from rlft.trainers.round_models import RoundModels
from tests.trainers.killing import Killed, killed_at
from tests.trainers.search_runs import TASK, config, trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of one round."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finished = trainer(folder)
    finished.train()
    finished.save_model()
    return folder


def outcome(folder: Path) -> tuple[str, bytes, str]:
    """Weights of the questions, the adapter and the dev metrics of round 1."""
    last = folder / "round-1"
    return (
        (last / "weights.jsonl").read_text(),
        (last / "adapter_model.safetensors").read_bytes(),
        (last / "dev.json").read_text(),
    )


def test_a_round_leaves_its_stages(run: Path) -> None:
    manifest = json.loads((run / "round-1/manifest.json").read_text())
    assert list(manifest) == ["sample", "score", "weigh", "gather", "learn", "validate dev"]
    assert len(manifest["sample"]["files"]) == len(manifest["score"]["files"]) == 3
    weights = read_jsonl(run / "round-1/weights.jsonl")
    assert len(weights) == 12
    assert all(sum(line["weights_K"]) == pytest.approx(1) for line in weights if not line["dropped"])
    metrics = read_jsonl(run / "record/metrics.jsonl")
    assert metrics
    assert {line["round"] for line in metrics} == {1}
    assert json.loads((run / "round-1/learn.json").read_text())["delta_norm"] > 0


def test_the_adapter_loads_with_peft_alone(run: Path) -> None:
    model = AutoPeftModelForCausalLM.from_pretrained(run)
    tokenizer = AutoTokenizer.from_pretrained(run)
    best = json.loads((run / "round-1/dev.json").read_text()), json.loads((run / "round-0/dev.json").read_text())
    source = run / ("round-1" if best[0]["greedy_em"] > best[1]["greedy_em"] else "round-0")
    assert (run / "adapter_model.safetensors").read_bytes() == (source / "adapter_model.safetensors").read_bytes()
    assert model.generate(**tokenizer("where", return_tensors="pt"), max_new_tokens=2).size(1) == 3


def learning(folder: Path) -> SearchLearning:
    settled = trainer(folder)
    return settled.learning


def chosen(folder: Path) -> list[dict[str, Any]]:
    """The rows of round 1, by the ids in its shards."""
    by_id = {row["id"]: row for row in TASK.rows(24, 1, "train")}
    shards = [read_shard(path) for path in sorted((folder / "round-1").glob("trajectories-*"))]
    return [by_id[name] for name in dict.fromkeys(key["id"] for shard in shards for key, _ in shard)]


def test_only_what_the_model_writes_is_trained_on(run: Path) -> None:
    steps = learning(run)
    tokenizer = steps.rolls.tokenizer
    passages = {passage["text"] for passage in TASK.passages()}
    counts = Counter[str]()
    made = list(steps.weighted_rows(Round(run, 1), chosen(run), counts))
    assert len(made) == counts["trained on"] == len(read_rows(run / "round-1/rows.arrow")) > 0
    for row in made:
        pieces, piece = [], []
        for token, label, weight in zip(row["input_ids"], row["labels"], row["weights"], strict=True):
            assert (label == IGNORED) == (weight == 0)
            assert label in (IGNORED, token)
            if label != IGNORED:
                piece.append(token)
            elif piece:
                pieces, piece = [*pieces, piece], []
        turns = [tokenizer.decode(piece) for piece in [*pieces, piece]]
        cut = config(run).max_turn_tokens
        assert all(turn.endswith("<|end|>") or len(piece) == cut for turn, piece in zip(turns, pieces, strict=False))
        assert turns[0].startswith(("<QUERY>", "<FINAL>"))
        assert not any("<SEARCH>" in turn or "[1]" in turn or "<|u|>" in turn for turn in turns)
        assert not any(text in turn for turn in turns for text in passages), "a passage ends with a full stop"
        assert sum(row["weights"]) == pytest.approx(max(row["weights"]) * sum(map(len, [*pieces, piece])))


def test_every_trained_row_ends_with_a_gold_answer(run: Path) -> None:
    steps = learning(run)
    golds = {tuple(ids) for row in chosen(run) for ids in steps.rolls.gold_answers(row)}
    for row in steps.weighted_rows(Round(run, 1), chosen(run), Counter()):
        assert any(tuple(row["input_ids"][-len(gold) :]) == gold for gold in golds)


KILLS: list[tuple[type, str, int, str | None]] = [
    (RoundModels, "at", 3, None),  # sampling, before the first shard
    (SearchSteps, "_scores", 2, "scores-00000.jsonl"),
    (SearchSteps, "weigh", 1, "scores-00002.jsonl"),
    (SearchLearning, "weighted_rows", 1, "weights.jsonl"),
    (SearchLearning, "_fit", 1, "rows.arrow"),
    (SearchSteps, "validate", 1, "learn.json"),
]
"""Where a run dies, one time after the other, and the last file of round 1 that it leaves, which is not made again."""


def test_a_killed_run_goes_on_to_the_same_end(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, kept = tmp_path / "round-1", dict[Path, int]()
    for owner, name, call, file in KILLS:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed_at(owner, name, call))
            with pytest.raises(Killed):
                trainer(tmp_path).train()
        done = [*last.glob("trajectories-*"), *([last / file] if file else [])]
        assert bool(done) == bool(file)
        kept |= {path: path.stat().st_mtime_ns for path in done}
    trainer(tmp_path).train()
    assert outcome(tmp_path) == outcome(run)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished is not made again"


class Dying:
    """A retriever whose server goes down after some searches."""

    def __init__(self, searches: int) -> None:
        self._alive: Any = BM25Retriever.over(TASK.passages())
        self.name, self._left = self._alive.name, searches

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self._left -= 1
        if self._left < 0:
            raise RetrievalError("http://127.0.0.1:8000/retrieve gave no answer in 6 tries")
        return list(self._alive.search(queries, k))


def test_a_run_whose_retriever_died_goes_on_to_the_same_end(run: Path, tmp_path: Path) -> None:
    """Nothing is sampled as if nothing had been found; finished shards are kept."""
    with pytest.raises(RetrievalError, match="no answer in 6 tries"):
        trainer(tmp_path, retriever=Dying(12)).train()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "round-1").glob("trajectories-*")}
    assert 0 < len(kept) < 3
    trainer(tmp_path).train()
    assert outcome(tmp_path) == outcome(run)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_shard_of_other_questions_is_refused(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(run, folder)
    (folder / "round-1/manifest.json").unlink()
    first, second = (folder / f"round-1/trajectories-0000{number}.jsonl.gz" for number in (0, 1))
    shutil.copyfile(second, first)
    with pytest.raises(ValueError, match="trajectories-00000.jsonl.gz is of other questions: entry 0"):
        trainer(folder).train()


@pytest.mark.parametrize("spelling", ["NaN", "-Infinity"])
def test_a_score_that_is_no_number_takes_no_part(run: Path, tmp_path: Path, spelling: str) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(run, folder)
    manifest = json.loads((folder / "round-1/manifest.json").read_text())
    (folder / "round-1/manifest.json").write_text(json.dumps({name: manifest[name] for name in ("sample",)}))
    path = folder / "round-1/scores-00000.jsonl"
    lines = path.read_text().splitlines()
    broken = json.loads(lines[0])
    broken["logliks"] = [[spelling] * len(aliases) for aliases in broken["logliks"]]
    path.write_text("\n".join([json.dumps(broken), *lines[1:]]) + "\n")
    trainer(folder).train()
    dropped = read_jsonl(folder / "round-1/weights.jsonl")[0]["dropped"]
    assert dropped == ("unscored" if spelling == "NaN" else "zero_likelihood")


def test_a_later_round_with_nothing_to_learn_ends_the_rounds(tmp_path: Path) -> None:
    ended = trainer(tmp_path, num_rounds=3, patience=0)
    original = SearchLearning.gather

    def gather(self: Any, current: Round, rows: Any) -> None:
        if current.number == 2:
            raise NothingToLearn("nothing")
        original(self, current, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchLearning, "gather", gather)
        assert len(ended.train()) == 2
    ended.save_model()
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_another_configuration_may_not_go_on(run: Path) -> None:
    with pytest.raises(AnotherRun, match="num_generations was 4, is 6"):
        trainer(run, num_generations=6).train()
    with pytest.raises(AnotherRun, match="train_rows was"):
        trainer(run, rows=TASK.rows(24, 2, "train")).train()


def test_more_rounds_may_go_on(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "longer"
    shutil.copytree(run, folder)
    longer = trainer(folder, num_rounds=2, patience=0)
    assert len(longer.train()) == 3
    assert outcome(folder) == outcome(run)


def test_trajectories_without_an_answer_turn_are_refused_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_rules, "LEAST_QUESTIONS", 4)
    rows = TASK.rows(24, 1, "train")
    for row in rows[::2]:
        row["question"] = row["question"] + " where" * 40
    short = trainer(tmp_path, rows=rows, max_tokens=80)
    short.train()
    shards = [read_shard(path) for path in sorted((tmp_path / "round-1").glob("trajectories-*"))]
    cut = [trajectory.finish is FinishReason.LENGTH for shard in shards for _, trajectory in shard]
    assert 0 < sum(cut) < len(cut)
    scores = [line for path in sorted((tmp_path / "round-1").glob("scores-*")) for line in read_jsonl(path)]
    assert [loglik is None for line in scores for loglik in line["logliks"]] == cut
    weights = json.loads((tmp_path / "round-1/weights.json").read_text())
    assert weights["refused/cut before its answer"] == weights["unscored"] == sum(cut)
    assert {line["dropped"] for line in read_jsonl(tmp_path / "round-1/weights.jsonl")} >= {"unscored", None}
    short.train()  # a run that goes on says its alarms no second time
    alarms = [(line["round"], line["rule"]) for line in read_jsonl(tmp_path / "record/alarms.jsonl")]
    assert alarms == [(1, "dropped_questions"), (1, "unusable_rollouts")]


def test_no_row_is_longer_than_the_cap(run: Path, tmp_path: Path) -> None:
    trainer(tmp_path, max_tokens=80).train()
    lengths = {len(row["input_ids"]) for row in read_rows(tmp_path / "round-1/rows.arrow")}
    assert max(lengths) <= 80 < max(len(row["input_ids"]) for row in read_rows(run / "round-1/rows.arrow"))


def test_a_round_without_a_useful_question_says_so(tmp_path: Path) -> None:
    with pytest.raises(NothingToLearn, match="nothing is left to train on .*'question dropped: all_wrong': 48"):
        trainer(tmp_path, min_best_loglik=1.0).train()


def test_rejection_trains_on_right_answers_only(tmp_path: Path) -> None:
    trainer(tmp_path, weighting="rejection").train()
    correct = {}
    for path in sorted((tmp_path / "round-1").glob("trajectories-*")):
        for key, trajectory in read_shard(path):
            correct.setdefault(key["id"], []).append(trajectory.fields["answer"])
    golds = {row["id"]: row["golden_answers"] for row in TASK.rows(24, 1, "train")}
    lines = read_jsonl(tmp_path / "round-1/weights.jsonl")
    assert {line["dropped"] for line in lines} == {None, "none_correct"}
    for line in lines:
        right = [answer in golds[line["id"]] for answer in correct[line["id"]]]
        assert (line["dropped"] is not None) == (not any(right))
        assert line["weights_K"] is None or [weight > 0 for weight in line["weights_K"]] == right


def test_a_selection_rides_on_the_weight_of_its_trajectory(tmp_path: Path) -> None:
    settled = trainer(tmp_path, select=True, retrieved=5, passages=2)
    settled.train()
    counts = json.loads((tmp_path / "round-1/rows.json").read_text())
    assert counts["rows"] > counts["trained on"]


def test_demonstrations_are_learnt_before_round_one(tmp_path: Path) -> None:
    shown = Dataset.from_list([{"messages": messages} for messages in demonstrations(32, 5)])
    warmed = trainer(tmp_path, warm_up_dataset=shown, num_rounds=0, warm_up_epochs=1.0, logging_steps=1)
    warmed.train()
    assert (tmp_path / "round-0/adapter_model.safetensors").is_file()
    assert any("loss" in line for line in read_jsonl(tmp_path / "record/metrics.jsonl"))


def test_weights_that_are_not_finite_end_a_run_and_the_alarm_names_the_round(tmp_path: Path) -> None:
    shown = Dataset.from_list([{"messages": messages} for messages in demonstrations(16, 5)])
    with pytest.raises(HealthError, match="step 1, non_finite: .* trainable weights are not finite"):
        trainer(tmp_path, warm_up_dataset=shown, num_rounds=0, learning_rate=1e39).train()
    (alarm,) = read_jsonl(tmp_path / "record/alarms.jsonl")
    assert (alarm["round"], alarm["step"], alarm["rule"]) == (0, 1, "non_finite")


def test_all_parameters_can_be_trained(tmp_path: Path) -> None:
    whole = trainer(tmp_path, peft_config=None)
    whole.train()
    whole.save_model()
    assert (tmp_path / "model.safetensors").is_file()
    assert not (tmp_path / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"golden_answers": []}, "it has no golden_answers"),
        ({"golden_answers": ["xyzzy"]}, "no token that the tokenizer knows"),
        ({"golden_answers": "veda"}, "its golden_answers are 'veda', not a list of texts"),
        ({"question": " "}, "has no question"),
        ({"id": "same"}, "its id stands twice"),
    ],
)
def test_questions_that_cannot_be_scored_are_refused_before_a_model_is_loaded(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = [{**each, "id": "same" if "id" in row else each["id"]} | row for each in TASK.rows(4, 1, "train")]
    with pytest.raises(ValueError, match=f"of 4 questions of train_dataset cannot be used.*{message}"):
        trainer(tmp_path, rows=rows)


def test_a_length_limit_that_would_cut_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_length=512 would cut rows"):
        config(tmp_path, max_length=512)
