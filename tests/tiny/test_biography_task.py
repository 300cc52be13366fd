"""The embedded task of replay: its rows, and a model that knows the old people and not the new ones."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.evaluate.facts import fact_recall
from rlft.tiny import tasks
from rlft.tiny.biography_task import BiographyTask
from rlft.tiny.people import Size

TASK = BiographyTask(Size(old=10, new=4))
SMALL = tasks.TASKS["tiny/biographies-small"]


def test_rows_are_the_same_by_seed_and_of_one_phase() -> None:
    assert TASK.rows(8, 1) == TASK.rows(20, 1)[:8] != TASK.rows(8, 2)
    assert TASK.world().names == TASK.world().names
    assert {row["subject"] for row in TASK.rows(TASK.largest("old"), 0, "old")} == set(TASK.world().old)
    with pytest.raises(ValueError, match="21 biographies of new people wanted, and there are 20"):
        TASK.rows(21, 0)


def test_kept_data_is_one_biography_of_each_old_person() -> None:
    kept, read = TASK.kept(3), TASK.rows(TASK.largest("old"), 3, "old")
    assert sorted(row["subject"] for row in kept) == sorted(TASK.world().old)
    assert all(row in read for row in kept)


def test_the_full_model_has_the_size_that_was_measured() -> None:
    task = BiographyTask()
    assert 143_000 < task.build(task.tokenizer(), 0).num_parameters() < 147_000


def test_the_small_model_knows_the_old_people_only() -> None:
    assert isinstance(SMALL, BiographyTask)
    torch.set_num_threads(1)
    folder = tasks.warm_start("tiny/biographies-small", 0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == SMALL.tokenizer().get_vocab()
    model = AutoModelForCausalLM.from_pretrained(folder)
    recall = {
        phase: fact_recall(model, tokenizer, SMALL.probes(phase, 0), start_ids=[tokenizer.eos_token_id])["hfta"].value
        for phase in ("old", "new")
    }
    assert recall["old"] > recall["new"] + 0.1
    knows = SMALL._knows(tokenizer, SMALL.probes("old", 0))
    assert knows(model) == (recall["old"] >= SMALL.recall)
