"""Profiles: their order by date, and one history for a user."""

from pathlib import Path
from typing import Any

import pytest

from rlft.data.lamp import LampRows, read_lamp
from rlft.data.lamp_profiles import Histories, date_key
from rlft.data.prompts import DataError
from tests.data.lamp_samples import Json, item, question, write


def one_row(folder: Path, *args: Any, **options: Any) -> Json:
    (row,) = read_lamp(write(folder, *args, **options), 4, "train").rows
    return row


@pytest.mark.parametrize(
    ("dates", "order"),
    [
        (["2016-02-03", "2016-12-01", "2015-12-31"], [1, 0, 2]),
        (["2016-2-3", "2016-10-1", "2016-9-30"], [1, 2, 0]),
        ([2001, 1999, 2010], [2, 0, 1]),
        (["2016-05-05", "2016-05-05", "2016-05-05"], [2, 1, 0]),
        (["2016", "2016-05", "2015"], [1, 0, 2]),
        ([None, None, None], [0, 1, 2]),
    ],
)
def test_profiles_are_sorted_newest_first(dates: list[Any], order: list[int], tmp_path: Path) -> None:
    profile = [item(str(place), date=date) for place, date in enumerate(dates)]
    row = one_row(tmp_path, [question(profile=profile)])
    assert [past["id"] for past in row["profile"]] == [str(place) for place in order]
    assert [past["date"] for past in row["profile"]] == [dates[place] and str(dates[place]) for place in order]


def test_an_empty_profile_is_kept(tmp_path: Path) -> None:
    assert one_row(tmp_path, [question(profile=[])])["profile"] == []


def two_splits(folder: Path, dev_profile: list[Json]) -> tuple[LampRows, LampRows, Histories]:
    train = [question(name, [item("a", date=2001), item("b", date=2002)], user_id="u") for name in ("p", "q")]
    write(folder, train)
    write(folder, [question("r", dev_profile, user_id="u"), question("s", user_id="v")], split="dev")
    histories: Histories = {}
    read = [read_lamp(folder, 4, split, histories=histories) for split in ("train", "dev")]
    return read[0], read[1], histories


SAME = {"another order": ("b", "a"), "ids of the question": ("r1", "r0")}
"""Ids of the items from 2002 and 2001: LaMP makes an item's id of the question's id and a number."""


@pytest.mark.parametrize("ids", SAME.values(), ids=SAME)
def test_rows_of_a_user_share_one_history(ids: tuple[str, str], tmp_path: Path) -> None:
    past = [item("b", id=ids[0], date=2002), item("a", id=ids[1], date=2001)]
    train, dev, histories = two_splits(tmp_path, past)
    assert histories.keys() == {"u", "v"}
    assert all(row["profile"] is histories["u"] for row in [*train.rows, dev.rows[0]])
    assert [past["id"] for past in dev.rows[0]["profile"]] == ["b", "a"]


@pytest.mark.parametrize(
    "dev_profile",
    [
        [item("a", date=2001)],
        [item("a", date=2001), item("b", date=2002), item("c", date=2003)],
        [item("a", date=2001), item("b", date=2002), item("b", id="c", date=2002)],
        [item("a", date=2001), item("b", date=2003)],
        [item("a", date=2001), item("b", date=2002, text="other")],
    ],
    ids=["fewer", "more", "one twice", "another date", "another text"],
)
def test_a_user_with_two_histories_is_refused(dev_profile: list[Json], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="dev_questions.json, line 1, question 0: user 'u' has . usable items here and another"
    ):
        two_splits(tmp_path, dev_profile)


def test_left_out_items_of_a_shared_history_are_counted_once(tmp_path: Path) -> None:
    past = [item("a"), item("b", text="")]
    folder = write(tmp_path, [question(name, past, user_id="u") for name in "abc"])
    assert read_lamp(folder, 4, "train").rejected == {"item: no text": 1}


def test_date_keys_order_by_time() -> None:
    dates = ["1999", "2016", "2016-2-3", "2016-02-10", "2016-10-01", "2017-01"]
    assert sorted(set(dates), key=date_key) == dates
    assert date_key("2016-03-07") == (2016, 3, 7)


@pytest.mark.parametrize("date", ["", "2016-", "-5", "2016/03/07", "2016-03-07 10:00", "x"])
def test_other_dates_are_refused(date: str) -> None:
    with pytest.raises(ValueError, match="is not of numbers joined by '-'"):
        date_key(date)
