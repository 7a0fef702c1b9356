"""Several trained networks of one architecture as one: a start for a network that is trained further, without labels.

Channels are matched by their activations in the same rows; then every layer is fitted in closed form, so that on what
the merged network itself feeds it, it gives the mean of the matched networks' outputs (what Multi-Task Zipping's merge
minimises, He et al. 2018, and RegMean's formula, Jin et al. 2023). Statistics of BatchNorm are those of the rows.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from distill_mtl.networks.channel_graph import ChannelGraph, Layer

Order = dict[int, Tensor]
"""Space of channels -> for each channel of the merged network the one of this network that it stands for."""

RIDGE = 1e-3
PLACES = 12_000
_WINDOWS = 2**26


def matched_orders(
    channels: ChannelGraph, models: Sequence[nn.Module], pixels: Sequence[Tensor]
) -> list[Order]:
    """For every network the order in which its channels are most like the first one's, by correlation over the rows.

    Args:
        channels: of the architecture.
        models: in evaluation mode.
        pixels: for each network the same rows as it sees them, [R, 3, H, W].
    """
    from scipy.optimize import linear_sum_assignment  # most commands do without its import

    found: list[dict[int, Tensor]] = [{} for _ in models]

    def note(node: fx.Node, values: list[Tensor]) -> None:
        space = channels.spaces.get(node)
        if space is None or channels.ends[space] is not node or space == channels.pixels:
            return
        flat = [_standard(_sampled(value)) for value in values[: len(models)]]
        for own, other in zip(found, flat, strict=True):
            correlation = (flat[0].T @ other).cpu().numpy()
            own[space] = torch.as_tensor(linear_sum_assignment(-correlation)[1])

    _run_together(channels, models, pixels, note)
    return found


def reordered(channels: ChannelGraph, model: nn.Module, order: Order) -> nn.Module:
    """The same network with its channels in another order."""
    other = copy.deepcopy(model)
    for layer in channels.layers:
        conv: Any = other.get_submodule(layer.conv)
        conv.weight.data = conv.weight.data[order[layer.out]]
        if layer.into in order and conv.groups == 1:
            conv.weight.data = conv.weight.data[:, order[layer.into]]
        if conv.bias is not None:
            conv.bias.data = conv.bias.data[order[layer.out]]
        if layer.norm is not None:
            norm: Any = other.get_submodule(layer.norm)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).data = getattr(norm, name).data[order[layer.out]]
    return other


@torch.no_grad()
def merged(
    channels: ChannelGraph,
    models: Sequence[nn.Module],
    pixels: Sequence[Tensor],
    given: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """One network that gives, layer by layer, the mean of what these give.

    Args:
        channels: of the architecture.
        models: with matched channels, in evaluation mode.
        pixels: the rows as the merged network sees them, then as each of these does.
        given: weights of its first layers, which stay as they are.
    """
    given = given or {}
    target = copy.deepcopy(models[0])
    target.load_state_dict(given, strict=False)
    layers = {layer.node: layer for layer in channels.layers if f"{layer.conv}.weight" not in given}

    def fit(node: fx.Node, values: list[Tensor]) -> None:
        if node in layers:
            layer = layers[node]
            outputs = [
                _normalised(model, layer, value) for model, value in zip(models, values[1:-1], strict=True)
            ]
            values[0] = _fitted(target, layer, values[-1], torch.stack(outputs).mean(0))

    _run_together(channels, [target, *models], pixels, fit)
    return target


@torch.no_grad()
def _run_together(
    channels: ChannelGraph,
    models: Sequence[nn.Module],
    pixels: Sequence[Tensor],
    at: Callable[[fx.Node, list[Tensor]], None],
) -> None:
    """Run several networks of one graph in step; `at` sees each node's values, behind them what the first one's layer
    reads, and may replace the first value."""
    values: list[dict[fx.Node, Any]] = [{} for _ in models]
    last_use: dict[fx.Node, fx.Node] = {}
    for node in channels.graph.nodes:
        for read in node.all_input_nodes:
            last_use[read] = node
    for node in channels.graph.nodes:
        if node.op == "output":
            return
        for model, seen, image in zip(models, values, pixels, strict=True):
            seen[node] = _value(node, model, seen, image)
        given = [seen[node] for seen in values]
        reads = node.all_input_nodes
        at(node, both := [*given, *([values[0][reads[0]]] if reads else [])])
        values[0][node] = both[0]
        for done in reads:
            if last_use[done] is node:
                for seen in values:
                    seen.pop(done, None)


def _value(node: fx.Node, model: nn.Module, seen: Mapping[fx.Node, Any], pixels: Tensor) -> Any:
    if node.op == "placeholder":
        return pixels
    args: Any = fx.node.map_arg(node.args, seen.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, seen.__getitem__)
    target: Any = node.target
    if node.op == "call_module":
        # Out of place: the value of a node may be read again.
        return model.get_submodule(str(node.target))(*(arg.clone() for arg in args), **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return target(*(arg.clone() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)


def _normalised(model: nn.Module, layer: Layer, output: Tensor) -> Tensor:
    """What the layer's normalisation makes of the convolution's output, before any activation."""
    if layer.norm is None:
        return output
    norm: Any = model.get_submodule(layer.norm)
    return F.batch_norm(
        output, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )


def _fitted(model: nn.Module, layer: Layer, inputs: Tensor, wanted: Tensor) -> Tensor:
    """Fit one layer of the merged network by least squares; gives its convolution's new output."""
    conv: Any = model.get_submodule(layer.conv)
    windows, targets = _windows(conv, inputs, wanted)
    weights, intercept = _least_squares(windows, targets, conv)
    conv.weight.copy_(weights.reshape(conv.weight.shape))
    if layer.norm is None:
        if conv.bias is not None:
            conv.bias.copy_(intercept)
        return conv(inputs)
    if conv.bias is not None:
        conv.bias.zero_()
    output: Tensor = conv(inputs)
    norm: Any = model.get_submodule(layer.norm)
    mean, variance = output.mean((0, 2, 3)), output.var((0, 2, 3), correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(intercept + mean)
    return output


def _windows(conv: nn.Conv2d, inputs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Some places' windows float64 [N, C, k] (C 1 where all channels are read) and targets [N, C']."""
    padding: Any = conv.padding
    kernel = conv.kernel_size[0] * conv.kernel_size[1]
    count = wanted.shape[2] * wanted.shape[3]
    generator = torch.Generator().manual_seed(0)
    each = min(count, max(1, -(-PLACES // len(inputs))))
    parts, targets = [], []
    rows = max(1, _WINDOWS // (inputs.shape[1] * kernel * count))
    for part, wants in zip(inputs.split(rows), wanted.split(rows), strict=True):
        places = torch.randperm(count, generator=generator)[:each].to(part.device)
        unfolded = F.unfold(part, conv.kernel_size, conv.dilation, padding, conv.stride)[:, :, places]
        flat = unfolded.transpose(1, 2).flatten(0, 1)
        parts.append(flat.unflatten(1, (conv.groups, -1)))
        targets.append(wants.flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).double(), torch.cat(targets).double()


def _least_squares(windows: Tensor, targets: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weights [C', ...] and intercept [C'] of targets from windows, with a small ridge."""
    groups = windows.shape[1]
    inputs = torch.cat([windows, torch.ones_like(windows[:, :, :1])], 2).transpose(0, 1)
    wanted = targets.unflatten(1, (groups, -1)).transpose(0, 1)
    products = inputs.transpose(1, 2) @ inputs / len(windows)
    size = products.diagonal(dim1=1, dim2=2).mean(1)
    ridge = (
        RIDGE
        * size[:, None, None]
        * torch.eye(products.shape[1], dtype=products.dtype, device=products.device)
    )
    solved = torch.linalg.solve(products + ridge, inputs.transpose(1, 2) @ wanted / len(windows))
    weights = solved[:, :-1].transpose(1, 2).flatten(0, 1)
    return weights.to(conv.weight.dtype), solved[:, -1].flatten().to(conv.weight.dtype)


def _sampled(features: Tensor, each: int = 16) -> Tensor:
    flat = features.flatten(2)
    places = torch.linspace(0, flat.shape[2] - 1, min(each, flat.shape[2]), device=flat.device).round().long()
    return flat[:, :, places].transpose(1, 2).flatten(0, 1)


def _standard(values: Tensor) -> Tensor:
    centred = values.double() - values.double().mean(0)
    return centred / (centred.norm(dim=0) + 1e-9)
