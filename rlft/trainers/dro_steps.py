"""E-step and validation of a DRO round: each stage reads the files of those before it and leaves its own.

sample    lists-*.jsonl.gz          m lists a question, by the selector
answer    answers-*.jsonl           the generator's answer after each; only where weights or rewards need it
score     scores-*.jsonl            log p(gold answer | question, passages of the list), for every gold answer
weigh     weights.jsonl             weights, or why a question is dropped; weights.json sums them up
validate  dev-*.jsonl.gz            lists, and answers from them; dev.json has their metrics
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import nn

from rlft.em.diagnostics import ess_histogram, weight_metrics
from rlft.em.lists import weigh_lists
from rlft.em.score import score_answers
from rlft.em.stages import Round
from rlft.em.weighing import Weighed, WeightOptions, answer_score
from rlft.evaluate.list_metrics import list_metrics, sampled_list_metrics
from rlft.evaluate.qa import exact_match
from rlft.pair_folder import GENERATOR, SELECTOR
from rlft.record.folder import write_whole
from rlft.record.jsonl import json_lines, read_jsonl
from rlft.rollouts.list_text import read_list
from rlft.rollouts.permutation import PermutationRollout
from rlft.rollouts.policy import GREEDY
from rlft.rollouts.reading import AnswerRollout, reading_prompt
from rlft.rollouts.trajectory import Trajectory
from rlft.trainers.rolls import Rolls, Row, Sampled, same_questions

SAMPLED, ANSWERED, SCORED = "lists", "answers", "scores"


class DROSteps:
    """What a round does beside learning.

    Args:
        selector, generator: sample and read shards.
    """

    def __init__(self, selector: Rolls, generator: Rolls):
        self.selector, self.generator, self.args = selector, generator, selector.args
        self.list_options, self.reading_options = self.args.list_options(), self.args.reading_options()

    @property
    def needs_answers(self) -> bool:
        """Whether somebody asks what the generator answers after each list."""
        reward = self.args.selector_objective == "grpo" and self.args.grpo_reward == "exact_match"
        return self.args.weighting == "rejection" or reward

    def reading(self, row: Row, places: Sequence[int]) -> list[int]:
        """Ids up to the generator's answer from the passages of a list; from none, closed book."""
        passages = [row["candidates"][place] for place in places]
        return reading_prompt(self.generator.frame, row["question"], passages, self.reading_options, row["id"])

    def sample(self, current: Round, before: Round, rows: Sequence[Row]) -> None:
        """z_i ~ p(z | x; theta_s), i = 1..m."""
        rollout = self._lists(current.number, shuffle=self.args.shuffle_candidates)
        samples, folder = self.args.num_generations, before.folder / SELECTOR
        rollout = replace(rollout, samples=samples)
        self.selector.roll(current, SAMPLED, folder, rows, rollout, self.args.sampling(), samples=samples)

    def answer(self, current: Round, before: Round, rows: Sequence[Row]) -> None:
        """The generator's likeliest answer after each list."""
        rolls, folder = self.generator, before.folder / GENERATOR
        rollout = AnswerRollout(rolls.frame, self.reading_options, self.args.seed, current.number)
        rolls.samplers.start(folder, rolls.models.at)
        for path, sampled in self._shards(current, ANSWERED, rows):
            asked = [
                {"id": (row["id"], *places), "question": row["question"], "passages": _passages(row, places)}
                for row, trajectories in sampled
                for places in distinct(trajectories)
            ]
            said = rollout(asked, rolls.samplers.policy(folder, rolls.models.at), GREEDY)
            found = {trajectory.fields["id"]: trajectory.fields["answer"] for trajectory in said}
            records = (
                {"id": row["id"], "answers": [found.get((row["id"], *list_of(one))) for one in trajectories]}
                for row, trajectories in sampled
            )
            write_whole(path, json_lines(records))
        rolls.samplers.forget()

    def score(self, current: Round, before: Round, rows: Sequence[Row]) -> None:
        """log p(y | x, d_z; theta_g) for each list z and each gold answer y; equal lists once."""
        for path, sampled in self._shards(current, SCORED, rows):
            write_whole(path, json_lines(self._scores(self.generator.models.at(before.folder / GENERATOR), sampled)))

    def weigh(self, current: Round, rows: Sequence[Row]) -> None:
        """w_i proportional to p(y | x, d_z_i) over the lists of a question (eq. 3 and 4)."""
        if not PartialState().is_main_process:
            return
        weighed, lists, closed_book, all_samples = [], [], [], []
        for row, trajectories, record in self.scored(current, rows):
            samples = [list_of(trajectory) or None for trajectory in trajectories]
            question = self._weighed(row, samples, record)
            weighed.append({"id": row["id"], **question.record()})
            lists.append((question, samples))
            all_samples += trajectories
            if question.scored:
                closed_book.append((self._score(row, record["closed_book"]) or 0.0, max(question.scored)))
        write_whole(current.folder / "weights.jsonl", json_lines(weighed))
        questions = [question for question, _ in lists]
        summary = {
            **weight_metrics(questions),
            **sampled_list_metrics([samples for _, samples in lists]),
            **_list_counts(all_samples),
            **_closed_book_metrics(closed_book),
            "ess_histogram": ess_histogram(questions),
        }
        write_whole(current.folder / "weights.json", json.dumps(summary, indent=1))

    def validate(self, current: Round, name: str, rows: Sequence[Row]) -> None:
        """Metrics of the pair, greedy and with `eval_sampled` sampled, into `<name>.json`."""
        metrics: dict[str, float] = {}
        modes = {"greedy": GREEDY} | ({"sampled": self.args.sampling()} if self.args.eval_sampled else {})
        for mode, sampling in modes.items():
            files = f"{name}-{mode}"
            rollout = self._lists(files, invalid="pad")
            self.selector.roll(current, f"{files}-lists", current.folder / SELECTOR, rows, rollout, sampling)
            chosen = self.selector.read_all(current.folder, f"{files}-lists", rows)
            asked = [
                {"id": row["id"], "question": row["question"], "passages": _passages(row, list_of(one))}
                for row, (one,) in chosen
            ]
            reading = AnswerRollout(self.generator.frame, self.reading_options, self.args.seed, files)
            self.generator.roll(current, f"{files}-answers", current.folder / GENERATOR, asked, reading, sampling)
            said = self.generator.read_all(current.folder, f"{files}-answers", asked)
            values = list_metrics(
                rows,
                [list_of(one) for _, (one,) in chosen],
                [one.fields["answer"] for _, (one,) in said],
                size=self.list_options.size,
            )
            values["invalid_rate"] = float(np.mean([self._is_faulty(one) for _, (one,) in chosen]))
            metrics |= {f"{mode}_{key}": value for key, value in values.items()}
        if PartialState().is_main_process:
            write_whole(current.folder / f"{name}.json", json.dumps(metrics, indent=1))

    def scored(self, current: Round, rows: Sequence[Row]) -> Iterator[tuple[Row, list[Trajectory], dict[str, Any]]]:
        """Every question with its lists and what was found of them: `logliks`, `closed_book`, perhaps `answers`."""
        for shard in self.selector.all(rows):
            records = [_read(current, SCORED, shard)]
            if self.needs_answers:
                records.append(_read(current, ANSWERED, shard))
            sampled = self.selector.read(current.folder, SAMPLED, shard)
            for (row, trajectories), *found in zip(sampled, *records, strict=True):
                yield row, trajectories, {key: value for one in found for key, value in one.items()}

    def _is_faulty(self, trajectory: Trajectory) -> bool:
        """Whether the run would not take this list, which validation reads leniently and fills up."""
        text, count = trajectory.fields["text"], len(trajectory.fields["shown"])
        return read_list(text, count, self.list_options, trajectory.fields["cut"]).fault is not None

    def _lists(self, draw: object, shuffle: bool = False, **changed: Any) -> PermutationRollout:
        options = replace(self.list_options, **changed)
        return PermutationRollout(self.selector.frame, options, seed=self.args.seed, round=draw, shuffle=shuffle)

    def _shards(self, current: Round, name: str, rows: Sequence[Row]) -> Iterator[tuple[Path, Sampled]]:
        """This process's shards `<name>-<number>.jsonl` that are not there yet, with the lists sampled for them."""
        for number, shard in self.selector.mine(rows, f"round {current.number}: {name}"):
            path = current.folder / f"{name}-{number:05d}.jsonl"
            if not path.exists():
                yield path, self.selector.read(current.folder, SAMPLED, (number, shard))

    def _scores(self, model: nn.Module, sampled: Sampled) -> Iterator[dict[str, Any]]:
        wanted = [
            (number, places)
            for number, (_, trajectories) in enumerate(sampled)
            for places in [(), *distinct(trajectories)]
        ]
        answers = [self.generator.gold_answers(row) for row, _ in sampled]
        logliks = score_answers(
            model,
            [self.reading(sampled[number][0], places) for number, places in wanted],
            [answers[number] for number, _ in wanted],
            pad_id=self.generator.pad_id,
            batch_tokens=self.args.score_batch_tokens,
        )
        found = dict(zip(wanted, logliks, strict=True))
        for number, (row, trajectories) in enumerate(sampled):
            scores = [found[number, places] if (places := list_of(one)) else None for one in trajectories]
            yield {"id": row["id"], "logliks": scores, "closed_book": found[number, ()]}

    def _score(self, row: Row, loglik_A: Sequence[float] | None) -> float | None:
        return answer_score(loglik_A, list(map(len, self.generator.gold_answers(row))), WeightOptions.of(self.args))

    def _weighed(self, row: Row, samples: Sequence[Any], record: Mapping[str, Any]) -> Weighed:
        args, options = self.args, WeightOptions.of(self.args)
        scores = [self._score(row, loglik_A) for loglik_A in record["logliks"]]
        correct = [
            answer is not None and exact_match(answer, row["golden_answers"]) == 1
            for answer in record.get("answers", [])
        ]
        rewards = None
        if args.selector_objective == "grpo":
            likelihoods = [0.0 if score is None else np.exp(score) for score in scores]  # what is no list earns nothing
            rewards = [float(value) for value in (correct if args.grpo_reward == "exact_match" else likelihoods)]
        right = correct if options.weighting == "rejection" else None
        return weigh_lists(samples, scores, options, args.dedup, right, rewards)


