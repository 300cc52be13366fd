"""What must be equal for a run to go on: its configuration, data, starting weights, tokenizer, rewards, processes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rlft.record.stages import AnotherRun, canonical

FREE_TO_CHANGE = frozenset(
    {
        *("output_dir", "run_name", "project", "report_to", "resume_from_checkpoint", "disable_tqdm", "debug"),
        *("logging_dir", "logging_steps", "logging_strategy", "logging_first_step", "log_level", "log_level_replica"),
        *("log_on_each_node", "log_completions", "num_completions_to_print", "log_unique_prompts"),
        *("save_steps", "save_strategy", "save_total_limit", "save_only_model", "save_on_each_node"),
        *("max_steps", "num_train_epochs", "do_train", "do_eval", "do_predict", "reward_timeout", "on_alarm"),
        *("eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size", "load_best_model_at_end"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "dataset_num_proc", "ddp_timeout", "local_rank", "model_init_kwargs"),
        *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push"),
        *("hub_revision", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        *("vllm_server_host", "vllm_server_port", "vllm_server_base_url", "vllm_server_timeout", "vllm_group_port"),
        *("vllm_gpu_memory_utilization", "restore_callback_states_from_checkpoint"),
    }
)
"""Settings that a run may go on with changed. More steps than before change a schedule that depends on their number."""
_SHOWN, _VALUES = 6, 256


def identity_of(trainer: Any, free: Iterable[str] = FREE_TO_CHANGE) -> dict[str, Any]:
    """What a trainer is about to do, before it starts; flat, and equal wherever it is built from the same.

    Args:
        trainer: a transformers `Trainer` with its starting weights.
        free: settings that are left out.
    """
    settings = trainer.args.to_dict()
    adapters = getattr(trainer.model, "peft_config", {})
    found = {name: value for name, value in settings.items() if name not in free}
    found |= {
        "processes": trainer.args.world_size,
        "adapter": {name: _adapter(config) for name, config in adapters.items()},
        "starting weights": weights_sample(trainer.model),
        "training rows": rows_digest(trainer.train_dataset),
        "tokenizer": _digest([_vocabulary(trainer.processing_class)]),
        "rewards": list(getattr(trainer, "reward_func_names", [])),
    }
    return dict(json.loads(canonical(found)))


def refuse_differences(place: str, was: Mapping[str, Any], now: Mapping[str, Any], free: Iterable[str] = ()) -> None:
    """Raise if two identities differ.

    Args:
        place: what is to be gone on with, for the message.
        was, now: identities.
        free: names that may differ after all.

    Raises:
        AnotherRun: naming what differs, what it was and what it is.
    """
    names = sorted({*was, *now} - set(free))
    lines = [
        f"{name} was {_short(was.get(name))}, is {_short(now.get(name))}"
        for name in names
        if was.get(name) != now.get(name)
    ]
    if lines:
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        differences = "; ".join([*lines[:_SHOWN], *more])
        raise AnotherRun(
            f"{place} belongs to a run with other settings, which cannot be gone on with: {differences}. Restore them, "
            "or start afresh in another --output_dir."
        )


def weights_sample(model: nn.Module) -> str:
    """Digest of names, shapes and up to 256 evenly spaced values of every weight; of sharded ones without values."""
    found = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.named_parameters()):
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if not isinstance(weight, DTensor) and weight.numel():
            values = weight.detach().flatten()[:: max(1, weight.numel() // _VALUES)]
            found.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def rows_digest(dataset: Any) -> str:
    """Digest of all rows in order; of a stream, whose rows only come while it is read, a word that says so."""
    if not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return "not known, a stream" if not isinstance(dataset, list) else _digest(dataset)
    found = hashlib.blake2b(f"{len(dataset)}".encode(), digest_size=16)
    for table in dataset.with_format("arrow").iter(1000):
        found.update(canonical(table.to_pylist()).encode())
    return found.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.blake2b(canonical(value).encode(), digest_size=16).hexdigest()


def _adapter(config: Any) -> dict[str, Any]:
    """An adapter's configuration but for what peft fills in by itself."""
    return {name: value for name, value in config.to_dict().items() if name not in ("base_model_name_or_path",)}


def _vocabulary(processor: Any) -> Any:
    tokenizer = getattr(processor, "tokenizer", processor)
    return [tokenizer.get_vocab(), tokenizer.chat_template] if hasattr(tokenizer, "get_vocab") else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
