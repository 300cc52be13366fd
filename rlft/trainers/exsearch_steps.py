"""E-step and validation of an EXSEARCH round: each stage reads the files of those before it and leaves its own.

sample    trajectories-*.jsonl.gz   K trajectories a question, the answer left open
score     scores-*.jsonl            log p(gold answer | question, trajectory), for every gold answer
weigh     weights.jsonl             weights, or why a question is dropped; weights.json sums them up
validate  dev-*.jsonl.gz            trajectories with the answer sampled; dev.json has their metrics
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from accelerate import PartialState
from torch import nn

from rlft.em.diagnostics import ess_histogram, weight_metrics
from rlft.em.score import score_answers
from rlft.em.stages import Round
from rlft.em.weighing import WeightOptions, answer_score, weigh
from rlft.evaluate.qa import exact_match
from rlft.evaluate.search_metrics import search_metrics
from rlft.record.folder import write_whole
from rlft.record.jsonl import json_lines, read_jsonl
from rlft.retrieval.passage import Retriever
from rlft.rollouts.policy import GREEDY, Policy, Sampling
from rlft.rollouts.search import AnswerMode, SearchRollout
from rlft.rollouts.trajectory import FinishReason, Trajectory
from rlft.trainers.rolls import Rolls, Row, Sampled, same_questions

SAMPLED = "trajectories"
Metrics = Callable[[Row, Trajectory], Mapping[str, float]]


class SearchSteps:
    """What a round does beside learning.

    Args:
        rolls: samples and reads shards.
        retriever: what searches.
        metrics: further metrics of one trajectory.
    """

    def __init__(self, rolls: Rolls, retriever: Retriever, metrics: Metrics | None = None):
        self.rolls, self.args, self.retriever, self.metrics = rolls, rolls.args, retriever, metrics

    def sample(self, current: Round, before: Round, rows: Sequence[Row]) -> None:
        """z_k ~ p(z | x; theta), k = 1..K (eq. 3). Rejection sampling needs the model's own answer as well."""
        samples = self.args.num_generations
        answer: AnswerMode = "sample" if self.args.weighting == "rejection" else "open"
        rollout = self._rollout(answer, samples, current.number)
        self.rolls.roll(current, SAMPLED, before.folder, rows, rollout, self.args.sampling(), samples=samples)

    def score(self, current: Round, before: Round, rows: Sequence[Row]) -> None:
        """s_k = log p(y | x, z_k; theta), for each gold answer y."""
        for number, shard in self.rolls.mine(rows, f"round {current.number}: score"):
            path = current.folder / f"scores-{number:05d}.jsonl"
            if not path.exists():
                sampled = self.rolls.read(current.folder, SAMPLED, (number, shard))
                write_whole(path, json_lines(self._scores(self.rolls.models.at(before.folder), sampled)))

    def weigh(self, current: Round, rows: Sequence[Row]) -> None:
        """w_k = exp s_k / sum_j exp s_j over the trajectories of a question (eq. 4)."""
        if not PartialState().is_main_process:
            return
        options, weighed, refused = WeightOptions.of(self.args), {}, Counter[str]()
        for row, trajectories, logliks in self.scored(current, rows):
            reasons = [refusal(trajectory, self.args) for trajectory in trajectories]
            refused.update(reason for reason in reasons if reason)
            scores = self._answer_scores(row, logliks, reasons, options)
            correct = [_is_correct(trajectory, row) for trajectory in trajectories]
            weighed[row["id"]] = weigh(scores, options, correct if options.weighting == "rejection" else None)
        records = ({"id": key, **question.record()} for key, question in weighed.items())
        write_whole(current.folder / "weights.jsonl", json_lines(records))
        questions = list(weighed.values())
        counts = {f"refused/{why}": count for why, count in sorted(refused.items())}
        summary = {**weight_metrics(questions), **counts, "ess_histogram": ess_histogram(questions)}
        write_whole(current.folder / "weights.json", json.dumps(summary, indent=1))

    def validate(self, current: Round, name: str, rows: Sequence[Row]) -> None:
        """Metrics of greedy trajectories, and of sampled ones with `eval_sampled`, into `<name>.json`."""
        metrics: dict[str, float] = {}
        modes = {"greedy": GREEDY} | ({"sampled": self.args.sampling()} if self.args.eval_sampled else {})
        for mode, sampling in modes.items():
            files = f"{name}-{mode}"
            self.rolls.roll(current, files, current.folder, rows, self._rollout("sample", 1, files), sampling)
            found = self.rolls.read_all(current.folder, files, rows)
            pairs = [(row, trajectories[0]) for row, trajectories in found]
            values = search_metrics([row for row, _ in pairs], [one for _, one in pairs], self.rolls.frame.decode)
            metrics |= {f"{mode}_{key}": value for key, value in (values | self._own_metrics(pairs)).items()}
        if PartialState().is_main_process:
            write_whole(current.folder / f"{name}.json", json.dumps(metrics, indent=1))

    def _rollout(self, answer: AnswerMode, samples: int, draw: object) -> Callable[..., list[Trajectory]]:
        """The search; `draw` goes into every seed, with the run's seed and the question's id."""
        rollout = SearchRollout(
            self.rolls.frame,
            self.retriever,
            self.args.search_options(),
            answer=answer,
            samples=samples,
            seed=self.args.seed,
            round=draw,
        )

        def searched(rows: Sequence[Row], policy: Policy, sampling: Sampling) -> list[Trajectory]:
            asked = [{"id": row["id"], "question": row["question"]} for row in rows]  # no column is an order
            return rollout(asked, policy, sampling)

        return searched

    def _own_metrics(self, pairs: Sequence[tuple[Row, Trajectory]]) -> dict[str, float]:
        """Means of the further metrics over all trajectories; one that is not given counts as 0."""
        if self.metrics is None:
            return {}
        total: dict[str, float] = {}
        for row, trajectory in pairs:
            for name, value in self.metrics(row, trajectory).items():
                total[name] = total.get(name, 0.0) + value
        return {name: value / len(pairs) for name, value in total.items()}

    def scored(self, current: Round, rows: Sequence[Row]) -> Iterator[tuple[Row, list[Trajectory], list[Any]]]:
        """Every question with its trajectories and their log-likelihoods (K lists of A, None where unscored)."""
        for number, shard in self.rolls.all(rows):
            path = current.folder / f"scores-{number:05d}.jsonl"
            scores = read_jsonl(path)
            same_questions(path, [row["id"] for row in shard], [line["id"] for line in scores])
            sampled = self.rolls.read(current.folder, SAMPLED, (number, shard))
            for (row, trajectories), line in zip(sampled, scores, strict=True):
                yield row, trajectories, line["logliks"]

    def _scores(self, model: nn.Module, sampled: Sampled) -> Iterator[dict[str, Any]]:
        scored = [
            (row, k, trajectory)
            for row, trajectories in sampled
            for k, trajectory in enumerate(trajectories)
            if trajectory.finish is not FinishReason.LENGTH
        ]
        answers = {row["id"]: self.rolls.gold_answers(row) for row, _ in sampled}
        logliks = score_answers(
            model,
            [open_ids(trajectory) for _, _, trajectory in scored],
            [answers[row["id"]] for row, _, _ in scored],
            pad_id=self.rolls.pad_id,
            batch_tokens=self.args.score_batch_tokens,
        )
        found = {(row["id"], k): loglik_A for (row, k, _), loglik_A in zip(scored, logliks, strict=True)}
        for row, trajectories in sampled:
            yield {"id": row["id"], "logliks": [found.get((row["id"], k)) for k in range(len(trajectories))]}

    def _answer_scores(
        self, row: Row, logliks: Sequence[Any], reasons: Sequence[str | None], options: WeightOptions
    ) -> list[float | None]:
        lengths = [len(ids) for ids in self.rolls.gold_answers(row)]
        return [
            None if reason else answer_score(loglik_A, lengths, options)
            for loglik_A, reason in zip(logliks, reasons, strict=True)
        ]


def refusal(trajectory: Trajectory, args: Any) -> str | None:
    """Why a trajectory takes no part: it has no answer turn, or is not well formed. None if it does."""
    if trajectory.finish is FinishReason.LENGTH:
        return "cut before its answer"
    if trajectory.fields["empty_facts"] > args.max_empty_facts:
        return "empty facts"
    if args.drop_malformed and trajectory.finish is FinishReason.MALFORMED:
        return "malformed"
    return None


def open_ids(trajectory: Trajectory) -> list[int]:
    """Everything up to where the answer begins."""
    before = [token for segment in trajectory.segments if segment.label != "answer" for token in segment.ids]
    return [*trajectory.prompt_ids, *before]


def _is_correct(trajectory: Trajectory, row: Row) -> bool:
    return exact_match(str(trajectory.fields.get("answer") or ""), row["golden_answers"]) == 1
