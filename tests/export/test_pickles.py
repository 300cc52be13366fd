"""No pickle in a run folder, adapter, model, reward model or index is ever run, and the message says what to do.

Every attack file is real: loaded as pickles are, it makes a marker file, which the first test sees.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from rlft.cli import main
from rlft.credit.diagnose.model import _loaded
from rlft.pair import DROPair
from rlft.prepare import model_path
from rlft.retrieval import BM25Retriever, RetrievalError
from rlft.reward_models.scorer import Scorer
from rlft.saved import load_model, saved_model
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer
from rlft.trainers.round_models import RoundModels
from rlft.trainers.trust import check_adapter
from tests.trainers.prlm_runs import write_scorer

Make = Callable[..., Path]
PICKLES = [
    *("adapter_model.bin", "pytorch_model.bin", "model.pt", "training_args.bin"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "tokenizer.pkl"),
]
A_PICKLE = "a pickle, which can run code while it is read"


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the attack ran"


@pytest.fixture
def attack(marker: Path) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save({"weight": Attack(marker)}, path)

    return write


def test_the_attack_is_one(tmp_path: Path, marker: Path, attack: Callable[[Path], None]) -> None:
    attack(tmp_path / "x.bin")
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert marker.is_dir()


def test_pickles_beside_safetensors_are_left_alone(
    as_run: Make, adapter: Make, marker: Path, attack: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_run(adapter())
    for name in PICKLES:
        attack(run / name)
    assert main(["export", str(run), "--device", "cpu"]) == 0
    assert not {path.name for path in (run / "export").rglob("*")} & set(PICKLES)
    assert main(["eval", str(run), "--rows", "2", "--device", "cpu"]) == 0
    assert not marker.exists()


LOADERS: dict[str, Callable[[Path], Any]] = {
    "any": lambda folder: load_model(saved_model(folder)),
    "a recipe's base": lambda folder: model_path(str(folder), 0),
    "the check of what was saved": lambda folder: check_adapter(_model(), folder, torch.tensor([[1, 2]])),
    "rlft diagnose": lambda folder: _loaded(object(), folder),
}


def _model() -> Any:
    return tiny_model(char_tokenizer(), hidden=32, layers=1)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", ["adapter", "model", "shards", "named", "base"])
def test_pickled_weights_are_refused(
    kind: str, loader: str, adapter: Make, base: Path, tmp_path: Path, marker: Path, attack: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(adapter() if kind in ("adapter", "base") else base, tmp_path / "x"))
    pickled = with_pickle(kind, folder, tmp_path, attack)
    with pytest.raises(ValueError, match=A_PICKLE) as refused:
        LOADERS[loader](folder)
    assert pickled in str(refused.value)
    assert "save_pretrained" in str(refused.value)
    assert not marker.exists()


def with_pickle(kind: str, folder: Path, elsewhere: Path, attack: Callable[[Path], None]) -> str:
    """Put an attack where the weights of a folder are looked for; its name."""
    if kind == "base":
        said = json.loads((folder / "adapter_config.json").read_text())
        shutil.copytree(said["base_model_name_or_path"], elsewhere / "b")
        said["base_model_name_or_path"] = str(elsewhere / "b")
        (folder / "adapter_config.json").write_text(json.dumps(said))
        return with_pickle("model", elsewhere / "b", elsewhere, attack)
    if kind == "named":  # transformers reads this one file whatever `use_safetensors` says
        said = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "adapter_model.bin"}
        (folder / "config.json").write_text(json.dumps(said))
        attack(folder / "adapter_model.bin")
        return "adapter_model.bin"
    next(folder.glob("*.safetensors")).unlink()
    name = {"adapter": "adapter_model.bin", "model": "pytorch_model.bin", "shards": "part-1.bin"}[kind]
    if kind == "shards":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    attack(folder / name)
    return name


def test_rounds_and_pairs_refuse_pickled_adapters(
    adapter: Make, base: Path, tmp_path: Path, marker: Path, attack: Callable[[Path], None]
) -> None:
    for role in ("selector", "generator"):
        shutil.copytree(adapter(), tmp_path / role)
        with_pickle("adapter", tmp_path / role, tmp_path, attack)
    (tmp_path / "pair.json").write_text("{}")
    with pytest.raises(ValueError, match=A_PICKLE):
        DROPair.load(tmp_path)
    models = RoundModels(str(base), LoraConfig(), {}, None)
    with pytest.raises(ValueError, match=A_PICKLE):
        models.load(tmp_path / "selector")
    with pytest.raises(ValueError, match=A_PICKLE):
        RoundModels(str(base), None, {}, None).load(tmp_path / "selector")
    assert not marker.exists()


def test_reward_models_refuse_pickles(tmp_path: Path, marker: Path, attack: Callable[[Path], None]) -> None:
    folder = write_scorer(tmp_path / "scorer")
    for name in PICKLES:
        attack(folder / name)
    assert Scorer.load(folder, device="cpu")
    (folder / "model.safetensors").rename(folder / "model-old.safetensors")
    with pytest.raises(ValueError, match=A_PICKLE):
        Scorer.load(folder, device="cpu")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy", "row_starts.npy"]
)
def test_indexes_refuse_pickled_arrays(name: str, tmp_path: Path, marker: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"id": "1", "contents": "red sun"}\n{"id": "2", "contents": "blue moon"}\n')
    BM25Retriever(corpus)
    index = Path(f"{corpus}.bm25")
    path = index / name
    assert path.is_file()
    np.save(path, np.array([Attack(marker)], dtype=object), allow_pickle=True)
    said = json.loads((index / "manifest.json").read_text())
    said["files"][name] = path.stat().st_size
    (index / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(RetrievalError, match=r"cannot be read .* delete the folder"):
        BM25Retriever(corpus)
    path.write_bytes(pickle.dumps(Attack(marker)))  # a pickle that is no array at all
    said["files"][name] = path.stat().st_size
    (index / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(RetrievalError, match="cannot be read"):
        BM25Retriever(corpus)
    assert not marker.exists()
