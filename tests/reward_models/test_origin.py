"""What a reward model comes of: written, read back, compared."""

from pathlib import Path

import pytest

from rlft.reward_models.folder import ScorerError
from rlft.reward_models.origin import MADE, changes, read_origin, write_origin
from rlft.reward_models.spec import ScorerSpec
from tests.reward_models.toy import make_pairs
from tests.trainers.prlm_runs import write_scorer


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    pairs = make_pairs(5)
    write_origin(tmp_path, {"negatives": ["none"], "pair_margin": None}, pairs)
    origin = read_origin(tmp_path)
    assert origin is not None
    assert origin.settings == {"negatives": ["none"], "pair_margin": None}
    assert origin.rows == {(pair.id, pair.user_id) for pair in pairs}
    assert origin.users == {pair.user_id for pair in pairs}
    assert read_origin(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}, "rows": [[1]]}', '{"settings": 1, "rows": []}'])
def test_a_file_that_is_another_s_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / MADE).write_text(text)
    with pytest.raises(ScorerError, match=r"made\.json is not what rlft writes"):
        read_origin(tmp_path)


def test_changes_are_named(tmp_path: Path) -> None:
    folder, spec = write_scorer(tmp_path / "scorer"), ScorerSpec("blind", "toy", max_length=256)
    assert changes(folder, spec, {"scorer_epochs": 3}) == [], "the folder does not tell"
    write_origin(folder, {"scorer_epochs": 2}, [])
    assert changes(folder, spec, {"scorer_epochs": 2}) == []
    other = ScorerSpec("aware", "toy", max_length=256)
    assert changes(folder, other, {"scorer_epochs": 3}) == [
        "form was 'blind', is 'aware'",
        "scorer_epochs was 2, is 3",
    ]
    with pytest.raises(ScorerError, match="is a scorer for the task 'toy'"):
        changes(folder, ScorerSpec("blind", "LaMP_4"), {})
