"""What the teachers see in the same rows at each depth of the student: the data of every measure of likeness."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.data import Sources
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.networks.features import FeatureShape, Layout
from distill_mtl.networks.task_network import BackboneNetwork
from distill_mtl.teachers.teacher import Teacher

GRID = 4
"""Rows are compared by features that are pooled to at most so many places a side."""
PLACES = 16
"""Places of a map whose features are compared with each other."""


def rows_of(sources: Sources, count: int) -> Tensor:
    """Training pictures of every source without their labels, float [R, 3, H, W] in [0, 1], the same in every run."""
    share = -(-count // len(sources.names))
    parts = []
    for name in sources.names:
        batches = sources.pictures(name, "train", 64, limit=share)
        parts.append(torch.cat([batch.to("cpu").images for batch in batches]))
    return torch.cat(parts)


def row_batches(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """The rows in batches that fit into memory beside all teachers' features."""
    height, width = images.shape[2:]
    for part in images.split(max(1, min(64, 2**20 // (height * width)))):
        yield part.to(device)


class Answered(NamedTuple):
    """What a teacher computes of a batch.

    Attributes:
        logits: its answers.
        maps: its features at each depth [B, C, h, w], on the student's grid.
        stages: name of a stage of the teacher -> what it gives.
    """

    logits: Tensor
    maps: list[Tensor]
    stages: Mapping[str, Any]


@dataclass
class TeacherLayers:
    """A teacher and its layers at the student's depths.

    Args:
        teacher: one that gives its stages.
        layers: for each depth.
        shapes: of the student's features at each depth.
    """

    teacher: Teacher
    layers: Sequence[str]
    shapes: Sequence[FeatureShape]

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """For the block `answered` and `answers_with` can be called."""
        hints = self.teacher.card.layers
        with self.teacher.network.tapping(list(dict.fromkeys([*hints, *self.layers]))):
            yield

    @torch.no_grad()
    def answered(self, images: Tensor) -> Answered:
        """Its logits, the features of each depth, and what its stages give."""
        backbone = self._network.backbone
        stages: dict[str, Any] = {}
        with ExitStack() as hooks:
            for name in backbone.layers_of_stages:

                def keep(module: nn.Module, inputs: object, output: Any, name: str = name) -> None:
                    stages[name] = output

                handle = backbone.model.get_submodule(name).register_forward_hook(keep)
                hooks.callback(handle.remove)
            found = self.teacher.raw(images)
        maps = [
            on_grid(found[layer].float(), shape)
            for layer, shape in zip(self.layers, self.shapes, strict=True)
        ]
        return Answered(self.teacher.card.labels(found[LOGITS]), maps, stages)

    def sensitivity(self, images: Tensor, depth: int, answered: Answered) -> Tensor:
        """float64 [C, C]: how far its answers move with its features at a depth, by direction.

        The mean over places of g gT, where g is the gradient of a random sum of a row's logits.
        """
        features = answered.maps[depth].detach().requires_grad_()
        with torch.enable_grad():
            answers = self.answers_with(images, depth, features, answered)
            signs = torch.randn(answers.shape, generator=torch.Generator().manual_seed(depth))
            total = (answers * signs.to(answers.device)).sum()
        (gradient,) = torch.autograd.grad(total, features)
        flat = gradient.movedim(1, -1).flatten(0, 2).cpu().double()
        return flat.T @ flat / len(flat)

    def answers_with(self, images: Tensor, depth: int, features: Tensor, answered: Answered) -> Tensor:
        """Its logits where what it computed at a depth is replaced by `features`, on the student's grid.

        The stages up to there give what they gave, without being computed again.

        Args:
            images: the batch.
            depth: of the student.
            features: [B, C, h, w].
            answered: what it computed of the batch.
        """
        network, layer = self._network, self.layers[depth]
        backbone = network.backbone
        layout: Layout = backbone.layout_of(layer)
        raw = answered.stages[layer]
        if raw.ndim == 2:
            given = layout.put(raw, features.mean((2, 3)).to(raw.device))
        else:
            height, width = layout(raw).shape[2:]
            given = layout.put(raw, _resized(features.to(raw.device), (height, width)))
        stages = backbone.layers_of_stages
        before = stages[: stages.index(layer)]
        outputs = {**{name: answered.stages[name] for name in before}, layer: given}
        with _giving(backbone.model, outputs):
            return self.teacher.card.labels(network.read(network.run(images))[LOGITS])

    @property
    def _network(self) -> BackboneNetwork:
        assert isinstance(self.teacher.network, BackboneNetwork)
        return self.teacher.network


@contextmanager
def _giving(model: nn.Module, outputs: Mapping[str, Any]) -> Iterator[None]:
    """For the block these modules of the model give what they are told to, without computing it."""
    modules = [model.get_submodule(name) for name in outputs]
    own = [vars(module).get("forward") for module in modules]
    for module, output in zip(modules, outputs.values(), strict=True):
        module.forward = lambda *inputs, output=output, **named: output
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def on_grid(features: Tensor, shape: FeatureShape) -> Tensor:
    """Features [B, C, h, w] or [B, C] as a map on the grid of a student's feature; one place for a vector."""
    maps = features if features.ndim == 4 else features[:, :, None, None]
    return _resized(maps, shape.size or (1, 1))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    if maps.shape[2] >= size[0] and maps.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="bilinear")


@dataclass
class Seen:
    """The features of one network at each depth.

    Attributes:
        pooled: for each depth [R, C * places]: what rows are compared by.
        places: for each depth [N, C]: single places of single rows, the same ones for every network.
    """

    pooled: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)

    @staticmethod
    def pool(maps: Tensor) -> Tensor:
        """Features [R, C, h, w] as `pooled` has them."""
        return F.adaptive_avg_pool2d(maps, min(GRID, *maps.shape[2:])).flatten(1).cpu()


def look(teachers: Mapping[str, TeacherLayers], images: Tensor, device: torch.device) -> dict[str, Seen]:
    """The features of every teacher in these rows, by one pass of each.

    Args:
        teachers: by name, on the device.
        images: float [R, 3, H, W] in [0, 1].
        device: where the teachers are.
    """
    pooled: dict[str, list[list[Tensor]]] = {name: [] for name in teachers}
    places: dict[str, list[list[Tensor]]] = {name: [] for name in teachers}
    with ExitStack() as stack:
        for layers in teachers.values():
            stack.enter_context(layers.tapped())
        for batch in row_batches(images, device):
            for name, layers in teachers.items():
                maps = layers.answered(batch).maps
                pooled[name].append([Seen.pool(each) for each in maps])
                places[name].append([_places(each) for each in maps])
    return {
        name: Seen(*([torch.cat(parts) for parts in zip(*of[name], strict=True)] for of in (pooled, places)))
        for name in teachers
    }


def _places(maps: Tensor) -> Tensor:
    """[B * PLACES, C]: spread over the map, the same for all maps of one size."""
    flat = maps.flatten(2).transpose(1, 2)
    count = flat.shape[1]
    chosen = torch.linspace(0, count - 1, min(PLACES, count)).round().long()
    return flat[:, chosen.to(flat.device)].flatten(0, 1).cpu()
