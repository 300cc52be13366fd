"""What weighted fine-tuning needs of TRL's `SFTTrainer`: its collator, more columns, a weight for each token's loss."""

from typing import Any

from torch import Tensor
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

SFTCollator = DataCollatorForLanguageModeling


class ColumnsSFTTrainer(SFTTrainer):
    """An `SFTTrainer` that leaves its collator more columns of the dataset than TRL's."""

    model: Any
    _signature_columns: Any
    extra_columns: tuple[str, ...] = ()

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*(self._signature_columns or ()), *self.extra_columns]))


class WeighedModel:
    """What `SFTTrainer.compute_loss` is to call instead of `model`, so that each token's log-probability is weighed.

    Args:
        model: the model, wrapped or not.
        weights_BT: weight of each token as a label; the first of a row is never predicted.
    """

    def __init__(self, model: Any, weights_BT: Tensor):
        self.model, self.weights_BT, self.weighed = model, weights_BT, False

    def __call__(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        if inputs.get("fused_lm_head"):  # the call whose `log_probs` (B, T-1), 0 on ignored labels, make the loss
            outputs.log_probs = outputs.log_probs * self.weights_BT[:, 1:].to(outputs.log_probs)
            self.weighed = True
        return outputs