def list_of(trajectory: Trajectory) -> tuple[int, ...]:
    """The places that a list names; none if it could not be read."""
    return tuple(trajectory.fields["list"])


def distinct(trajectories: Sequence[Trajectory]) -> list[tuple[int, ...]]:
    """Different lists, in the order of their first appearance."""
    return [places for places in dict.fromkeys(map(list_of, trajectories)) if places]


def _passages(row: Row, places: Sequence[int]) -> list[Any]:
    return [row["candidates"][place] for place in places]


def _read(current: Round, name: str, shard: tuple[int, Sequence[Row]]) -> list[dict[str, Any]]:
    number, rows = shard
    path = current.folder / f"{name}-{number:05d}.jsonl"
    records = read_jsonl(path)
    same_questions(path, [row["id"] for row in rows], [record["id"] for record in records])
    return records


def _closed_book_metrics(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """From scores without passages and after the best list: their mean, and how often no list does better."""
    if not pairs:
        return {}
    return {
        "closed_book_loglik": float(np.mean([closed for closed, _ in pairs])),
        "closed_book_ahead": float(np.mean([closed >= best for closed, best in pairs])),
    }


def _list_counts(samples: Sequence[Trajectory]) -> dict[str, float]:
    """What became of the lists: how many, how many could not be read and why, how many were not taken as they were."""
    faults = Counter(one.fields["fault"] for one in samples if one.fields["fault"])
    return {
        "lists": float(len(samples)),
        "invalid_rate": sum(faults.values()) / len(samples),
        "draws_per_list": sum(one.fields["attempts"] for one in samples) / len(samples),
        **{name: float(sum(one.fields[name] for one in samples)) for name in ("padded", "respelled")},
        **{f"fault/{fault}": float(count) for fault, count in sorted(faults.items())},
    }
