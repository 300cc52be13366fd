"""Dense retrieval with a tiny encoder made here, against numpy's inner products."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rlft.retrieval.dense import DenseRetriever
from rlft.retrieval.passage import RetrievalError
from tests.retrieval.conftest import WORDS, some_rows

pytest.importorskip("faiss")
sentence_transformers = pytest.importorskip("sentence_transformers")

QUERIES = ["lantern", "amber bridge canal", "", "kiln kiln", "lantern"]


def write_encoder(folder: Path, seed: int) -> str:
    """A BERT of random weights over words, as a sentence-transformers folder."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "query", "passage", ":", "no", "."]
    (folder / "bert").mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    modules = [transformer, Pooling(16, pooling_mode="mean")]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    return str(folder / "encoder")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_encoder(tmp_path_factory.mktemp("encoder"), seed=0)


def test_scores_and_order_are_numpy_s(encoder: str, corpus_file: Path) -> None:
    prefixes = {"query_prefix": "query: ", "passage_prefix": "passage: "}
    on_disk = DenseRetriever(corpus_file, encoder, device="cpu", **prefixes)
    in_memory = DenseRetriever.over(some_rows(), encoder, device="cpu", batch_size=7, **prefixes)
    model = sentence_transformers.SentenceTransformer(encoder, device="cpu")
    passages = list(on_disk._corpus.passages)

    def unit(texts: list[str]) -> np.ndarray:
        raw = model.encode(texts)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    scores_QN = unit([f"query: {q}" for q in QUERIES]) @ unit([f"passage: {p.contents}" for p in passages]).T
    for retriever in (on_disk, in_memory):
        for query, scores_N, found in zip(QUERIES, scores_QN, retriever.search(QUERIES, 9), strict=True):
            if not query:
                assert found == []
                continue
            best = np.sort(scores_N)[::-1][:9]
            assert [p.score for p in found] == pytest.approx(best.tolist(), abs=1e-5)
            assert [p.score for p in found] == pytest.approx([scores_N[int(p.id[1:])] for p in found], abs=1e-5)
            assert found == sorted(found, key=lambda p: (-p.score, int(p.id[1:])))
    assert [len(found) for found in on_disk.search(QUERIES, 1000)] == [60, 60, 0, 60, 60]


def test_index_is_kept_mapped_and_checked(encoder: str, corpus_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    first = DenseRetriever(corpus_file, encoder, device="cpu")
    stamp = Path(f"{corpus_file}.dense/embeddings.npy").stat().st_mtime_ns
    second = DenseRetriever(corpus_file, encoder, device="cpu", query_prefix="query: ")
    assert Path(f"{corpus_file}.dense/embeddings.npy").stat().st_mtime_ns == stamp
    assert not second._embeddings_NH.flags.owndata
    assert first.name != second.name
    third = DenseRetriever(corpus_file, encoder, device="cpu", passage_prefix="passage: ")
    assert "its passage_prefix is , not passage: " in caplog.text
    assert third.search(["amber"], 1) != first.search(["amber"], 1)


def test_other_weights_under_the_same_name_are_noticed(tmp_path: Path, corpus_file: Path) -> None:
    folder = write_encoder(tmp_path / "a", seed=0)
    DenseRetriever(corpus_file, folder, device="cpu")
    other = write_encoder(tmp_path / "b", seed=1)
    Path(folder).rename(tmp_path / "gone")
    Path(other).rename(folder)
    with pytest.raises(RetrievalError, match="made by another encoder"):
        DenseRetriever(corpus_file, folder, device="cpu")


def test_threads_find_what_one_finds(encoder: str) -> None:
    retriever = DenseRetriever.over(some_rows(), encoder, device="cpu")
    queries = [f"{word} canal" for word in WORDS]
    expected = [[p.id for p in retriever.search([query], 3)[0]] for query in queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda query: [p.id for p in retriever.search([query], 3)[0]], queries))
    assert together == expected
