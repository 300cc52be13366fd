"""The seam contract: what rlft relies on in TRL's private methods. A new TRL version is admitted once this passes."""

import inspect

import pytest
import trl

from rlft import compat


def test_seams_are_where_they_were() -> None:
    compat.check_seams()


def test_a_moved_seam_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(self: object, batch: object) -> None: ...

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_and_score_completions", changed)
    with pytest.raises(ImportError, match="_generate_and_score_completions lacks inputs"):
        compat.check_seams()
    monkeypatch.delattr(trl.GRPOTrainer, "_compute_loss")
    monkeypatch.setattr(compat, "_SEAMS", {"_compute_loss": ("model",)})
    with pytest.raises(ImportError, match="_compute_loss is gone"):
        compat.check_seams()


def test_the_loss_accepts_advantages_per_token() -> None:
    """The one promise that carries the project stands in TRL's own comment."""
    source = inspect.getsource(trl.GRPOTrainer._compute_loss)
    assert "advantages.dim() == 1" in source
    assert "(B, T)" in source


def test_only_the_seams_are_overridden() -> None:
    private = {name for name in vars(compat.AnnotatingGRPOTrainer) if name.startswith("_") and "__" not in name}
    overridden = {name for name in private if hasattr(trl.GRPOTrainer, name)}
    assert overridden == compat._SEAMS.keys()


def test_image_prompts_are_not_scored_without_their_images() -> None:
    with pytest.raises(ValueError, match="--num_iterations 2"):
        compat.prompt_and_completion({"pixel_values": object()})
