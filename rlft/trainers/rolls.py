"""Trajectories of a round on disk, in shards, over processes: what E-step and validation share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.utils import tqdm
from torch import nn

from rlft.em.rounds import shards
from rlft.em.stages import Round
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Policy, Sampling
from rlft.rollouts.store import read_shard, write_shard
from rlft.rollouts.tokens import pad_id_of
from rlft.rollouts.trajectory import Trajectory
from rlft.trainers.samplers import Samplers

Row = Mapping[str, Any]
Shard = tuple[int, Sequence[Row]]
Sampled = list[tuple[Row, list[Trajectory]]]
"""Questions with their trajectories."""
Rollout = Callable[[Sequence[Row], Policy, Sampling], list[Trajectory]]
"""Gives every row as many trajectories, those of one row together."""


class Models(Protocol):
    """Gives the model of a round."""

    def at(self, folder: Path) -> nn.Module:
        """The model in a folder, to sample and to score with; it stays loaded until another is asked for."""
        ...

    def forget(self) -> None:
        """Let go of it."""
        ...


class Rolls:
    """Samples shards of trajectories and reads them back.

    Args:
        args: configuration with `SamplerOptions`, `EMOptions` and those of TRL.
        tokenizer: with a chat template.
        models: gives the model of a round.
        markers: the rollout's own control strings.
        samplers: who draws; made here if None.
    """

    def __init__(
        self,
        args: Any,
        tokenizer: Any,
        models: Models,
        markers: Sequence[str] = (),
        samplers: Samplers | None = None,
    ):
        self.args, self.tokenizer, self.models = args, tokenizer, models
        self.frame = ChatFrame(tokenizer, markers, args.template_settings())
        self.pad_id = pad_id_of(tokenizer)
        self.samplers = samplers or Samplers(args, tokenizer, self.frame.stop_ids, self.pad_id)
        self._state = PartialState()

    def gold_answers(self, row: Row) -> list[list[int]]:
        """Ids of every gold answer, as turns of the model.

        Raises:
            ValueError: if there is none, they are no list of texts, or one of them has no token.
        """
        golden = row.get("golden_answers")
        if not golden:
            raise ValueError("it has no golden_answers.")
        if not isinstance(golden, list) or not all(isinstance(text, str) for text in golden):
            raise ValueError(f"its golden_answers are {golden!r}, not a list of texts.")
        return [self.frame.answer_ids(text) for text in golden]

    def roll(
        self,
        current: Round,
        name: str,
        origin: Path,
        rows: Sequence[Row],
        rollout: Rollout,
        sampling: Sampling,
        *,
        samples: int = 1,
    ) -> None:
        """Make those of this process's shards `<name>-<number>.jsonl.gz` that are not there yet.

        Args:
            current: the round whose folder they go to.
            name: of the files.
            origin: folder of the model that is sampled.
            rows: what the rollout takes.
            rollout: rolls out a shard.
            sampling: the distribution.
            samples: trajectories a row.
        """
        self.samplers.start(origin, self.models.at)
        for number, shard in self.mine(rows, f"round {current.number}: {name}"):
            path = current.folder / f"{name}-{number:05d}.jsonl.gz"
            if not path.exists():
                policy = self.samplers.policy(origin, self.models.at)
                keys = [{"id": row["id"], "sample": sample} for row in shard for sample in range(samples)]
                write_shard(path, zip(keys, rollout(shard, policy, sampling), strict=True))
        self.samplers.forget()

    def read(self, folder: Path, name: str, shard: Shard) -> Sampled:
        """A shard's rows with their trajectories.

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

    def read_all(self, folder: Path, name: str, rows: Sequence[Row]) -> Sampled:
        """All rows with their trajectories, once every process has made its shards."""
        self._state.wait_for_everyone()
        return [pair for shard in self.all(rows) for pair in self.read(folder, name, shard)]

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

    def forget(self) -> None:
        """Let go of the loaded model."""
        self.samplers.forget()
        self.models.forget()


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
