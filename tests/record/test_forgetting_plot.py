"""The picture of old against new recall: labels beside their marks, a panel for the model before training."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from rlft.record import forgetting_plot
from rlft.record.forgetting_plot import draw_forgetting


def run(old: float, new: float, half: float = 0.02) -> dict[str, dict[str, float]]:
    return {
        which: {"value": value, "low": value - half, "high": value + half}
        for which, value in (("old", old), ("new", new))
    }


RUNS = {"before": run(0.96, 0.06), "none": run(0.39, 0.95), "real": run(0.9, 0.93), "self": run(0.8, 0.9)}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []
    save = Figure.savefig

    def kept(self: Figure, *args: Any, **kwargs: Any) -> None:
        found.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", kept)
    return found


def test_every_run_has_a_mark_and_a_name(figures: list[Figure], tmp_path: Path) -> None:
    path = draw_forgetting(RUNS, tmp_path / "x.png", "t", recall="exact recall")
    assert path.read_bytes().startswith(b"\x89PNG")
    near, far = figures[0].axes
    assert [text.get_text() for text in near.texts] == ["none", "real", "self"]
    assert [text.get_text() for text in far.texts] == ["before"]
    assert (len(near.containers), len(far.containers)) == (3, 4)
    assert near.get_ylim()[0] > 0.5, "the model before training does not squeeze the others"
    assert near.get_xlabel() == "exact recall of old facts"
    marks = {tuple(bar[0].get_xydata()[0]) for bar in near.containers}
    assert marks == {(run["old"]["value"], run["new"]["value"]) for name, run in RUNS.items() if name != "before"}


def test_names_of_equal_marks_do_not_cover_one_another(figures: list[Figure], tmp_path: Path) -> None:
    draw_forgetting({f"run {number}": run(0.5, 0.5) for number in range(6)}, tmp_path / "x.png")
    (axis,) = figures[0].axes
    boxes = [super(type(text), text).get_window_extent() for text in axis.texts]
    shared = [forgetting_plot._common(one, other) for n, one in enumerate(boxes) for other in boxes[:n]]
    assert len(shared) == 15
    assert max(shared) == 0


def test_one_run_and_no_run(figures: list[Figure], tmp_path: Path) -> None:
    draw_forgetting({"before": run(0.5, 0.5)}, tmp_path / "x.png")
    assert len(figures[0].axes) == 1
    with pytest.raises(ValueError, match="no run"):
        draw_forgetting({}, tmp_path / "y.png")
