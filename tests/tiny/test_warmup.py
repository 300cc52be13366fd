"""The warm-up cache: same content, same folder; anything else, another one; torn work never shows."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from rlft.tiny import warmup
from rlft.tiny.addition import demonstrations

SHORT = {**warmup.SCHEDULE, "max_steps": 1, "per_device_train_batch_size": 8}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLFT_CACHE", str(tmp_path / "cache"))


def test_second_call_finds_the_first_s_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = demonstrations(16, seed=0, digits=1)
    first = warmup.warm_up("task", rows, schedule=SHORT)
    assert AutoModelForCausalLM.from_pretrained(first).num_parameters() > 300_000
    monkeypatch.setattr(warmup, "_train", lambda *args: pytest.fail("trained again"))
    assert warmup.warm_up("task", rows, schedule=SHORT) == first


@pytest.mark.parametrize("change", ["rows", "seed", "schedule"])
def test_any_change_gets_its_own_folder(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "_train", lambda rows, folder, seed, schedule: folder.mkdir())
    rows = demonstrations(16, seed=0)
    changed = {
        "rows": (demonstrations(16, seed=1), {}),
        "seed": (rows, {"seed": 1}),
        "schedule": (rows, {"schedule": {**warmup.SCHEDULE, "learning_rate": 1.0}}),
    }[change]
    assert warmup.warm_up("task", rows) != warmup.warm_up("task", changed[0], **changed[1])


def test_an_interrupted_warm_up_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(warmup.trl.SFTTrainer, "train", interrupted)
    rows = demonstrations(16, seed=0, digits=1)
    with pytest.raises(KeyboardInterrupt):
        warmup.warm_up("task", rows, schedule=SHORT)
    assert not [path for path in (warmup.cache_folder() / "tiny").iterdir() if path.is_dir()]
