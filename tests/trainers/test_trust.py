"""Trust checks: a healthy run passes, and each way to learn nothing is named."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer

from rlft.trainers import weights as weights_module
from rlft.trainers.trust import TrustCallback, TrustError, check_adapter
from rlft.trainers.weights import starts_of

VOCAB = ["<pad>", "<eos>", "<unk>", *"0123456789+-*/=abcdefghijklmn"]
IDS_BT = torch.arange(3, 27).view(3, 8)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen3 with a character tokenizer, on disk."""
    path = tmp_path_factory.mktemp("base")
    characters = Tokenizer(models.WordLevel({text: i for i, text in enumerate(VOCAB)}, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(VOCAB),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


def lora(base: Path, dtype: torch.dtype = torch.float32) -> PeftModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


def variety(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(set(text))) for text in completions]


def indifferent(completions: list[str], **kwargs: Any) -> list[float]:
    return [1.0] * len(completions)


def grpo(
    model: PeftModel, folder: Path, reward: Any = variety, optimizers: Any = (None, None), **options: Any
) -> GRPOTrainer:
    base: Any = model.get_base_model()
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "seed": 0,
    }
    return GRPOTrainer(
        model,
        reward_funcs=reward,
        args=GRPOConfig(output_dir=str(folder), **settings | options),
        train_dataset=Dataset.from_dict({"prompt": ["1+2=", "3*4=", "ab", "7-5="] * 4}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(base.name_or_path),
        callbacks=[TrustCallback()],
        optimizers=optimizers,
    )


def report_of(trainer: GRPOTrainer) -> dict[str, float]:
    (callback,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, TrustCallback)]
    return callback.report


