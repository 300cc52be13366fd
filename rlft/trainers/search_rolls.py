"""Search trajectories of a round on disk, in shards, over processes: what E-step and validation share."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import tqdm
from torch import nn

from rlft.em.rounds import shards
from rlft.em.stages import Round
from rlft.retrieval.passage import Retriever
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Sampling
from rlft.rollouts.search import AnswerMode, SearchRollout
from rlft.rollouts.search_text import MARKERS
from rlft.rollouts.store import read_shard, write_shard
from rlft.rollouts.trajectory import Trajectory
from rlft.trainers.round_models import RoundModels
from rlft.trainers.samplers import Samplers

Row = Mapping[str, Any]
Shard = tuple[int, Sequence[Row]]
Sampled = list[tuple[Row, list[Trajectory]]]
"""Questions with their trajectories."""


class SearchRolls:
    """Samples shards of trajectories and reads them back.

    Args:
        args: an `ExSearchConfig`.
        tokenizer: with a chat template.
        retriever: what searches.
        models: loads the model of a round.
    """

    def __init__(self, args: Any, tokenizer: Any, retriever: Retriever, models: RoundModels):
        self.args, self.tokenizer, self.retriever, self.models = args, tokenizer, retriever, models
        self.frame = ChatFrame(tokenizer, MARKERS, args.template_settings())
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.samplers = Samplers(args, tokenizer, self.frame.stop_ids, self.pad_id)
        self._state = PartialState()
        self._loaded: tuple[Path, nn.Module] | None = None

    def roll(
        self,
        current: Round,
        name: str,
        origin: Path,
        rows: Sequence[Row],
        sampling: Sampling,
        *,
        answer: AnswerMode,
        samples: int = 1,
        draw: object,
    ) -> None:
        """Make those of this process's shards `<name>-<number>.jsonl.gz` that are not there yet.

        Args:
            current: the round whose folder they go to.
            name: of the files.
            origin: folder of the model that is sampled.
            rows: questions.
            sampling: the distribution.
            answer: whether the model answers.
            samples: trajectories a question.
            draw: goes into every seed, with the run's seed and the question's id.
        """
        rollout = SearchRollout(
            self.frame,
            self.retriever,
            self.args.search_options(),
            answer=answer,
            samples=samples,
            seed=self.args.seed,
            round=draw,
        )
        self.samplers.start(origin, self.model)
        for number, shard in self.mine(rows, f"round {current.number}: {name}"):
            path = current.folder / f"{name}-{number:05d}.jsonl.gz"
            if not path.exists():
                policy = self.samplers.policy(origin, self.model)
                asked = [{"id": row["id"], "question": row["question"]} for row in shard]  # no column is an order
                keys = [{"id": row["id"], "sample": sample} for row in shard for sample in range(samples)]
                write_shard(path, zip(keys, rollout(asked, policy, sampling), strict=True))
        self.samplers.forget()

    def read(self, folder: Path, name: str, shard: Shard) -> Sampled:
        """A shard's questions with their trajectories.

        Raises:
            ValueError: if the file is of other questions.
        """
        number, rows = shard
        path = folder / f"{name}-{number:05d}.jsonl.gz"
        pairs = read_shard(path)
        samples = len(pairs) // len(rows)
        same_questions(path, [row["id"] for row in rows for _ in range(samples)], [key["id"] for key, _ in pairs])
        groups = [pairs[start : start + samples] for start in range(0, len(pairs), samples)]
        return [(row, [trajectory for _, trajectory in group]) for row, group in zip(rows, groups, strict=True)]

    def mine(self, rows: Sequence[Row], description: str) -> Iterator[Shard]:
        """This process's shards, with a progress bar on the main process."""
        own = list(shards(rows, self.args.shard_questions, self._state.process_index, self._state.num_processes))
        total = sum(len(shard) for _, shard in own)
        with tqdm(total=total, desc=description, unit="question", leave=False, disable=self.args.disable_tqdm) as bar:
            for shard in own:
                yield shard
                bar.update(len(shard[1]))

    def all(self, rows: Sequence[Row]) -> Iterable[Shard]:
        """Every process's shards."""
        return shards(rows, self.args.shard_questions, 0, 1)

    def model(self, folder: Path) -> nn.Module:
        """The model in a round's folder; the last one stays loaded."""
        if self._loaded is None or self._loaded[0] != folder:
            self.forget()
            self._loaded = (folder, self.models.load(folder))
        return self._loaded[1]

    def forget(self) -> None:
        """Let go of the loaded model."""
        self._loaded = None
        self.samplers.forget()
        gc.collect()


def same_questions(path: Path, wanted: Sequence[object], found: Sequence[object]) -> None:
    """Refuse a file of other questions, or of the same in another order.

    Raises:
        ValueError: naming the first difference.
    """
    if list(wanted) != list(found):
        pairs = zip_longest(wanted, found)
        place, (here, there) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
        raise ValueError(
            f"{path} is of other questions: entry {place} is of {there!r}, not of {here!r}. Delete it, so that it is "
            "made again."
        )
