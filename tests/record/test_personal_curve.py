"""The picture of a PrLM run: drawn with and without shares and an evaluation, refused without a reward."""

from pathlib import Path
from typing import Any

import pytest

from rlft.record.personal_curve import draw_personal

STEPS: list[dict[str, Any]] = [
    {"step": step, "reward": 1.0, "rewards/rouge/mean": step / 9, "rewards/rouge/std": 1.0} for step in range(1, 9)
]
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


def setting(retriever: str, k: int) -> dict[str, Any]:
    return {"retriever": retriever, "k": k, "metrics": {"rouge1": {"before": INTERVAL, "after": INTERVAL}}}


def test_panels(tmp_path: Path) -> None:
    evaluation = [setting("bm25", 2), setting("none", 0), setting("recency", 1)]
    shares = [row | {"prlm/variance_share/rouge": 1.0} for row in STEPS]
    sizes = []
    for name, rows, table in (("all", shares, evaluation), ("none", shares, []), ("only", STEPS, evaluation[1:2])):
        picture = draw_personal(rows, table, tmp_path / f"{name}.png", "t").read_bytes()
        assert picture.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(picture[20:24], "big"))
    assert sizes[0] == sizes[2] > sizes[1]


def test_no_reward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 1 metrics rows"):
        draw_personal([{"step": 1, "loss": 0.1}], [], tmp_path / "x.png")
