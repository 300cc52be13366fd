"""A scorer's folder is checked before its model is loaded: task, tokenizer, weights, what scorer.json says."""

import json
import shutil
import subprocess
import sys

import pytest
from tokenizers.normalizers import Lowercase
from transformers import AutoTokenizer

from rlft.reward_models.folder import ScorerError, fingerprint, read_scorer_folder, trained_kinds, write_scorer_json
from rlft.reward_models.pair_file import KINDS
from rlft.reward_models.scorer import Scorer
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import CONTROLS
from tests.reward_models.toy import BACKBONES, WORDS, decoder, spec


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = decoder()
    model.save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    write_scorer_json(tmp_path / "scorer", spec(), tokenizer, {"loss": "bt"})
    return tmp_path / "scorer"


def change(folder, **fields):
    path = folder / "scorer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_it_reads_what_was_written(folder):
    found = read_scorer_folder(folder, task="toy")
    assert (found.spec, found.trained, found.adapter_base) == (spec(), {"loss": "bt"}, None)
    assert Scorer.load(folder, device="cpu").spec == spec()


def test_another_task_is_refused(folder):
    with pytest.raises(ScorerError, match="for the task 'toy', not for 'LaMP_5'"):
        read_scorer_folder(folder, task="LaMP_5")


def test_another_tokenizer_is_refused(folder):
    other = word_tokenizer([*CONTROLS, *WORDS[::-1]])
    other.save_pretrained(folder)
    with pytest.raises(ScorerError, match="another tokenizer"):
        Scorer.load(folder, device="cpu")


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_fingerprint_survives_saving_and_use(kind, tmp_path):
    _, tokenizer = BACKBONES[kind]()
    before = fingerprint(tokenizer)
    tokenizer(["x", "x y z"], padding=True, truncation=True, max_length=2)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint(tokenizer) == before == fingerprint(AutoTokenizer.from_pretrained(tmp_path))


def test_how_a_tokenizer_reads_is_part_of_its_fingerprint():
    tokenizer = word_tokenizer([*CONTROLS, "Tokens,", "tokens,"])
    before = fingerprint(tokenizer)
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert fingerprint(tokenizer) != before


def test_pickled_weights_are_never_read(folder):
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(ScorerError, match="a pickle, which can run code"):
        read_scorer_folder(folder)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"spec": {"form": "blind"}}, "task"),
        ({"spec": {"form": "odd", "task": "toy"}}, "blind, aware"),
        ({"spec": {"form": "blind", "task": "toy", "more": 1}}, "more"),
        ({"tokenizer": None, "trained": 3}, "not what rlft writes"),
    ],
)
def test_a_malformed_scorer_json_is_refused(folder, fields, said):
    change(folder, **fields)
    with pytest.raises(ScorerError, match=said):
        read_scorer_folder(folder)


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(ScorerError, match="is no folder"):
        read_scorer_folder(tmp_path / "nowhere")
    with pytest.raises(ScorerError, match=r"has no scorer\.json"):
        read_scorer_folder(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ScorerError, match="neither adapter_config.json nor config.json"):
        read_scorer_folder(folder)


def test_an_adapter_whose_base_is_gone_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/base"}')
    (folder / "adapter_model.safetensors").touch()
    with pytest.raises(ScorerError, match="/nowhere/base, and there is no such folder"):
        read_scorer_folder(folder)


def test_pairs_folder_and_plug_in_need_no_torch():
    code = (
        "import sys, rlft.reward_models as room; "
        "[getattr(room, name) for name in ('build_pairs', 'policy_answers', 'personalization', 'read_scorer_folder', "
        "'ScorerSpec', 'audit_scorer', 'split_by_user')]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kinds_that_a_scorer_was_trained_to_tell(tmp_path):
    model, tokenizer = decoder()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    write_scorer_json(tmp_path, spec("aware"), tokenizer, {"negatives": {"none": 3, "swap": 0}})
    assert trained_kinds(tmp_path) == ("none",)
    write_scorer_json(tmp_path, spec("aware"), tokenizer, {})
    assert trained_kinds(tmp_path) == KINDS
