"""Counting floating point operations, the same on every version of torch."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill_mtl.networks.modes import evaluating

_ATTENTION_KERNELS = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)


@contextmanager
def flop_counter() -> Iterator[FlopCounterMode]:
    """Torch's counter with our own count of attention: which of its kernels the counter knows depends on the version.

    The fused layers of nn.MultiheadAttention and nn.TransformerEncoder, which no version counts, are left out of use
    meanwhile, so that their parts are counted.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(
            display=False, custom_mapping=dict.fromkeys(_kernels(), _attention_flops)
        ) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def flops_of(network: nn.Module, images: Tensor) -> int:
    """Floating point operations of one forward pass in evaluation mode."""
    with torch.no_grad(), evaluating(network), flop_counter() as counter:
        network(images)
    return int(counter.get_total_flops())


def _kernels() -> list[Any]:
    """What `scaled_dot_product_attention` becomes on any device, of those that this version of torch has."""
    aten = torch.ops.aten
    return [getattr(aten, name) for name in _ATTENTION_KERNELS if hasattr(aten, name)]


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, **options: Any
) -> int:
    """Of shapes [B, H, N, D]: query x key, and the weights x value. A mask does not make it less."""
    *batch, length, width = query
    return 2 * math.prod(batch) * length * key[-2] * (width + value[-1])
