"""The replay of a STOC run, made before anything is learnt, in stages that a killed run goes on with.

output_dir/replay/identity.json             what it was made of
output_dir/replay/seeds-00000.jsonl         pieces of new samples            (rlft.replay.seeds)
output_dir/replay/written-00000.jsonl.gz    what the model wrote after them  (rlft.replay.generation)
output_dir/replay/kept.jsonl.gz             what filters left; filter.json says what they took
output_dir/replay/mix.jsonl.gz              new samples and replay; mix.json says in which shares
output_dir/replay/manifest.json             finished stages, with the digests of their files
"""

import gzip
import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import tqdm

from rlft.record.folder import write_whole
from rlft.record.jsonl import json_lines, read_jsonl, to_json
from rlft.record.stages import IDENTITY, Stages, canonical, claim_identity
from rlft.replay.attention import attention_mass
from rlft.replay.attention_taps import Method
from rlft.replay.audit import distinct_seeds, start_shares
from rlft.replay.generation import Continuing, draws_of, without_seeded_sample, write_items
from rlft.replay.mixing import Mixed, mix
from rlft.replay.seeds import Seed, sample_seeds
from rlft.rollouts.policy import Policy
from rlft.trainers.stoc_options import STOCOptions
from rlft.trainers.stoc_samples import Sample

logger = logging.getLogger(__name__)

FREE_TO_CHANGE = {"sampler_batch_size", "sampler_memory"}
"""Settings that do not change what is made."""


