"""Cutting out of a trained network what its wanted features do not depend on, before it is shipped."""

import torch
from torch import Tensor, nn

from distill_mtl.networks.backbone import LOGITS, POOLED, Backbone
from distill_mtl.networks.modes import evaluating


def cut(backbone: Backbone) -> None:
    """Take out of a backbone the modules that no feature in `returns` depends on.

    Each gives way to one that passes its input on, if the network then still runs and gives the very same features;
    else it stays. Those in `returns` are given as before, no other one ever again. Where the pooled vector is
    among them, all of the network is needed.

    Args:
        backbone: changed.
    """
    if POOLED in backbone.returns or LOGITS in backbone.returns:
        return
    noise = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *backbone.inputs.size, generator=noise).to(backbone.preprocess.mean.device)
    wanted, read = _features_and_weights(backbone, images)
    backbone.ends_with_features = True
    backbone.ends_with_features = _gives(backbone, images, wanted)
    model, dropped = backbone.model, list[str]()
    for name, module in list(model.named_modules()):
        weights = [f"{name}.{weight}" for weight, _ in module.named_parameters()]
        inside = any(name.startswith(f"{parent}.") for parent in dropped)
        if not name or inside or not weights or read.intersection(weights):
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
        if _gives(backbone, images, wanted):
            dropped.append(name)
        else:
            setattr(model.get_submodule(parent), child, module)


@torch.enable_grad()
def _features_and_weights(backbone: Backbone, images: Tensor) -> tuple[dict[str, Tensor], set[str]]:
    """The features, and the names of the model's parameters that they depend on."""
    weights = dict(backbone.model.named_parameters())
    trained = {name: weight.requires_grad for name, weight in weights.items()}
    try:
        backbone.model.requires_grad_(True)
        with evaluating(backbone):
            features = backbone(images)
        total = torch.stack([feature.float().sum() for feature in features.values()]).sum()
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(trained[name])
    read = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
    return {name: feature.detach() for name, feature in features.items()}, read


@torch.no_grad()
def _gives(backbone: Backbone, images: Tensor, wanted: dict[str, Tensor]) -> bool:
    try:
        with evaluating(backbone):
            features = backbone(images)
    # Whatever a network raises that lacks a part.
    except Exception:
        return False
    return all(torch.equal(features[name], value) for name, value in wanted.items())
