"""Replay that the model writes itself: continuations of seeds, sampled before it learns anything new.

STOC (arXiv 2605.10640), step 4: a seed is a bare prompt; m continuations each, temperature 1, repetition penalty 1.05.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlft.replay.seeds import Seed
from rlft.rollouts.policy import Draw, Policy, Sampling, seed_of


@dataclass(frozen=True)
class Continuing:
    """How seeds are continued."""

    samples: int
    """Continuations of a seed (m)."""
    max_length: int
    """Tokens of an item, its seed included (T_max)."""
    sampling: Sampling
    seed: int
    start_ids: tuple[int, ...]
    """Stand before every prompt and in no item; an empty seed is continued from `end_id` if there are none."""
    end_id: int
    """Ends a sample. A policy that does not stop at it writes several samples an item, as the paper's synthetic
    setting (`ignore_eos`)."""

    def prompt(self, seed: Seed) -> list[int]:
        """What the model is given."""
        return [*self.start_ids, *seed.ids] or [self.end_id]


def draws_of(seeds: Sequence[Seed], how: Continuing) -> Iterator[tuple[str, Seed, Draw]]:
    """What is to be written: the item's id, its seed and the draw. A draw's randomness is its id's.

    Raises:
        ValueError: for a seed that leaves no room in `max_length`.
    """
    for seed in seeds:
        room = how.max_length - len(seed.ids)
        if room < 1:
            raise ValueError(
                f"a seed of {len(seed.ids)} tokens ({seed_id(seed)}) leaves no room in items of {how.max_length}: "
                "raise replay_max_length or lower seed_width."
            )
        for number in range(how.samples):
            name = f"{seed_id(seed)}/{number}"
            yield name, seed, Draw(how.prompt(seed), seed_of(how.seed, "replay", name), room)


def seed_id(seed: Seed) -> str:
    """Names a seed within a run."""
    return f"{seed.sample_id}:{seed.start}-{seed.end}"


def write_items(
    wanted: Sequence[tuple[str, Seed, Draw]],
    policy: Policy,
    how: Continuing,
    *,
    decode: Callable[[list[int]], str],
    model: str,
) -> list[dict[str, Any]]:
    """Replay items, one for each draw.

    Args:
        wanted: as `draws_of` gives them.
        policy: theta_0, the model as it is before it learns the new text.
        how: the same that `wanted` was made with.
        decode: ids to text, special tokens included.
        model: its name, for the record.

    Returns:
        `{id, seed_id, ids, text, seed_tokens, logprob, gen}`, `ids` with the seed and without what stands before it,
        `logprob` the mean log-probability of what was written, in nats under the sampling temperature.
    """
    generations = policy.generate([draw for _, _, draw in wanted], how.sampling)
    items = []
    for (name, seed, draw), generation in zip(wanted, generations, strict=True):
        ids = [*seed.ids, *generation.ids]
        items.append(
            {
                "id": name,
                "seed_id": seed_id(seed),
                "ids": ids,
                "text": decode(ids),
                "seed_tokens": len(seed.ids),
                "logprob": sum(generation.logprobs) / len(generation.logprobs),
                "gen": {"model": model, "temperature": how.sampling.temperature, "seed": draw.seed},
            }
        )
    return items


def without_seeded_sample(item: dict[str, Any], end_id: int, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    """An item without the sample that its seed began: the rest the model wrote of its own accord.

    A seed from new text holds new names, and what the model writes about those is invented; the samples after the end
    token are about what it knows. An item with one sample only is left with no ids.
    """
    ids = list(item["ids"])
    first = next((place for place, token in enumerate(ids) if token == end_id), len(ids) - 1) + 1
    return item | {"ids": ids[first:], "text": decode(ids[first:]), "seed_tokens": 0}
