"""Pairs that the policy builds: what each answer is made with, and that whatever is dropped is counted."""

import pytest

from rlft.reward_models.pairs import Ask, PairOptions, build_pairs
from tests.reward_models.toy import item


class FirstItems:
    """Chooses a profile's first items."""

    def choose(self, rows, k):
        return [row["profile"][:k] for row in rows]


def row(name, user, *texts, gold="gold"):
    return {
        "id": name,
        "user_id": user,
        "query": f"q {name}",
        "profile": [item(text) for text in texts],
        "gold": gold,
    }


ROWS = [row("r1", "u1", "a1", "a2"), row("r2", "u2", "b1", "b2"), row("r3", "u1", "a1", "a2")]


def shown(asks: list[Ask]) -> list[str]:
    """A policy that answers with the row and the items it sees."""
    return [f"{ask.row['id']}: {' '.join(one['text'] for one in ask.items) or 'nothing'}" for ask in asks]


def built(rows=ROWS, sample=shown, **options):
    return build_pairs(rows, sample, FirstItems(), PairOptions(**options))


def test_the_papers_form_pairs_an_answer_with_the_profile_and_one_without():
    result = built(k=2)
    assert [(pair.chosen, pair.rejected, pair.kinds) for pair in result.pairs] == [
        ("r1: a1 a2", ["r1: nothing"], ["none"]),
        ("r2: b1 b2", ["r2: nothing"], ["none"]),
        ("r3: a1 a2", ["r3: nothing"], ["none"]),
    ]
    assert [pair.profile for pair in result.pairs] == [one["profile"] for one in ROWS]
    assert (result.counts["rows"], result.counts["pairs"], result.counts["negatives"]) == (3, 3, 3)


@pytest.mark.parametrize("seed", range(5))
def test_swap_shows_another_users_profile_for_the_same_query(seed):
    pairs = built(k=1, negatives=("none", "swap"), seed=seed).pairs
    assert [pair.rejected for pair in pairs] == [
        ["r1: nothing", "r1: b1"],
        ["r2: nothing", "r2: a1"],
        ["r3: nothing", "r3: b1"],
    ]


def test_without_user_ids_a_shared_text_means_the_same_user():
    rows = [{**one, "user_id": None} for one in ROWS]
    assert [pair.rejected for pair in built(rows, k=1, negatives=("swap",)).pairs] == [
        ["r1: b1"],
        ["r2: a1"],
        ["r3: b1"],
    ]


@pytest.mark.parametrize(("share", "foreign"), [(0.3, 1), (0.5, 1), (0.51, 2), (1.0, 2)])
def test_corrupt_replaces_a_share_of_the_items(share, foreign):
    (first, *_) = built(k=2, negatives=("corrupt",), corrupt_share=share).pairs
    assert len(first.rejected[0].split()) == 3
    assert first.rejected[0].count("b") == foreign


def test_kinds_may_repeat_and_every_draw_has_a_name_of_its_own():
    seen = []

    def sample(asks):
        seen.extend((ask.row["id"], ask.name) for ask in asks)
        return [f"{ask.row['id']} {ask.name}" for ask in asks]

    (pair, *_) = built(sample=sample, negatives=("none", "swap", "none")).pairs
    assert pair.kinds == ["none", "swap", "none"]
    assert len(set(seen)) == len(seen) == 12


def test_order_of_rows_does_not_change_the_papers_pairs():
    forward, backward = built().pairs, built(ROWS[::-1]).pairs
    assert forward == backward[::-1]


def test_excluded_rows_and_the_limit_are_counted():
    result = built(exclude_ids=frozenset({"r1"}), limit=1)
    assert [pair.id for pair in result.pairs] == ["r2"]
    assert (result.counts["excluded"], result.counts["beyond_limit"]) == (1, 1)


