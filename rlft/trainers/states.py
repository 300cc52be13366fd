"""Which forward the hidden states of a generation batch come from: the cheapest that gives those of the policy.

    scoring    TRL's own scoring forward of the policy before the update. Free, but TRL makes it only if the policy may
               have moved since it sampled, or if another engine sampled.
    loss       the forward of the loss. Free, but only if the whole generation batch is one micro-batch: weights compare
               the rollouts of a group, and TRL deals rollouts out to micro-batches at random.
    generate   the decoding steps of transformers' `generate` (rlft/credit/decoding.py). One more step for last tokens.
    forward    one forward of ours in evaluation mode, of the rows whose states are needed.

The first three run in training mode, so with dropout only the last gives the policy's states. They agree up to
rounding. Shapes: B rows of this process, N rows of all, R rows whose states are needed, T completion tokens, H hidden.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from rlft import compat
from rlft.credit.batch import split_rows
from rlft.credit.decoding import DecodedStates
from rlft.credit.hidden import HiddenTap, drops_out


class PolicyStates:
    """States of one generation batch after another.

    Args:
        trainer: the trainer, built.
        position: `post_norm` or `pre_norm`.
        source: one of the names above, or `auto`.
    """

    def __init__(self, trainer: Any, position: str, source: str):
        self.trainer, self.args, self.source = trainer, trainer.args, source
        self.tap = HiddenTap(trainer.accelerator.unwrap_model(trainer.model), position)
        self.sharded = trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        self.came_from: str | None = None
        """Where the states of the last batch came from."""
        self._armed = self._exact = False
        self._tapped: Tensor | None = None
        self._decoded: DecodedStates | None = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Open around the sampling and scoring of a generation batch.

        Raises:
            ValueError: if a source in training mode was asked for and the model is random there.
        """
        training = self.trainer.model.training
        self._tapped = self._decoded = None
        self._exact = training and self.source != "forward" and not drops_out(self.tap.backbone)
        if training and not self._exact and self.source not in ("auto", "forward"):
            raise ValueError(
                f"states={self.source!r} taps a forward in training mode, where this model drops out at random; set "
                "all dropout to 0, or use --states auto."
            )
        self._armed = self._exact and self.source in ("auto", "scoring") and trl_scores(self.args)
        try:
            yield
        finally:
            self._armed = False

    @contextmanager
    def scoring(self, completion_length: int) -> Iterator[None]:
        """Open around a scoring forward. Collects once if armed: a later one may be the reference policy's."""
        if not self._armed:
            yield
            return
        self._armed = False
        with self.tap.capture(completion_length) as chunks:
            yield
        self._tapped = torch.cat(chunks) if chunks else None

    @contextmanager
    def sampling(self) -> Iterator[Callable[[list[list[int]]], None]]:
        """Open around the sampling of completions; it yields a function to be called with them."""
        wanted = self._exact and self.source in ("auto", "generate")
        if not wanted or self.sharded or not decodes_here(self.args) or self._comes_for_free():
            yield lambda completions: None
            return
        self._decoded = decoded = DecodedStates(self.tap)
        with decoded.capture():
            yield self._finish

    def of(self, rollouts: compat.Rollouts, mask_BT: Tensor, wanted_N: Tensor) -> dict[int, Tensor] | None:
        """States (T_i, H) of the wanted rows of this process, by row; None if they will come with the loss.

        Args:
            rollouts: the generation batch.
            mask_BT: bool, true on model tokens.
            wanted_N: bool, rows of all processes whose states are needed.

        A batch that did not come from the source that was asked for (a tool added tokens, say) takes `forward`.
        """
        rows = self._rows(wanted_N)
        tapped, self._tapped = self._tapped, None
        decoded, self._decoded = self._decoded, None
        if not wanted_N.any():
            return {}
        if tapped is not None and "old_per_token_logps" in rollouts:
            return self._taken("scoring", tapped[rows], mask_BT, rows)
        if self._exact and self.source in ("auto", "loss") and holds_batch(self.args):
            self._armed = True  # the next scoring forward is the loss's
            return None
        states_RTH = decoded.of(rollouts["completion_ids"], mask_BT, rows) if decoded is not None else None
        if states_RTH is not None:
            return self._taken("generate", states_RTH, mask_BT, rows)
        return self._taken("forward", self._forward(rollouts, wanted_N), mask_BT, rows)

    def of_loss(self, order_B: Tensor, mask_BT: Tensor, wanted_N: Tensor) -> dict[int, Tensor]:
        """States (T_i, H) of the wanted rows, by row, from the forward of the loss.

        Args:
            order_B: which row of the generation batch each row of the micro-batch is.
            mask_BT: bool, true on model tokens, of the generation batch.
            wanted_N: as for `of`.

        Raises:
            RuntimeError: if the loss asks for advantages before it has run the model.
        """
        tapped, self._tapped = self._tapped, None
        if tapped is None:
            raise RuntimeError("TRL's loss read its advantages before it ran the policy; use --states forward.")
        rows = self._rows(wanted_N)
        return self._taken("loss", tapped[order_B.argsort()[rows]], mask_BT, rows)

    def _rows(self, wanted_N: Tensor) -> Tensor:
        accelerator = self.trainer.accelerator
        return wanted_N.view(accelerator.num_processes, -1)[accelerator.process_index].nonzero().flatten()

    def _taken(self, source: str, states_RTH: Tensor, mask_BT: Tensor, rows: Tensor) -> dict[int, Tensor]:
        self.came_from = source
        mask_RT = mask_BT[rows.to(mask_BT.device)]
        return dict(zip(rows.tolist(), split_rows(states_RTH[mask_RT], mask_RT), strict=True))

    def _comes_for_free(self) -> bool:
        return self.source == "auto" and (trl_scores(self.args) or holds_batch(self.args))

    def _finish(self, completions: list[list[int]]) -> None:
        assert self._decoded is not None
        backbone = self.tap.backbone
        was_training = backbone.training
        backbone.eval()  # gradient checkpointing, which acts in training mode, takes the cache away
        try:
            with self.trainer.accelerator.autocast():
                self._decoded.finish(completions)
        finally:
            backbone.train(was_training)

    def _forward(self, rollouts: compat.Rollouts, wanted_N: Tensor) -> Tensor:
        """(R, T, H) from a forward without gradients, in TRL's micro-batches and padding.

        Sharded weights are gathered in every forward, so there every process makes as many as the one with most rows.
        """
        trainer, size = self.trainer, self.args.per_device_train_batch_size
        rows = self._rows(wanted_N)
        most = int(wanted_N.view(trainer.accelerator.num_processes, -1).sum(1).max())
        ids_BS, mask_BS = compat.prompt_and_completion(rollouts)
        chunks = list(rows.split(size)) if len(rows) else []
        if self.sharded:
            chunks += [torch.zeros(1, dtype=torch.long)] * (-(-most // size) - len(chunks))
        model = trainer.model_wrapped if self.sharded else trainer.model
        was_training = model.training
        model.eval()
        try:
            with (
                torch.no_grad(),
                trainer.accelerator.autocast(),
                self.tap.capture(rollouts["completion_ids"].size(1)) as states,
            ):
                for chunk in chunks:
                    model(input_ids=ids_BS[chunk], attention_mask=mask_BS[chunk], logits_to_keep=1, use_cache=False)
        finally:
            model.train(was_training)
        width = states[0].size(2) if states else 0
        none = ids_BS.new_empty(0, rollouts["completion_ids"].size(1), width)
        return torch.cat(states)[: len(rows)] if states else none


def trl_scores(args: Any) -> bool:
    """Whether TRL makes a scoring forward of the policy, as it decides itself."""
    stale = args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) != 0
    return stale or bool(args.use_vllm and args.vllm_importance_sampling_correction)


def holds_batch(args: Any) -> bool:
    """Whether a generation batch is one micro-batch, and is trained on once."""
    return bool(args.steps_per_generation == 1 and args.num_iterations == 1)


def decodes_here(args: Any) -> bool:
    """Whether the policy itself samples, with transformers' `generate`."""
    return not (args.use_vllm or args.use_transformers_continuous_batching)


def refuse_states(args: Any) -> None:
    """Refuse a source of states that this run's batches do not have.

    Args:
        args: a `SHEARConfig`, filled in by TRL.

    Raises:
        ValueError: with the rule and the knob.
    """
    had = {"scoring": trl_scores(args), "loss": holds_batch(args), "generate": decodes_here(args)}
    rules = {
        "scoring": "TRL scores the policy only with num_iterations > 1, steps_per_generation above "
        "gradient_accumulation_steps, or vLLM with its importance correction",
        "loss": "the loss sees whole groups only with steps_per_generation=1 and num_iterations=1",
        "generate": "only transformers' own generate gives states, neither vLLM nor continuous batching",
    }
    if not had.get(args.states, True):
        raise ValueError(f"states={args.states!r}: {rules[args.states]}. Change that, or use --states auto.")
