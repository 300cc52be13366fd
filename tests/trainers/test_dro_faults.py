"""DRO with a selector whose lists cannot all be read: what is trained on, and what is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlft.em.rows import IGNORED, read_rows
from rlft.rollouts.store import read_shard
from rlft.rollouts.trajectory import FinishReason
from rlft.trainers.samplers import Samplers
from tests.rollouts.scripted import ScriptedPolicy
from tests.trainers.dro_runs import questions, rows, save_model, trainer

CHEAP: dict[str, Any] = {"eval_sampled": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


SAID = ["[2] > [1]", "[3] > [3]", "[4]", "[1] [5]"]
"""In turn; of K = 2 the second and third name too few, the last is untidy."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A selector that says `SAID`, first to last, in every shard."""
    original = Samplers.policy

    def policy(self: Samplers, folder: Path, load: Callable[[Path], Any]) -> Any:
        turns = iter(SAID * 1000)
        found = ScriptedPolicy(self.tokenizer, lambda _: next(turns), stop_id=min(self.stop_ids))
        return found if folder.name == "selector" else original(self, folder, load)

    monkeypatch.setattr(Samplers, "policy", policy)


@pytest.mark.parametrize("invalid", ["drop", "resample", "pad"])
@pytest.mark.usefixtures("scripted")
def test_lists_that_cannot_be_read(base: Path, invalid: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"invalid_lists": invalid, "constrained": False, "resamples": 1, "freeze_generator": True}
    changes |= {"max_list_tokens": 12, "shard_questions": 4} | CHEAP
    run = trainer(tmp_path, base, shuffle_candidates=False, dedup="none", **changes)
    run.train()
    dev = json.loads((tmp_path / "round-1/dev.json").read_text())
    assert dev["greedy_invalid_rate"] == (0 if invalid == "pad" else 0.75), "what the run would not take"
    counts = json.loads((tmp_path / "round-1/weights.json").read_text())
    drawn = questions(tmp_path, 1, rows(9, 1))
    texts = [z.fields["text"] for _, lists, *_ in drawn for z in lists]
    faults = [z.fields["fault"] for _, lists, *_ in drawn for z in lists]
    decode = run.rolls["selector"].tokenizer.decode
    targets = set()
    for row in read_rows(tmp_path / "round-1/selector-rows.arrow"):
        targets.add(decode([label for label in row["labels"] if label != IGNORED], skip_special_tokens=True).strip())
    assert counts["lists"] == 36
    if invalid == "pad":
        assert (counts["invalid_rate"], counts["padded"], counts["respelled"]) == (0, 18, 27)
        assert targets == {"[2] > [1]", "[3] > [1]", "[4] > [1]", "[1] > [5]"}, "what was padded, in one spelling"
        assert counts["unscored"] == 0
    elif invalid == "drop":
        assert (counts["invalid_rate"], counts["draws_per_list"], counts["unscored"]) == (0.75, 1, 27)
        assert [counts[f"fault/{name}"] for name in ("repeated", "too_few", "spelling")] == [9, 9, 9]
        assert targets == {"[2] > [1]"}
        assert [fault is None for fault in faults] == [text == SAID[0] for text in texts]
        for _, lists, _, weights in drawn:
            assert weights["weights_K"] == [float(z.fields["fault"] is None) for z in lists]
            assert {z.finish for z in lists} == {FinishReason.STOP, FinishReason.MALFORMED}
    else:
        assert 1 < counts["draws_per_list"] < 2
        assert 0 < counts["invalid_rate"] < 0.75
        assert targets == {"[2] > [1]"}


@pytest.mark.usefixtures("scripted")
def test_grpo_makes_lists_that_cannot_be_read_less_likely(base: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"constrained": False, "freeze_generator": True, "dedup": "none"} | CHEAP
    changes |= {"selector_objective": "grpo", "shuffle_candidates": False, "max_list_tokens": 12}
    run = trainer(tmp_path, base, min_weight=0.0, **changes)
    run.train()
    decode = run.rolls["selector"].tokenizer.decode
    signs: dict[str, set[bool]] = {}
    for row in read_rows(tmp_path / "round-1/selector-rows.arrow"):
        said = decode([label for label in row["labels"] if label != IGNORED], skip_special_tokens=True).strip()
        signs.setdefault(said, set()).add(row["weights"][-1] > 0)
    assert signs == {said: {said == SAID[0]} for said in SAID}, "as sampled, not as it might have been meant"
    counts = json.loads((tmp_path / "round-1/rows.json").read_text())
    assert counts == {"selector_rows": 36}


def test_a_list_that_the_cap_cuts_is_counted(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text may look whole, though its turn did not stop."""
    run = trainer(tmp_path, base, constrained=False, max_list_tokens=4, num_rounds=0, **CHEAP)
    tokenizer = run.rolls["selector"].tokenizer
    speaker = ScriptedPolicy(tokenizer, lambda _: "[2] > [1] <|end|>")
    original = Samplers.policy
    choose = lambda *given: speaker if given[1].name == "selector" else original(*given)  # noqa: E731
    monkeypatch.setattr(Samplers, "policy", choose)
    (metrics,) = run.train()
    assert metrics["greedy_invalid_rate"] == 1
    chosen = read_shard(tmp_path / "round-0/dev-greedy-lists-00000.jsonl.gz")[0][1].fields
    assert (chosen["text"].strip(), chosen["cut"], chosen["padded"]) == ("[2] > [1]", True, False)