@pytest.mark.parametrize(
    "options", [{}, {"bf16": True, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0}], ids=["fp32", "autocast"]
)
def test_a_healthy_run_passes_and_its_adapter_reloads(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    model = lora(base)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer = grpo(model, tmp_path, **options)
    trainer.train()
    trainer.save_model(str(tmp_path))
    report = report_of(trainer)
    moved = sum((p.detach() - before[n]).square().sum().item() for n, p in model.named_parameters() if n in before)
    assert report["delta_norm"] == pytest.approx(math.sqrt(moved), rel=1e-4)
    assert report["trainable_parameters"] == sum(p.numel() for p in before.values())
    assert report["checked_matrices"] == 2 * 7
    modes = [module.training for module in model.modules()]
    assert check_adapter(model, tmp_path, IDS_BT) <= 1e-5
    assert [module.training for module in model.modules()] == modes
    assert all(modes)


def test_a_lora_matrix_cut_off_the_graph_is_named(base: Path, tmp_path: Path) -> None:
    model = lora(base)
    dead = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.default"
    model.get_submodule(dead).register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(TrustError, match=r"1 of 14 LoRA B matrices .*use_reentrant") as error:
        grpo(model, tmp_path).train()
    assert f"{dead}.weight" in str(error.value)


def test_an_optimiser_that_misses_a_weight_is_refused(base: Path, tmp_path: Path) -> None:
    model = lora(base)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    partial = torch.optim.AdamW(parameters[:-1])
    with pytest.raises(TrustError, match="1 of 28 trainable tensors") as error:
        grpo(model, tmp_path, optimizers=(partial, None)).train()
    assert names[-1] in str(error.value)


def test_a_learning_rate_of_zero_is_unchanged(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"unchanged after 2 steps .*--learning_rate 0"):
        grpo(lora(base), tmp_path, learning_rate=0.0).train()


def test_equal_rewards_throughout_are_no_gradient(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"no gradient in 2 steps.*--num_generations"):
        grpo(lora(base), tmp_path, reward=indifferent).train()


def test_a_step_of_equal_rewards_postpones_the_check(base: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def waking(completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(1)
        return (indifferent if len(calls) == 1 else variety)(completions)

    trainer = grpo(lora(base), tmp_path, reward=waking)
    trainer.train()
    assert report_of(trainer)["checked_matrices"] == 14


@pytest.fixture
def saved(base: Path, tmp_path: Path) -> tuple[PeftModel, Path]:
    """A model whose adapter does something, and that adapter on disk."""
    model = lora(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    model.save_pretrained(str(tmp_path / "adapter"))
    PreTrainedTokenizerFast.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    return model, tmp_path / "adapter"


def overwrite(folder: Path, factor: float) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor * factor for name, tensor in load_file(path).items()}, path, {"format": "pt"})


@pytest.mark.parametrize("factor", [0.0, 1.01, math.nan])
def test_another_adapter_on_disk_is_found(saved: tuple[PeftModel, Path], factor: float) -> None:
    model, folder = saved
    assert check_adapter(model, folder, IDS_BT) == 0.0
    overwrite(folder, factor)
    with pytest.raises(TrustError, match=r"differs from the one in memory.*save_model"):
        check_adapter(model, folder, IDS_BT)


def test_an_adapter_of_zeros_does_nothing(saved: tuple[PeftModel, Path]) -> None:
    model, folder = saved
    overwrite(folder, 0.0)
    with pytest.raises(TrustError, match=r"does nothing.*largest LoRA B value: 0\)"):
        check_adapter(PeftModel.from_pretrained(model.unload(), str(folder)), folder, IDS_BT)


def test_half_precision_hides_a_small_adapter_with_a_warning(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = lora(base, torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1e-12)
    model.save_pretrained(str(tmp_path))
    PreTrainedTokenizerFast.from_pretrained(base).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "rlft"):
        assert check_adapter(model, tmp_path, IDS_BT) == 0.0
    assert "does nothing" in caplog.text


def test_a_full_model_reloads_too(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    assert check_adapter(model, base, IDS_BT) == 0.0
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)
    with pytest.raises(TrustError, match="differs"):
        check_adapter(model, base, IDS_BT)


class Pair(nn.Module):
    """One LoRA pair, and one inside an expert, with gradients set by hand."""

    def __init__(self, kept: float, expert: float) -> None:
        super().__init__()
        self.lora_B = nn.Linear(2, 2, bias=False)
        self.experts = nn.ModuleDict({"lora_B": nn.Linear(2, 2, bias=False)})
        self.lora_A = nn.Linear(2, 2, bias=False)
        for part, gradient in ((self.lora_B, kept), (self.experts["lora_B"], expert), (self.lora_A, 1.0)):
            part.weight.grad = torch.full((2, 2), gradient)


def pre_step(model: nn.Module, tmp_path: Path, fp16: bool = False) -> TrustCallback:
    """`TrustCallback` taken to the first optimiser step of a trainer that holds `model`."""
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    args.fp16 = fp16
    Accelerator(cpu=True)  # the trainer's, which callbacks rely on
    callback, state, control = TrustCallback(), TrainerState(), TrainerControl()
    callback.on_train_begin(args, state, control, model=model, optimizer=torch.optim.SGD(model.parameters(), 1.0))
    callback.on_pre_optimizer_step(args, state, control, model=model)
    return callback


def test_an_expert_without_tokens_may_have_no_gradient(tmp_path: Path) -> None:
    model = nn.ModuleDict({"layer": Pair(kept=1.0, expert=0.0)})
    assert pre_step(model, tmp_path).report["checked_matrices"] == 2
    with pytest.raises(TrustError, match=r"1 of 2 LoRA B .*layer\.lora_B\.weight\. Either"):
        pre_step(nn.ModuleDict({"layer": Pair(kept=0.0, expert=1.0)}), tmp_path)


def test_a_gradient_that_is_not_finite_is_an_error_except_to_a_loss_scaler(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="1 of 3 gradients are not finite at step 0: lora_B.weight"):
        pre_step(Pair(kept=math.inf, expert=1.0), tmp_path)
    assert "checked_matrices" not in pre_step(Pair(kept=math.inf, expert=1.0), tmp_path, fp16=True).report


def test_a_frozen_model_is_refused(tmp_path: Path) -> None:
    model = Pair(kept=1.0, expert=1.0).requires_grad_(False)
    with pytest.raises(TrustError, match="0 trainable parameters"):
        pre_step(model, tmp_path)


def test_a_resumed_run_without_steps_left_is_no_error(tmp_path: Path) -> None:
    callback = pre_step(Pair(kept=0.0, expert=0.0).apply(_without_gradient), tmp_path)
    callback.on_train_end(
        TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True), TrainerState(), TrainerControl()
    )
    assert "delta_norm" not in callback.report


def _without_gradient(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None


def test_deepspeed_skips_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    monkeypatch.setattr(weights_module, "AcceleratorState", lambda: state)
    with caplog.at_level(logging.WARNING, "rlft"):
        callback = pre_step(Pair(kept=0.0, expert=1.0), tmp_path)
    assert "skipped" in caplog.text
    assert callback.report == {"trainable_parameters": 12}


def test_start_values_of_a_large_model_are_thinned_out_but_every_change_is_seen() -> None:
    weight = nn.Parameter(torch.zeros(100, 100))
    exact, thin = starts_of({"w": weight})["w"], starts_of({"w": weight}, limit=500)["w"]
    assert thin.values.numel() == 500
    assert exact.change(weight) == thin.change(weight) == (0.0, False)
    with torch.no_grad():
        weight[0, 1] = 1e-3  # not among the kept values
    assert exact.change(weight) == (pytest.approx(1e-6), True)
    assert thin.change(weight) == (0.0, True)
    with torch.no_grad():
        weight.copy_(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)))
    assert exact.change(weight)[0] == pytest.approx(weight.square().sum().item())
    assert thin.change(weight)[0] == pytest.approx(weight.square().sum().item(), rel=0.2)
