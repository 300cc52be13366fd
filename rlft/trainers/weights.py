"""The trainable weights of a model under training: which they are, their gradients, and how far they have
moved.

Sharded tensors (FSDP2) are gathered, so every process must call these functions, in the same order.
"""

import math
from dataclasses import dataclass

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_MAX_START_VALUES = 2**26  # 256 MiB of fp32: adapters fit whole


def trainable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that ask for a gradient, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def are_readable(weights: dict[str, nn.Parameter]) -> bool:
    """False where values and gradients do not lie in the tensors: DeepSpeed, and FSDP before version 2."""
    kind = AcceleratorState().distributed_type
    if kind == DistributedType.FSDP:
        return any(isinstance(weight, DTensor) for weight in weights.values())
    return kind != DistributedType.DEEPSPEED


def gradient_norm(weight: nn.Parameter) -> float:
    """L2 norm of the gradient; 0 where there is none."""
    if weight.grad is None:
        return 0.0
    return _whole(torch.linalg.vector_norm(weight.grad, dtype=torch.float32)).item()


@dataclass(frozen=True)
class Start:
    """Where one weight stood: every `stride`-th value in fp32 on the CPU, and the norm if values were left out."""

    values: Tensor
    norm: float
    stride: int

    @classmethod
    def of(cls, weight: Tensor, stride: int) -> "Start":
        """Remember `weight` as it is now."""
        whole = _whole(weight).flatten()
        norm = torch.linalg.vector_norm(whole, dtype=torch.float64).item() if stride > 1 else 0.0
        # copy=True: on the CPU, fp32 values would otherwise stay a view of what training changes
        return cls(whole[::stride].to("cpu", torch.float32, copy=True), norm, stride)

    def change(self, weight: Tensor) -> tuple[float, bool]:
        """Squared L2 distance of `weight` from here (an estimate if stride > 1), and whether it moved."""
        now = Start.of(weight, self.stride)
        kept = torch.linalg.vector_norm(now.values - self.values, dtype=torch.float64).item() ** 2
        return kept * weight.numel() / max(1, self.values.numel()), kept > 0 or now.norm != self.norm


def starts_of(weights: dict[str, nn.Parameter], limit: int = _MAX_START_VALUES) -> dict[str, Start]:
    """Where all `weights` stand, by name; of more than `limit` values in all, every n-th is kept."""
    stride = math.ceil(sum(weight.numel() for weight in weights.values()) / limit)
    return {name: Start.of(weight, stride) for name, weight in weights.items()}


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
