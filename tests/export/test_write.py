"""Exports: what is written, compared with what was saved; nothing half-written; what is refused."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlft.cli import main
from rlft.export import write
from rlft.export.compare import compare
from rlft.export.write import export_run

Make = Callable[..., Path]


def test_the_merged_weights_are_the_base_plus_the_scaled_product(as_run: Make, adapter: Make, base: Path) -> None:
    run = as_run(adapter())
    adapted, merged = export_run(run)
    assert (adapted.folder, merged.folder) == (run / "export" / "adapter", run / "export" / "merged")
    before, found = load_file(base / "model.safetensors"), load_file(merged.folder / "model.safetensors")
    lora = load_file(adapted.folder / "adapter_model.safetensors")
    for name, weight in before.items():
        place = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{place}A.weight" in lora:
            weight = weight + 8 / 4 * lora[f"{place}B.weight"] @ lora[f"{place}A.weight"]
        torch.testing.assert_close(found[name], weight)
    assert adapted.comparison is not None
    assert merged.comparison is not None
    assert adapted.comparison.largest == 0
    assert 0 < merged.comparison.largest < 1e-4 < (merged.comparison.effect or 0)


def test_an_export_has_all_that_is_needed_and_no_pickle(as_run: Make, adapter: Make) -> None:
    run = as_run(adapter())
    (run / "training_args.bin").write_bytes(b"a pickle")
    for one in export_run(run):
        names = {path.name for path in one.folder.iterdir()}
        assert names >= {"tokenizer.json", "chat_template.jinja", "generation_config.json", "README.md"}
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert (run / "export/adapter/adapter_model.safetensors").read_bytes() == (
        run / "adapter_model.safetensors"
    ).read_bytes()


def test_nothing_is_said_of_names_that_other_libraries_changed(as_run: Make, adapter: Make) -> None:
    run = as_run(adapter())
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert main(["export", str(run), "--form", "adapter", "--device", "cpu"]) == 0


def test_an_export_that_differs_leaves_nothing(
    as_run: Make, adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other, own = as_run(adapter()), adapter(0.2), write._write_adapter

    def damaged(saved: Any, folder: Path, tokenizer: Any) -> None:
        own(saved, folder, tokenizer)
        shutil.copyfile(other / "adapter_model.safetensors", folder / "adapter_model.safetensors")

    monkeypatch.setattr(write, "_write_adapter", damaged)
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match="is not the model that the run saved: log-probs of"):
        export_run(run)
    assert sorted(run.rglob("*")) == before


def test_rounding_that_undoes_the_training_is_refused(as_run: Make, adapter: Make, tmp_path: Path) -> None:
    run = as_run(adapter(1e-4))
    with pytest.raises(ValueError, match=r"rounding to bfloat16 undoes the training .*--dtype"):
        export_run(run, tmp_path / "out", forms=["merged"], dtype="bfloat16")
    assert not (tmp_path / "out").exists()
    assert export_run(run, tmp_path / "out", forms=["merged"])[0].comparison


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_is_that_of_the_files(as_run: Make, adapter: Make, tmp_path: Path, dtype: str) -> None:
    merged = export_run(as_run(adapter()), tmp_path / "out", forms=["merged"], dtype=dtype)[0].folder
    assert {weight.dtype for weight in load_file(merged / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((merged / "config.json").read_text())["dtype"] == dtype


def test_a_whole_model_has_one_form(as_run: Make, base: Path) -> None:
    run = as_run(base)
    with pytest.raises(ValueError, match="holds a whole model, so that its one form is model"):
        export_run(run, forms=["merged"])
    found = export_run(run)
    assert [one.folder for one in found] == [run / "export/model"]
    assert found[0].comparison is not None
    assert (found[0].comparison.largest, found[0].comparison.effect) == (0, None)


def test_a_checkpoint_is_exported_by_its_name(as_run: Make, adapter: Make) -> None:
    run, checkpoint = as_run(adapter()), adapter(0.2)
    shutil.copytree(checkpoint, run / "checkpoint-5")
    found = export_run(run / "checkpoint-5", forms=["adapter"])
    assert found[0].folder == run / "export-checkpoint-5" / "adapter"
    text = (found[0].folder / "README.md").read_text()
    assert "None were measured of this part of the run." in text
    assert "| part of the run | `checkpoint-5` |" in text


def test_both_models_of_a_pair_are_exported(as_run: Make, adapter: Make, base: Path) -> None:
    run = as_run(base, recipe={"selector_model": None})
    (run / "config.json").unlink()
    for role in ("selector", "generator"):
        shutil.copytree(adapter(), run / role)
    (run / "pair.json").write_text("{}")
    found = export_run(run, forms=["adapter"])
    assert [one.folder for one in found] == [run / "export/adapter/selector", run / "export/adapter/generator"]
    assert (run / "export/adapter/pair.json").read_text() == "{}"
    assert "# DRO selector on" in (found[0].folder / "README.md").read_text()


def test_a_reward_model_goes_along_without_its_users(as_run: Make, adapter: Make) -> None:
    run = as_run(adapter(), recipe={"scorer_form": "blind"})
    (run / "scorer").mkdir()
    for name in ("model.safetensors", "scorer.json", "made.json", "held_out.jsonl", "training_args.bin"):
        (run / "scorer" / name).write_text("{}")
    export_run(run, forms=["adapter"])
    kept = {path.name for path in (run / "export/scorer").iterdir()}
    assert kept == {"model.safetensors", "scorer.json"}


REFUSED = {
    "a destination with something in it": ({}, ["--form", "adapter"], "is there already; name another DEST"),
    "a merge into four bits": ({"model": {"load_in_4bit": True}}, ["--form", "merged"], "base in 4 bits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_said_in_a_line(
    as_run: Make, adapter: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    changes, flags, message = REFUSED[case]
    run = as_run(adapter(), **changes)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("")
    place = "there" if "destination" in case else "new"
    assert main(["export", str(run), str(tmp_path / place), *flags]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()].count("new") == 0


def test_a_quantised_run_gives_its_adapter_unloaded(as_run: Make, adapter: Make) -> None:
    found = export_run(as_run(adapter(), model={"load_in_8bit": True}))
    assert [(one.form, one.comparison) for one in found] == [("adapter", None)]
    assert "not loaded: the base is quantised" in (found[0].folder / "README.md").read_text()


def test_folders_that_are_no_run(as_run: Make, adapter: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nor the folders it lies in hold config\.yaml"):
        export_run(adapter())
    run = as_run(adapter())
    (run / "adapter_config.json").unlink()
    shutil.copytree(adapter(), run / "checkpoint-2")
    with pytest.raises(ValueError, match=r"These do: .*checkpoint-2; name one"):
        export_run(run)


def test_numbers_that_are_none_are_no_match() -> None:
    one = torch.tensor([-1.0, -2.0])
    with pytest.raises(ValueError, match="is not the model that the run saved"):
        compare(one, one * torch.nan, None, torch.float32, "there")
