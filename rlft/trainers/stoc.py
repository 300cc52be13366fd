"""STOC: learn new text without losing the old, by replay that the model writes itself before it learns.

Paper: "Towards Understanding Continual Factual Knowledge Acquisition of Language Models: From Theory to Algorithm",
arXiv 2605.10640. `train` does

    c_j = sum_i Abar_ij                       attention that token j receives             rlft.replay.attention
    seeds = the K best windows of w tokens    by c_j / (j + 1), as released, or others    rlft.replay.scores, .seeds
    replay = m continuations by theta_0       temperature 1                               rlft.replay.generation
    filtered, mixed with the new text         alpha of the tokens are new                 rlft.replay.filters, .mixing
    next-token loss on the stream of both     TRL's own                                   rlft.stream

Rivals in the same trainer: no replay, rows of the old data (`replay="real"`), the start token alone as a seed
(`scorer="bos"`, as LAMOL), EWC and L2 (`anchor`), frozen lower layers, LoRA (`peft_config`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from rlft.em.options import option
from rlft.evaluate.facts import fact_recall, generated_recall
from rlft.health.options import HealthOptions
from rlft.replay.anchor import Anchor, fisher_diagonal
from rlft.resume.identity import FREE_TO_CHANGE
from rlft.resume.randomness import random_states_kept
from rlft.resume.termination import says_on_termination
from rlft.resume.trainer import Resumable
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.stream import Stream
from rlft.trainers.health import HealthCallback
from rlft.trainers.samplers import Samplers
from rlft.trainers.stoc_figures import ReplayCallback
from rlft.trainers.stoc_options import STOCOptions
from rlft.trainers.stoc_probes import ProbeCallback
from rlft.trainers.stoc_replay import FREE_TO_CHANGE as free_in_replay
from rlft.trainers.stoc_replay import Replay, digest_of
from rlft.trainers.stoc_samples import Sample, samples_of

ProbeRows = Sequence[Mapping[str, Any]]


@dataclass
class STOCConfig(STOCOptions, HealthOptions, SFTConfig):
    """`SFTConfig` with STOC's options. `max_length` is the length of a block of the stream.

    Raises:
        ValueError: for options that cannot work, before any model is loaded.
    """

    max_length: int | None = option(512, "Tokens of a block; samples are joined to a stream and cut into blocks.")
    train_sampling_strategy: str = option("sequential", "The stream has its own order, another in every pass.")
    probe_steps: int = option(0, "Steps between looks at the probe sets; 0: before and after training only.")

    def __post_init__(self) -> None:
        self.check_stoc()
        self.check_health_options()
        if self.max_length is None or self.max_length < 2:
            raise ValueError(f"max_length={self.max_length} is the length of a block and must be at least 2.")
        if self.probe_steps < 0:
            raise ValueError(f"probe_steps={self.probe_steps} counts steps; 0 looks before and after training only.")
        if self.train_sampling_strategy != "sequential" or self.packing:
            raise ValueError("the stream of samples is packed and ordered already: leave packing and the order alone.")
        if self.anchor != "none" and (self.fp16 or self.fsdp or self.deepspeed):
            raise ValueError(
                f"anchor={self.anchor!r} adds to gradients that fp16 scales and FSDP and DeepSpeed cut into pieces; "
                "train in bf16 or fp32 with one process or DDP, or without an anchor."
            )
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        self.remove_unused_columns = False  # the stream computes its columns when a block is read
        super().__post_init__()


class STOCTrainer(Resumable, SFTTrainer):
    """`trl.SFTTrainer` on a stream of new samples and replay, which `train` makes first.

    Args:
        model: the model that knows the old data: folder, Hub id, or loaded.
        args: a `STOCConfig`.
        train_dataset: the new data, rows of `rlft.trainers.stoc_samples`.
        old_dataset: the old data, in the same form: for `replay="real"` and `anchor="ewc"`.
        probes: rows `{prompt, answer}` by name, such as `old` and `new`; recall on all of them is logged before, during
            and after training as `probe/<name>/<metric>`.
        processing_class: the tokenizer; None loads the model's.
        **kwargs: everything else `SFTTrainer` takes, but datasets for evaluation and collators.

    Raises:
        ValueError: for data that is missing or has no samples, and for layers to freeze that the model does not have.
    """

    args: Any  # a STOCConfig
    model: Any
    free_to_change = FREE_TO_CHANGE | free_in_replay

    def __init__(
        self,
        model: Any,
        args: STOCConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        old_dataset: Iterable[Mapping[str, Any]] = (),
        probes: Mapping[str, ProbeRows] | None = None,
        processing_class: Any = None,
        **kwargs: Any,
    ):
        self.name = model if isinstance(model, str) else str(model.config.name_or_path)
        settings: Any = args.model_init_kwargs or {}
        tokenizer = processing_class or AutoTokenizer.from_pretrained(self.name, **settings)
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {self.name!r} has no end token, which closes samples; give it one.")
        new = samples_of(train_dataset, tokenizer, "train_dataset")
        old = list(old_dataset)
        needs_old = [name for name, value in (("replay", "real"), ("anchor", "ewc")) if getattr(args, name) == value]
        if needs_old and not old:
            raise ValueError(f"{needs_old[0]}={getattr(args, needs_old[0])!r} needs the old data: pass old_dataset.")
        self.replay = Replay(args, tokenizer, new, samples_of(old, tokenizer, "old_dataset") if old else [])
        self.probes = dict(probes or {})
        self.anchor: Anchor | None = None
        super().__init__(
            model,
            args=args,
            train_dataset=Dataset.from_list([{"input_ids": sample["ids"], "labels": sample["ids"]} for sample in new]),
            processing_class=tokenizer,
            **kwargs,
        )
        freeze(self.model, args.freeze_layers)
        self.add_callback(HealthCallback(on_alarm=args.on_alarm))
        self.add_callback(ReplayCallback(self))
        if self.probes:
            self.add_callback(ProbeCallback(self, args.probe_steps))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Make the replay, then train on the stream; both go on where a killed run stopped.

        Raises:
            rlft.record.stages.AnotherRun: if the folder holds replay of other settings, data or weights.
            SystemExit: with code 143 after SIGTERM.
            ValueError: if there is too little replay for alpha and `short` is `error`.
        """
        kept = f"the replay that is written is in {self.replay.folder}"
        with says_on_termination(kept), random_states_kept():
            samples = self._mixed()
        self._samples = digest_of(samples)
        stream = Stream(
            samples,
            end_id=self.replay.tokenizer.eos_token_id,
            length=self.args.max_length,
            seed=self.args.seed,
            learn_after_end=self.args.learn_after_end,
        )
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if self.args.max_steps < 1:
            self.args.max_steps = max(1, stream.blocks(self.args.num_train_epochs / self.args.replay_breadth) // batch)
        self.train_dataset = stream.dataset(self.args.max_steps * batch)
        self.anchor = self._anchor()
        if self.anchor:
            self.anchor.attach(self.args.gradient_accumulation_steps)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self.anchor:
                self.anchor.detach()

    def identity(self) -> dict[str, Any]:
        """As of every trainer; its rows are those that the stream is cut from."""
        return super().identity() | {"training rows": self._samples}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Every log of a loss tells the anchor's penalty, which acts on gradients and is not part of that loss."""
        if self.anchor and "loss" in logs:
            logs = logs | {"anchor_penalty": self.anchor.penalty()}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Recall on every probe set: `probe/<name>/<metric>`, each the mean over all its rows."""
        return {
            f"probe/{name}/{metric}": found.value
            for name, rows in self.probes.items()
            for metric, found in self.recall(rows).items()
        }

    def recall(self, rows: ProbeRows, *, generated: bool = False) -> dict[str, Any]:
        """Recall of facts by the model as it is, prompts after the end token as in the stream.

        Args:
            rows: `{prompt, answer}`.
            generated: also let the model write, for `em`.

        Returns:
            What `rlft.evaluate.facts.fact_recall` measures, and `em` of `generated_recall`.
        """
        tokenizer: Any = self.processing_class
        model, size = self.accelerator.unwrap_model(self.model), self.args.per_device_eval_batch_size
        starts = self.replay.starts or [tokenizer.eos_token_id]
        found = fact_recall(model, tokenizer, rows, start_ids=starts, batch_size=size)
        if generated:
            policy = TransformersPolicy(model, {tokenizer.eos_token_id}, tokenizer.eos_token_id, size)
            found["em"] = generated_recall(policy, tokenizer, rows, start_ids=starts)
        return found

    def _mixed(self) -> list[Sample]:
        folder, sampler = Path(self.args.output_dir), self._sampler()
        if self.args.replay == "self":
            sampler.start(folder, lambda _: self.model)
        try:
            return self.replay.make(self.model, self.name, lambda: sampler.policy(folder, lambda _: self.model))
        finally:
            sampler.forget()

    def _sampler(self) -> Samplers:
        """Samples theta_0."""
        tokenizer: Any = self.processing_class
        stops = frozenset([tokenizer.eos_token_id] if self.args.stop_at_end else [])
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        how = SimpleNamespace(
            sampler=self.args.sampler,
            sampler_batch_size=self.args.sampler_batch_size,
            sampler_keep_tokens=0,
            sampler_memory=self.args.sampler_memory,
            max_tokens=self.args.replay_max_length + max(1, len(self.replay.starts)),
        )
        return Samplers(how, tokenizer, stops, pad)

    def _anchor(self) -> Anchor | None:
        if self.args.anchor == "none":
            return None
        importance = None
        if self.args.anchor == "ewc":
            old = Stream(
                self.replay.old,
                end_id=self.replay.tokenizer.eos_token_id,
                length=self.args.max_length,
                seed=self.args.seed,
            )
            blocks = min(self.args.fisher_blocks, old.blocks(1))
            importance = fisher_diagonal(self.model, (old.block(n)[0] for n in range(blocks)), self.args.seed)
        return Anchor(self.model, self.args.anchor_strength, importance)


def freeze(model: Any, layers: int) -> None:
    """Freeze the embeddings and the lowest layers.

    Args:
        model: a causal language model, bare or with an adapter, whose own weights are frozen anyway.
        layers: how many; 0 freezes nothing. Tied output embeddings are frozen with the input's.

    Raises:
        ValueError: if the model has not more layers than that.
    """
    if not layers:
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    wanted = base.config.get_text_config().num_hidden_layers
    stacks = [part for part in base.modules() if isinstance(part, nn.ModuleList) and len(part) == wanted]
    if layers >= wanted or not stacks:
        raise ValueError(f"freeze_layers={layers} of {wanted} layers leaves nothing to learn; lower it.")
    tables = [part for part in base.modules() if isinstance(part, nn.Embedding)]
    for part in [*tables, *stacks[0][:layers]]:
        part.requires_grad_(False)