class Replay:
    """Makes and mixes the replay of one run.

    Args:
        args: a `STOCConfig`.
        tokenizer: the model's.
        new: samples of the new data.
        old: samples of the old data; empty where they are gone.
    """

    def __init__(self, args: Any, tokenizer: Any, new: Sequence[Sample], old: Sequence[Sample]):
        self.args, self.tokenizer, self.new, self.old = args, tokenizer, new, old
        self.folder = Path(str(args.output_dir)) / "replay"
        begun = tokenizer("a")["input_ids"][:1]
        self.starts: list[int] = begun if begun == [tokenizer.bos_token_id] else []
        """What the tokenizer puts before a text."""
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self._state = PartialState()

    @property
    def wanted_tokens(self) -> int:
        """Tokens of replay that make alpha exact."""
        new = self.args.replay_breadth * _tokens(self.new)
        return round(new * (1 - self.args.alpha) / self.args.alpha)

    def make(self, model: Any, name: str, policy: Callable[[], Policy]) -> list[Sample]:
        """New samples and replay, mixed; what the folder already holds of them is not made again.

        Args:
            model: theta_0, as it is before it learns.
            name: what it is called, for the record.
            policy: samples it; called only if something is to be written.

        Returns:
            Samples with a `source`, `new` or `replay`.

        Raises:
            rlft.record.stages.AnotherRun: if the folder holds replay of other settings, data or weights.
            ValueError: if there is too little replay for alpha and `short` is `error`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        claim_identity(self.folder / IDENTITY, self._identity(model))
        stages = Stages(self.folder)
        if self.args.replay == "self":
            stages.stage("seeds", lambda: self._find_seeds(model), "seeds-*.jsonl")
            stages.stage("write", lambda: self._write(name, policy), "written-*.jsonl.gz")
            stages.stage("filter", self._on_main(self._sort_out), "kept.jsonl.gz", "filter.json")
        stages.stage("mix", self._on_main(self._mix), "mix.jsonl.gz", "mix.json")
        return read_rows(self.folder / "mix.jsonl.gz")

    def report(self) -> dict[str, Any]:
        """What was made: `seeds`, `filter` and `mix`, as far as there are any."""
        found = {"mix": json.loads((self.folder / "mix.json").read_text())}
        if self.args.replay == "self":
            seeds = self.seeds()
            found["seeds"] = {"seeds": len(seeds), "distinct": distinct_seeds(seeds), "starts": start_shares(seeds)}
            found["filter"] = json.loads((self.folder / "filter.json").read_text())
        return found

    def seeds(self) -> list[Seed]:
        """All seeds, in the order of their samples."""
        rows = [row for path in sorted(self.folder.glob("seeds-*.jsonl")) for row in read_jsonl(path)]
        return [Seed(**{field.name: _plain(row[field.name]) for field in fields(Seed)}) for row in rows]

    def _identity(self, model: Any) -> dict[str, Any]:
        options = {field.name: getattr(self.args, field.name) for field in fields(STOCOptions)}
        return {name: value for name, value in options.items() if name not in FREE_TO_CHANGE} | {
            "seed": self.args.seed,
            "max_length": self.args.max_length,
            "weights": weights_digest(model),
            "new data": digest_of(self.new),
            "old data": digest_of(self.old) if self.args.needs_old else None,
        }

    def _on_main(self, work: Callable[[], None]) -> Callable[[], None]:
        return lambda: work() if self._state.is_main_process else None

    def _find_seeds(self, model: Any) -> None:
        length = self.args.max_length
        samples = [sample | {"ids": sample["ids"][:length]} for sample in self.new[: self.args.seed_samples or None]]
        shards = list(_cut(samples, self.args.shard_items))
        for number, shard in enumerate(self._shown(shards, "seeds")):
            path = self.folder / f"seeds-{number:05}.jsonl"
            if number % self._state.num_processes == self._state.process_index and not path.exists():
                masses = dict(self._masses(model, shard))
                found = [seed for sample in shard for seed in self._seeds(sample, masses.get(sample["id"]))]
                rows = [asdict(seed) | {"text": self._decode(list(seed.ids))} for seed in found]
                write_whole(path, json_lines(rows))

    def _masses(self, model: Any, samples: Sequence[Sample]) -> Iterator[tuple[str, list[float]]]:
        """Attention mass by sample; none where no attention is read."""
        if not self.args.reads_attention:
            return
        ordered = sorted(samples, key=lambda sample: len(sample["ids"]))
        for batch in _cut(ordered, self.args.sampler_batch_size):
            longest = len(batch[-1]["ids"])
            ids_BT = torch.zeros(len(batch), longest, dtype=torch.long)
            mask_BT = torch.zeros_like(ids_BT)
            for row, sample in enumerate(batch):
                ids_BT[row, : len(sample["ids"])] = torch.tensor(sample["ids"])
                mask_BT[row, : len(sample["ids"])] = 1
            method: Method = "eager" if self.args.eager_attention else "stream"
            mass_BT = attention_mass(model, ids_BT, mask_BT, weighting=self.args.attention_weighting, method=method)
            for sample, mass_T in zip(batch, mass_BT.tolist(), strict=True):
                yield sample["id"], mass_T[: len(sample["ids"])]

    def _seeds(self, sample: Sample, mass_T: list[float] | None) -> list[Seed]:
        return sample_seeds(
            sample["id"],
            mass_T,
            sample["ids"],
            k=self.args.seeds_per_sample,
            width=self.args.seed_width,
            scorer=self.args.scorer,
            seed=self.args.seed,
            special_ids=self.special_ids,
            rank=self.args.seed_rank,
        )

    def _write(self, name: str, policy: Callable[[], Policy]) -> None:
        how = self._continuing()
        wanted = list(draws_of(self.seeds(), how))
        random.Random(f"replay {self.args.seed}").shuffle(wanted)  # so that the first ones are a fair sample
        shards = list(_cut(wanted, self.args.shard_items))
        sampler: Policy | None = None
        missing = self._pool_tokens()
        for numbers in self._shown(list(_cut(range(len(shards)), self._state.num_processes)), "writing replay"):
            number = numbers[0] + self._state.process_index
            if number < len(shards) and not self._shard(number).exists():
                sampler = sampler or policy()
                write_rows(
                    self._shard(number), write_items(shards[number], sampler, how, decode=self._decode, model=name)
                )
            self._state.wait_for_everyone()
            if self.args.replay_pool:
                missing -= sum(_tokens(self._items(written)) for written in numbers)
            if missing <= 0:
                break

    def _shown(self, parts: Sequence[Any], title: str) -> Iterable[Any]:
        """Parts of a stage with a bar."""
        return tqdm(parts, desc=title, unit="shard", leave=False, disable=self.args.disable_tqdm)

    def _continuing(self) -> Continuing:
        # `bos` has one seed a sample, which stands for its K
        samples = self.args.replay_samples * (self.args.seeds_per_sample if self.args.scorer == "bos" else 1)
        return Continuing(
            samples=samples,
            max_length=self.args.replay_max_length,
            sampling=self.args.sampling(),
            seed=self.args.seed,
            start_ids=tuple(self.starts),
            end_id=self.tokenizer.eos_token_id,
        )

    def _pool(self) -> list[list[Sample]]:
        """Items by shard: the first shards that hold the pool wanted, or all, whichever process wrote them."""
        found: list[list[Sample]] = []
        missing = self._pool_tokens()
        while missing > 0 and self._shard(len(found)).exists():
            found.append(self._items(len(found)))
            missing -= _tokens(found[-1])
        return found

    def _pool_tokens(self) -> float:
        return self.args.replay_pool * self.wanted_tokens if self.args.replay_pool else float("inf")

    def _items(self, number: int) -> list[Sample]:
        return [self._usable(item) for item in read_rows(self._shard(number))]

    def _usable(self, item: Sample) -> Sample:
        """An item as a new sample stands in the stream: after the start token, if there is one, and ended."""
        end, size = self.tokenizer.eos_token_id, len(self.starts)
        item = item if self.args.keep_seeded_sample else without_seeded_sample(item, end, self._decode)
        if not item["ids"]:
            return item
        if self.starts and item["ids"][:size] != self.starts:
            item = item | {"ids": [*self.starts, *item["ids"]], "seed_tokens": size + item["seed_tokens"]}
        return item if item["ids"][-1] == end else item | {"ids": [*item["ids"], end]}

    def _sort_out(self) -> None:
        items = [item for shard in self._pool() for item in shard]
        subjects = {sample["subject"] for sample in self.new if "subject" in sample}
        if self.args.drop_new_subjects and not subjects:
            raise ValueError("drop_new_subjects needs a column `subject` in the new data, and no row has one.")
        sorted_out = self.args.filter().apply(
            items,
            [sample["ids"] for sample in self.new] if self.args.max_overlap is not None else (),
            special_ids=self.special_ids,
            new_subjects=subjects if self.args.drop_new_subjects else (),
        )
        write_rows(self.folder / "kept.jsonl.gz", sorted_out.kept)
        report = {"written": len(items), "kept": len(sorted_out.kept), "dropped": sorted_out.dropped}
        write_whole(self.folder / "filter.json", to_json(report | {"reasons": sorted_out.reasons}) + "\n")

    def _mix(self) -> None:
        pool: Sequence[Mapping[str, Any]] = []
        if self.args.replay == "self":
            pool = read_rows(self.folder / "kept.jsonl.gz")
        elif self.args.replay == "real":
            pool = self.old
        passes = range(1, self.args.replay_breadth)
        new = [*self.new, *(sample | {"id": f"{sample['id']}#{one}"} for one in passes for sample in self.new)]
        mixed: Mixed = mix(new, pool, self.args.alpha, seed=self.args.seed, short=self.args.short)
        if mixed.report.missing_tokens or mixed.report.repeats:
            logger.warning("%s: too little replay, short=%s:\n%s", self.folder, self.args.short, mixed.report)
        write_rows(self.folder / "mix.jsonl.gz", mixed.rows)
        write_whole(self.folder / "mix.json", to_json(mixed.report.as_dict() | {"text": str(mixed.report)}) + "\n")

    def _shard(self, number: int) -> Path:
        return self.folder / f"written-{number:05}.jsonl.gz"

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as compressed lines of JSON, all or nothing; equal rows give equal bytes."""
    write_whole(path, gzip.compress(json_lines(rows).encode("ascii"), mtime=0))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What `write_rows` wrote."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def weights_digest(model: Any) -> str:
    """Of all weights, by name."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Of what JSON can hold."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=16).hexdigest()


def _tokens(samples: Sequence[Sample]) -> int:
    return sum(len(sample["ids"]) for sample in samples)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _cut(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
