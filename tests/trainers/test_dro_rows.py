"""What a DRO round weighs and trains on, against the same made by hand from texts and plain models."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

from rlft.em.rounds import NothingToLearn
from rlft.em.rows import IGNORED, read_rows
from rlft.em.stages import Round
from rlft.pair_folder import ROLES
from rlft.record.jsonl import json_lines, read_jsonl
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.list_text import spell
from rlft.rollouts.permutation import PermutationRollout
from rlft.rollouts.policy import Sampling
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.trainers.dro import DROTrainer
from rlft.trainers.dro_learning import MostDropped
from tests.trainers.dro_runs import Question, asked, finished_run, questions, trainer

MINIMUM = 1e-3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two rounds."""
    return finished_run(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> Any:
    return AutoTokenizer.from_pretrained(run / "selector")


def turn(tokenizer: Any, text: str, reply: str | None = None) -> list[int]:
    """Ids of a user turn up to the reply, or of the reply to its end."""
    messages = [{"role": "user", "content": text}]
    opened = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if reply is None:
        return list(tokenizer(opened, add_special_tokens=False).input_ids)
    ids = tokenizer(reply, add_special_tokens=False).input_ids
    return [*ids, tokenizer.eos_token_id]


def shown(row: dict[str, Any], order: Sequence[int]) -> str:
    return "\n".join(f"[{n}] {row['candidates'][place]['text']}" for n, place in enumerate(order, start=1))


def trained(row: dict[str, Any]) -> tuple[list[int], list[int], float]:
    """Prompt, trained tokens and weight of a row, all of whose trained tokens stand at its end and have its weight."""
    start = sum(label == IGNORED for label in row["labels"])
    prompt, target = row["input_ids"][:start], row["input_ids"][start:]
    assert row["labels"] == [IGNORED] * start + target
    assert row["weights"][:start] == [0.0] * start
    assert len(set(row["weights"][start:])) == 1
    assert row["mass"] == 1.0
    return prompt, target, row["weights"][-1]


def samples(run: Path, name: str = "weights_K") -> Iterator[tuple[Question, Any, float]]:
    """Every list of round 2 with its weight, if that is not next to nothing."""
    for question in questions(run, 2, asked()):
        for trajectory, weight in zip(question[1], question[3][name] or [], strict=True):
            if abs(weight) > MINIMUM:
                yield question, trajectory, weight


def test_the_selector_learns_lists_in_the_order_shown_when_sampled(run: Path, tokenizer: Any) -> None:
    rows = read_rows(run / "round-2/selector-rows.arrow")
    wanted = list(samples(run))
    orders = [trajectory.fields["shown"] for _, trajectory, _ in wanted]
    assert sum(order != sorted(order) for order in orders) > len(orders) / 2
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    for row, ((question, *_), trajectory, weight), order in zip(rows, wanted, orders, strict=True):
        prompt, target, share = trained(row)
        printed = [order.index(place) for place in trajectory.fields["list"]]
        assert prompt == turn(tokenizer, f"{shown(question, order)} rank {question['question']}")
        assert target == turn(tokenizer, "", reply=spell(printed))
        assert share == pytest.approx(weight, rel=1e-6)


def test_the_generator_learns_the_gold_answer_after_the_lists_passages(run: Path, tokenizer: Any) -> None:
    rows = read_rows(run / "round-2/generator-rows.arrow")
    second = 0
    for row, ((question, lists, scores, _), trajectory, weight) in zip(rows, samples(run), strict=True):
        prompt, target, share = trained(row)
        places = trajectory.fields["list"]
        assert prompt == turn(tokenizer, f"{shown(question, places)} answer {question['question']}")
        logliks = scores["logliks"][lists.index(trajectory)]
        likeliest = logliks.index(max(logliks))
        assert target == turn(tokenizer, "", reply=question["golden_answers"][likeliest])
        assert share == pytest.approx(weight, rel=1e-6)
        second += likeliest
    assert second, "no answer but the first was ever the likeliest"


def loglik(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Sum of the answer's log-probabilities, in one unbatched pass."""
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
    return sum(log_probs[len(prompt) + step - 1, token].item() for step, token in enumerate(answer))


def test_scores_are_log_likelihoods_by_the_generator_of_the_round_before(run: Path, tokenizer: Any) -> None:
    places_of_models = ["round-1/generator", "round-0/generator", "round-2/generator", "round-1/selector"]
    models = {place: AutoPeftModelForCausalLM.from_pretrained(run / place).eval() for place in places_of_models}
    furthest = dict.fromkeys(models, 0.0)
    for row, lists, scores, _ in questions(run, 2, asked())[:4]:
        answers = [turn(tokenizer, "", reply=text) for text in row["golden_answers"]]
        cases = [((), scores["closed_book"]), *zip([z.fields["list"] for z in lists], scores["logliks"], strict=True)]
        for places, logliks in cases:
            passages = f"{shown(row, places)} " if places else ""
            prompt = turn(tokenizer, f"{passages}answer {row['question']}")
            for place, model in models.items():
                found = [abs(loglik(model, prompt, a) - known) for a, known in zip(answers, logliks, strict=True)]
                furthest[place] = max(furthest[place], *found)
    wanted = furthest.pop("round-1/generator")
    assert wanted < 1e-4
    assert min(furthest.values()) > 1e-2


def test_lists_are_drawn_by_the_selector_of_the_round_before(run: Path, tokenizer: Any) -> None:
    drawn = questions(run, 2, asked())
    frame = ChatFrame(tokenizer)
    options = trainer(run, run.parent / "dro-base").steps.list_options
    rollout = PermutationRollout(frame, options, samples=4, seed=3, round=2, shuffle=True)
    found = {}
    for place in ("round-1/selector", "round-2/selector", "round-1/generator"):
        model = AutoPeftModelForCausalLM.from_pretrained(run / place).eval()
        given = [{**row, "candidates": row["candidates"][:5]} for row, *_ in drawn[:3]]
        policy = TransformersPolicy(model, frame.stop_ids, tokenizer.pad_token_id, batch_size=64)
        found[place] = [z.segments[0].logprobs for z in rollout(given, policy, Sampling())]
    sampled = [z.segments[0].logprobs for _, lists, *_ in drawn[:3] for z in lists]
    assert found.pop("round-1/selector") == sampled
    assert sampled not in found.values()


def test_weights_are_the_softmax_of_the_scores_gathered_on_the_first_copy(run: Path) -> None:
    copies = 0
    for _, lists, scores, weights in questions(run, 2, asked()):
        best = [max(logliks) for logliks in scores["logliks"]]
        assert weights["scores_K"] == best
        likelihoods = [math.exp(score) for score in best]
        places = [tuple(z.fields["list"]) for z in lists]
        for k, weight in enumerate(weights["weights_K"]):
            alike = [likelihoods[i] for i, other in enumerate(places) if other == places[k]]
            first = places.index(places[k]) == k
            copies += not first
            assert weight == pytest.approx(sum(alike) / sum(likelihoods) if first else 0.0, abs=1e-12)
        assert weights["search_K"] == weights["weights_K"]
    assert copies, "no list came twice"


def gathered(run: Path, folder: Path, answers: Sequence[Sequence[str | None]] = (), **changes: Any) -> DROTrainer:
    """Round 2 weighed and gathered again with other options, in a copy."""
    shutil.copytree(run / "round-2", folder / "round-2")
    again = trainer(folder, run.parent / "dro-base", train=asked(), **changes)
    drawn, current = questions(run, 2, asked()), Round(folder, 2)
    for number in range(3 if answers else 0):
        part = range(3 * number, 3 * number + 3)
        lines = json_lines({"id": drawn[i][0]["id"], "answers": answers[i]} for i in part)
        (folder / f"round-2/answers-0000{number}.jsonl").write_text(lines)
    rows = [{**row, "candidates": row["candidates"][:5]} for row, *_ in drawn]
    again.steps.weigh(current, rows)
    again.learning.gather(current, rows)
    return again


def shares(folder: Path, role: str) -> dict[tuple[int, ...], list[float]]:
    """Weights of the training rows by their prompt and target."""
    found: dict[tuple[int, ...], list[float]] = {}
    for row in read_rows(folder / f"round-2/{role}-rows.arrow"):
        found.setdefault(tuple(row["input_ids"]), []).append(trained(row)[2])
    return found


def test_copies_weigh_together_what_they_weigh_apart(run: Path, tmp_path: Path) -> None:
    gathered(run, tmp_path, dedup="none")
    for role in ROLES:
        once, apart = shares(run, role), shares(tmp_path, role)
        assert once.keys() == apart.keys()
        assert all(len(weights) == 1 for weights in once.values())
        assert sum(map(len, apart.values())) == 9 * 4 > len(once)
        for row, weights in apart.items():
            assert sum(weights) == pytest.approx(once[row][0], rel=1e-6)
            assert weights == pytest.approx([once[row][0] / len(weights)] * len(weights), rel=1e-6)


@pytest.mark.parametrize("dedup", ["support", "count"])
def test_support_leaves_the_selectors_own_probability_out(run: Path, tmp_path: Path, dedup: str) -> None:
    """Lists of equal likelihood get equal weights, however often each was drawn; with counts, in proportion."""
    shutil.copytree(run / "round-2", tmp_path / "round-2")
    for path in (tmp_path / "round-2").glob("scores-*"):
        flat = [{**one, "logliks": [[-1.0] * len(a) for a in one["logliks"]]} for one in read_jsonl(path)]
        path.write_text(json_lines(flat))
    again = trainer(tmp_path, run.parent / "dro-base", train=asked(), dedup=dedup)
    drawn = questions(run, 2, asked())
    again.steps.weigh(Round(tmp_path, 2), [row for row, *_ in drawn])
    for (_, lists, *_), found in zip(drawn, read_jsonl(tmp_path / "round-2/weights.jsonl"), strict=True):
        places = [tuple(z.fields["list"]) for z in lists]
        counts = [places.count(one) if places.index(one) == k else 0 for k, one in enumerate(places)]
        counted = counts if dedup == "count" else [min(count, 1) for count in counts]
        assert found["weights_K"] == pytest.approx([count / sum(counted) for count in counted])


def advantages(rewards: list[float]) -> list[float]:
    spread = stdev(rewards)
    return [(reward - mean(rewards)) / (spread + 1e-4) if spread else 0.0 for reward in rewards]


def test_grpo_gives_the_selector_advantages_and_leaves_the_generator_its_weights(run: Path, tmp_path: Path) -> None:
    gathered(run, tmp_path, selector_objective="grpo", dedup="none", min_weight=0.0)
    gathered(run, tmp_path / "em", dedup="none", min_weight=0.0)
    assert shares(tmp_path, "generator") == shares(tmp_path / "em", "generator")
    wanted = []
    for _, _, _, weights in questions(tmp_path, 2, asked()):
        wanted += advantages([math.exp(score) for score in weights["scores_K"]])
    found = [trained(row)[2] for row in read_rows(tmp_path / "round-2/selector-rows.arrow")]
    assert found == pytest.approx([value for value in wanted if value], rel=1e-5)
    assert min(found) < 0 < max(found)


def right_and_wrong(run: Path) -> tuple[list[list[str]], list[list[bool]]]:
    """Answers to every list of round 2: none right of the first question, all of the second, some of the others."""
    answers, right = [], []
    for number, (row, lists, *_) in enumerate(questions(run, 2, asked())):
        places = [tuple(z.fields["list"]) for z in lists]  # equal lists have equal answers
        right.append([number == 1 or number > 1 and places.index(one) == number % 2 for one in places])
        answers.append([row["golden_answers"][-1].upper() if one else "nobody" for one in right[-1]])
    assert all(map(any, right[1:]))
    return answers, right


def test_grpo_by_exact_match(run: Path, tmp_path: Path) -> None:
    answers, right = right_and_wrong(run)
    gathered(run, tmp_path, answers, selector_objective="grpo", grpo_reward="exact_match", dedup="none")
    wanted = [value for question in right for value in advantages([float(one) for one in question]) if value]
    found = [trained(row)[2] for row in read_rows(tmp_path / "round-2/selector-rows.arrow")]
    assert found == pytest.approx(wanted, rel=1e-6)
    assert len(shares(tmp_path, "generator")) == len(shares(run, "generator"))


def test_rejection_learns_from_lists_with_a_right_answer_alone(run: Path, tmp_path: Path) -> None:
    answers, right = right_and_wrong(run)
    gathered(run, tmp_path, answers, weighting="rejection", dedup="none")
    found = read_jsonl(tmp_path / "round-2/weights.jsonl")
    assert found[0]["dropped"] == "none_correct"
    for record, question in zip(found[1:], right[1:], strict=True):
        assert record["weights_K"] == pytest.approx([one / sum(question) for one in question])
    for role in ROLES:
        assert sum(map(len, shares(tmp_path, role).values())) == sum(map(sum, right))
    assert json.loads((tmp_path / "round-2/weights.json").read_text())["dropped/none_correct"] == 1


def test_questions_are_dropped_as_hopeless_up_to_the_limit(run: Path, tmp_path: Path) -> None:
    best = sorted(max(weights["scores_K"]) for *_, weights in questions(run, 2, asked()))
    four, five = ((best[n - 1] + best[n]) / 2 for n in (4, 5))
    with pytest.raises(MostDropped, match=r"round 2: .* in 5 of 9 questions \({'all_wrong': 5}\)"):
        gathered(run, tmp_path / "five", min_best_loglik=five)
    gathered(run, tmp_path / "four", min_best_loglik=four)
    assert json.loads((tmp_path / "four/round-2/weights.json").read_text())["dropped/all_wrong"] == 4
    assert set(shares(tmp_path / "four", "selector")) < set(shares(run, "selector"))
    with pytest.raises(NothingToLearn, match="nothing is left to train the selector on; see .*weights.json"):
        gathered(run, tmp_path / "all", min_best_loglik=0.0, max_dropped=1.0)
