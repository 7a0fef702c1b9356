"""Cutting out of a trained network what its wanted features do not depend on, before it is shipped."""

from typing import Any

import torch
from torch import nn

from distill_mtl.networks.backbone import LOGITS, POOLED, Backbone
from distill_mtl.networks.evaluating import evaluating
from distill_mtl.networks.taps import Enough


def cut(backbone: Backbone) -> None:
    """Let a backbone run no further than the last layer that it returns, and drop what never runs.

    It gives the features in `returns` as before, and can never again give another. Where it returns the pooled
    vector, all of it is needed.

    Args:
        backbone: in evaluation mode; changed.
    """
    layers = [name for name in backbone.returns if name not in (POOLED, LOGITS)]
    if len(layers) < len(backbone.returns):
        return
    calls, read = _census(backbone, layers)
    _stop_after(backbone.model, layers, sum(calls[layer] for layer in layers))
    calls, _ = _census(backbone, layers)
    dropped: list[str] = []
    for name, module in list(backbone.model.named_modules()):
        inside = any(name.startswith(f"{parent}.") for parent in dropped)
        if name and not inside and not _used(name, module, calls, read):
            parent, _, child = name.rpartition(".")
            setattr(backbone.model.get_submodule(parent), child, nn.Identity())
            dropped.append(name)


def _census(backbone: Backbone, layers: list[str]) -> tuple[dict[str, int], set[str]]:
    """How often each module runs, and the parameters that the layers depend on, from a pass of a black image."""
    calls: dict[str, int] = {}

    def count(name: str) -> None:
        calls[name] = calls.get(name, 0) + 1

    handles = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: count(name))
        for name, module in backbone.model.named_modules()
    ]
    weights = dict(backbone.model.named_parameters())
    trained = {name: weight.requires_grad for name, weight in weights.items()}
    try:
        with torch.enable_grad(), evaluating(backbone):
            backbone.model.requires_grad_(True)
            features = backbone(torch.zeros(1, 3, *backbone.inputs.size))
            total = torch.stack([features[layer].sum() for layer in layers]).sum()
            gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in weights.items():
            weight.requires_grad_(trained[name])
    found = zip(weights, gradients, strict=True)
    return calls, {name for name, gradient in found if gradient is not None}


def _used(name: str, module: nn.Module, calls: dict[str, int], read: set[str]) -> bool:
    """Whether it, or anything in it, runs or holds a parameter that is read, as some do that never run themselves."""
    runs = any(f"{name}.{inner}".rstrip(".") in calls for inner, _ in module.named_modules())
    return runs or any(f"{name}.{parameter}" in read for parameter, _ in module.named_parameters())


def _stop_after(model: nn.Module, layers: list[str], most: int) -> None:
    """End every pass when the layers have run so many times, all together.

    These hooks run after those of the taps, which were there first.
    """
    done = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal done
        done += 1
        if done == most:
            done = 0
            raise Enough

    for layer in layers:
        model.get_submodule(layer).register_forward_hook(count)
