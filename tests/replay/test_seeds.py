"""Seed windows: the released choice and its fault, the corrected one, overlap, short and special samples."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from rlft.replay.audit import distinct_seeds, start_shares
from rlft.replay.scores import SCORERS, SINK_TOKENS, token_scores
from rlft.replay.seeds import LEAST_ROWS, RANKINGS, sample_seeds, select_seeds
from tests.replay.maps import content_free, mass, planted, uniform

EOS, PAD = 0, 1


def starts(masses: Any, *, tokens: int | None = None, **options: Any) -> list[int]:
    ids = range(10, 10 + (len(masses) if tokens is None else tokens))
    chosen = select_seeds(masses, ids, **{"k": 3, "width": 3, "seed": 0, **options})
    return [start for start, _, _ in chosen]


@pytest.mark.parametrize("rank", RANKINGS)
def test_released_takes_the_prefix_of_uniform_attention(rank: str) -> None:
    assert starts(mass(uniform(60)), scorer="released", k=1, rank=rank) == [0]
    assert starts(mass(uniform(60)), scorer="released", rank=rank) == [0, 3, 6]


@pytest.mark.parametrize("rank", RANKINGS)
@pytest.mark.parametrize("sink", [0.0, 4.0])
@pytest.mark.parametrize("tokens", [60, 150])
def test_released_takes_the_prefix_whatever_the_text(tokens: int, sink: float, rank: str) -> None:
    """The fault of the released divisor: attention without any content leaves no choice but the first tokens."""
    chosen = np.array(
        [starts(mass(content_free(tokens, seed, sink=sink)), scorer="released", rank=rank) for seed in range(40)]
    )
    assert np.median(chosen, axis=0).tolist() == [0, 3, 6]
    assert chosen.max() <= 9


NO_SINK, SINK, SOME_HEADS, RAMP = 0.0, 4.0, [0.0] * 6 + [6.0] * 6, np.linspace(0, 8, 12)


@pytest.mark.parametrize(
    ("scorer", "sink"),
    [("fair", NO_SINK), ("sinkless", NO_SINK), ("sinkless", SINK), ("sinkless", SOME_HEADS), ("sinkless", RAMP)],
)
@pytest.mark.parametrize("tokens", [60, 150])
def test_corrected_scores_spread_over_the_sample(tokens: int, scorer: str, sink: Any) -> None:
    """Content-free attention: few seeds in the first nine tokens, and some in every fifth of the sample."""
    chosen = [
        start for seed in range(60) for start in starts(mass(content_free(tokens, seed, sink=sink)), scorer=scorer)
    ]
    fifths = np.histogram(chosen, bins=5, range=(0, tokens))[0] / len(chosen)
    assert np.mean(np.array(chosen) < 9) < 0.15
    assert (fifths > 0).all()
    assert fifths[:3].sum() > 0.15
    assert fifths.max() < 0.55


@pytest.mark.parametrize("tokens", [60, 150])
def test_under_a_sink_fair_leaves_out_the_tokens_after_it(tokens: int) -> None:
    """What `sinkless` is for: all but the seed on the sink itself stand in the later part."""
    chosen = [
        start for seed in range(20) for start in starts(mass(content_free(tokens, seed, sink=SINK)), scorer="fair")
    ]
    assert not [start for start in chosen if 3 <= start < tokens / 5]


def test_a_sink_takes_one_seed_of_fair_and_none_of_sinkless() -> None:
    masses = [mass(content_free(60, seed, sink=4.0)) for seed in range(20)]
    assert all(min(starts(each, scorer="fair")) == 0 for each in masses)
    assert all(min(starts(each, scorer="sinkless")) >= SINK_TOKENS for each in masses)


@pytest.mark.parametrize("rank", RANKINGS)
@pytest.mark.parametrize("scorer", ["fair", "sinkless"])
@pytest.mark.parametrize("column", [SINK_TOKENS, 17, 40, 60 - LEAST_ROWS])
def test_a_planted_column_is_selected(column: int, scorer: str, rank: str) -> None:
    ((start, end, score),) = select_seeds(
        mass(planted(60, column, 0.3)), range(60), k=1, width=3, scorer=scorer, seed=0, rank=rank
    )
    assert start <= column < end
    assert score > 1.5
    if rank == "token":
        assert start == column


def test_the_last_window_can_be_chosen() -> None:
    """The released loop over windows ends one short of it."""
    masses = np.full(20, 0.01)
    masses[-3:] = 19.83 / 3
    assert starts(masses, scorer="released", k=1) == [17]


def test_columns_of_few_rows_are_no_seeds_of_the_corrected_scores() -> None:
    assert starts(mass(planted(40, 39, 0.9)), scorer="fair", k=1) != [37]
    assert max(starts(mass(planted(40, 36, 0.9)), scorer="fair", k=9)) + 3 <= 40 - LEAST_ROWS + 1


@pytest.mark.parametrize("tokens", [4, 8, 9, 10])
@pytest.mark.parametrize("scorer", SCORERS)
def test_a_sample_too_short_for_the_exclusions_has_seeds_all_the_same(scorer: str, tokens: int) -> None:
    assert starts(mass(content_free(tokens, 0)), scorer=scorer)


@pytest.mark.parametrize("scorer", [scorer for scorer in SCORERS if scorer != "bos"])
def test_seeds_never_overlap_and_stand_in_order(scorer: str) -> None:
    for trial in range(100):
        chance = np.random.default_rng(trial)
        tokens, k, width = chance.integers(1, 40), int(chance.integers(1, 6)), int(chance.integers(1, 7))
        masses = chance.dirichlet(np.ones(tokens)) * tokens
        chosen = select_seeds(masses, range(tokens), k=k, width=width, scorer=scorer, seed=trial)
        assert 1 <= len(chosen) <= k
        assert all(end - start == min(width, tokens) for start, end, _ in chosen)
        assert all(start >= 0 and end <= tokens for start, end, _ in chosen)
        assert all(earlier[1] <= later[0] for earlier, later in zip(chosen, chosen[1:], strict=False))


@pytest.mark.parametrize("rank", RANKINGS)
def test_greedy_choice_equals_a_search_written_out(rank: str) -> None:
    for trial in range(50):
        chance = np.random.default_rng(trial)
        masses = chance.dirichlet(np.ones(25)) * 25
        score_T = token_scores(masses, "released")
        ranked = [score_T[s] if rank == "token" else sum(score_T[s : s + 4]) / 4 for s in range(22)]
        expected: list[int] = []
        for start in sorted(range(22), key=lambda s: -ranked[s]):
            if len(expected) < 3 and all(abs(start - other) >= 4 for other in expected):
                expected.append(start)
        assert starts(masses, scorer="released", width=4, rank=rank) == sorted(expected)


def test_prefix_takes_the_first_windows_after_a_start_token() -> None:
    ids = [EOS, *range(10, 40)]
    chosen = select_seeds(None, ids, k=3, width=3, scorer="prefix", seed=0, special_ids=[EOS])
    assert [start for start, _, _ in chosen] == [1, 4, 7]


def test_random_takes_every_start_alike() -> None:
    counts = Counter(
        start for seed in range(4000) for start in starts(None, tokens=12, scorer="random", k=1, seed=seed)
    )
    assert sorted(counts) == list(range(10))
    assert max(abs(count - 400) for count in counts.values()) < 5 * np.sqrt(400)


def test_bos_has_one_empty_seed() -> None:
    (seed,) = sample_seeds("a", None, [5, 6, 7, 8], k=3, width=3, scorer="bos", seed=0)
    assert (seed.start, seed.end, seed.ids) == (0, 0, ())


@pytest.mark.parametrize("scorer", [scorer for scorer in SCORERS if scorer != "bos"])
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_a_sample_no_longer_than_the_window_is_one_seed(tokens: int, scorer: str) -> None:
    chosen = select_seeds(np.ones(tokens), range(5, 5 + tokens), k=3, width=3, scorer=scorer, seed=0)
    assert [(start, end) for start, end, _ in chosen] == [(0, tokens)]


def test_special_tokens_stand_in_no_seed() -> None:
    ids = [EOS, 10, 11, 12, 13, EOS, 14, 15, EOS, 16, 17, 18, PAD]
    for scorer in set(SCORERS) - {"bos"}:
        for start, end, _ in select_seeds(
            mass(uniform(13)), ids, k=9, width=3, scorer=scorer, seed=0, special_ids=[EOS, PAD]
        ):
            assert not {EOS, PAD} & set(ids[start:end])


def test_short_text_between_special_tokens_is_one_seed() -> None:
    ids = [EOS, 10, EOS, 11, 12, EOS]
    chosen = select_seeds(mass(uniform(6)), ids, k=3, width=4, scorer="fair", seed=0, special_ids=[EOS])
    assert [(start, end) for start, end, _ in chosen] == [(3, 5)]


def test_seeds_depend_on_the_seed_and_the_sample_not_on_company() -> None:
    def seeds_of(samples: list[str], seed: int) -> dict[str, Any]:
        return {
            name: sample_seeds(name, None, range(100), k=3, width=3, scorer="random", seed=seed) for name in samples
        }

    names = [f"sample {number}" for number in range(20)]
    assert seeds_of(names, 1) == seeds_of(names[::-1], 1)
    assert seeds_of(names[5:6], 1)[names[5]] == seeds_of(names, 1)[names[5]]
    assert seeds_of(names, 1) != seeds_of(names, 2)
    assert len({tuple(seed.start for seed in seeds) for seeds in seeds_of(names, 1).values()}) > 15


def test_a_seed_holds_its_piece_and_writes_as_json() -> None:
    ids = np.arange(100, 160)
    seeds = sample_seeds("a", mass(content_free(60, 3)), ids, k=3, width=3, scorer="fair", seed=0)
    assert [seed.ids for seed in seeds] == [tuple(ids[seed.start : seed.end].tolist()) for seed in seeds]
    assert json.loads(json.dumps(asdict(seeds[0])))["sample_id"] == "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorer": "attention"}, "none of released, fair"),
        ({"rank": "sum"}, "none of window, token"),
        ({"k": 0}, "at least 1"),
        ({"width": 0}, "at least 1"),
        ({"mass_T": None}, "needs the attention mass"),
        ({"mass_T": np.ones(9)}, "got 9 numbers"),
        ({"ids_T": [], "mass_T": []}, "at least one"),
        ({"ids_T": [PAD] * 10}, "all 10 tokens are special"),
    ],
)
def test_bad_input_is_refused_and_the_sample_named(change: dict[str, Any], message: str) -> None:
    given = {"mass_T": np.ones(10), "ids_T": range(10, 20), "k": 3, "width": 3, "scorer": "fair", "seed": 0}
    with pytest.raises(ValueError, match=f"sample 'x': .*{message}"):
        sample_seeds("x", **{**given, "special_ids": [EOS, PAD], **change})


def test_the_audit_shows_what_the_released_score_chose() -> None:
    samples = [("same", range(10, 70)), ("again", range(10, 70)), ("other", range(80, 140))]
    seeds = [
        seed
        for name, ids in samples
        for seed in sample_seeds(name, mass(uniform(60)), ids, k=3, width=3, scorer="released", seed=0)
    ]
    assert distinct_seeds(seeds) == 6
    assert start_shares(seeds) == pytest.approx({0: 1 / 3, 3: 1 / 3, 6: 1 / 3})


def test_no_seeds_cannot_be_audited() -> None:
    assert distinct_seeds([]) == 0
    with pytest.raises(ValueError, match="no seeds"):
        start_shares([])