def test_empty_answers_and_profiles_are_dropped_and_counted():
    def sample(asks):
        blank = {("r1", "own"): None, ("r2", "none 0"): "  "}
        return [blank.get((ask.row["id"], ask.name), ask.name) for ask in asks]

    result = built([*ROWS, row("r4", "u4")], sample)
    assert [pair.id for pair in result.pairs] == ["r3"]
    names = ("empty_answer", "negative_empty", "no_negative_left", "empty_profile")
    assert [result.counts[name] for name in names] == [1, 1, 1, 1]
    assert result.counts["rows"] == result.counts["pairs"] + sum(
        result.counts[name] for name in ("empty_answer", "no_negative_left", "empty_profile")
    )


def test_identical_answers_are_dropped_and_counted_and_the_other_negatives_stay():
    def sample(asks):
        return ["same " if ask.name in ("own", "none 0") else "another" for ask in asks]

    result = built(sample=sample, negatives=("none", "swap"))
    assert [pair.kinds for pair in result.pairs] == [["swap"]] * 3
    assert result.counts["negative_identical"] == 3
    both = built(
        k=2, sample=lambda asks: ["own" if ask.name == "own" else "bland" for ask in asks], negatives=("none", "swap")
    )
    assert [pair.rejected for pair in both.pairs] == [["bland", "bland"]] * 3, "another kind says another thing by it"
    assert built(sample=sample).counts["no_negative_left"] == 3


@pytest.mark.parametrize(("margin", "kept"), [(0.0, 1), (0.5, 1), (0.6, 0)])
def test_the_quality_filter_keeps_what_is_worse_by_the_margin(margin, kept):
    def metric(answer, gold):
        return {"own": 1.0, "none 0": 0.5, "swap 1": 1.1}[answer]

    def sample(asks):
        return [ask.name for ask in asks]

    rows = [*ROWS[:2], row("r5", "u5", "c1", gold=None)]
    result = built(rows, sample, negatives=("none", "swap"), metric=metric, margin=margin)
    assert [pair.kinds for pair in result.pairs] == [["none"], ["none"]] * kept
    assert result.counts["no_gold"] == 1
    assert result.counts["negative_not_worse"] == (2 if kept else 4)


def test_length_matching_drops_what_is_too_much_longer_or_shorter():
    said = {"own": "a b c d", "none 0": "a b c", "swap 1": "a b c d e f"}

    def sample(asks):
        return [said[ask.name] for ask in asks]

    result = built(sample=sample, negatives=("none", "swap"), max_length_ratio=1.4)
    assert [pair.kinds for pair in result.pairs] == [["none"]] * 3
    assert result.counts["negative_length"] == 3


def test_swap_needs_a_second_user():
    with pytest.raises(ValueError, match="none of the 2 rows is another user's"):
        built([ROWS[0], ROWS[2]], negatives=("swap",))


def test_repeated_ids_and_missing_answers_are_refused():
    with pytest.raises(ValueError, match="'r1'"):
        built([ROWS[0], ROWS[0]])
    with pytest.raises(ValueError, match="1 answers to 6 asks"):
        built(sample=lambda asks: ["one"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k=0"),
        ({"negatives": ()}, "negatives"),
        ({"negatives": ("other",)}, "none, swap, corrupt"),
        ({"margin": -1.0}, "margin"),
        ({"max_length_ratio": 0.5}, "max_length_ratio"),
        ({"corrupt_share": 0.0}, "corrupt_share"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        PairOptions(**options)


def test_an_answer_is_rejected_once():
    """Greedy answers without a profile are the same every time."""
    result = built(k=2, negatives=("none", "none"))
    assert [pair.rejected for pair in result.pairs] == [[f"{one['id']}: nothing"] for one in ROWS]
    assert result.counts["negative_identical"] == 3
    both = built(
        k=2, sample=lambda asks: ["own" if ask.name == "own" else "bland" for ask in asks], negatives=("none", "swap")
    )
    assert [pair.rejected for pair in both.pairs] == [["bland", "bland"]] * 3, "another kind says another thing by it"


def test_users_without_ids_are_known_by_their_whole_profile():
    rows = [{**one, "user_id": None, "profile": one["profile"][::-1]} for one in (*ROWS, row("r4", None, "b1", "c"))]
    users = [pair.user_id for pair in built(rows, k=1).pairs]
    assert users[0] == users[2]
    assert len(set(users)) == 3
