"""Whether a network computes faster in bf16 on this machine's processor: a rule, since timings differ by the run.

Measured with torch 2.14 on a processor with AVX-512 BF16, forward and backward, 64 or 128 rows (fp32 / bf16): ResNets
1.5 to 1.9, vit_tiny (192 wide) 1.2, a ConvNeXt 0.9, a ViT that is 64 wide 0.6, MobileNetV3 0.4.
"""

import torch
from torch import nn

WIDE = 192
"""Rows and columns of a matrix from which products in bf16 are faster."""


def faster_in_bf16(network: nn.Module) -> bool:
    """Whether this machine's processor gains by bf16 for a network; False for one whose layers cannot be seen."""
    return cpu_has_bf16() and has_dense_layers(network)


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies in bf16; others only imitate it, at a loss."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def has_dense_layers(network: nn.Module) -> bool:
    """Whether a network's time goes to convolutions over all channels, or to products with wide matrices.

    Depthwise convolutions and narrow matrices lose more by the change of type than they gain.
    """
    dense, all_weights = 0, 0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:
                return False
            dense += layer.weight.numel()
            all_weights += layer.weight.numel()
        elif isinstance(layer, nn.Linear):
            dense += layer.weight.numel() if min(layer.weight.shape) >= WIDE else 0
            all_weights += layer.weight.numel()
    return 2 * dense > all_weights
