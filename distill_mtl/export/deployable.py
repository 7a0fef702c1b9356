"""The student as one graph: an image tensor in, named tensors out. What every format with a graph records.

What the trunk holds and no head reads is removed first. The note in the file (`file_note`) says what the file is.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill_mtl import __version__
from distill_mtl.errors import ExportError
from distill_mtl.geometry.views import Size
from distill_mtl.networks.backbone import LOGITS, POOLED, Backbone
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.modes import evaluating
from distill_mtl.students.student import Student

Pixels = Literal["normalised", "float", "uint8"]
"""What the graph takes: pixels as the trunk wants them, or pictures of any size, in [0, 1] or as bytes."""

INPUT = "images"


class Deployable(nn.Module):
    """Images -> the logits of every task under its name and, on request, its decoded answers as `TASK.ANSWER`.

    Args:
        student: its trunk gives only what the heads read.
        pixels: what it takes.
        decode: with the answers of each task's kind (`TaskKind.decode`), maps at the height and width of the
            images that come in.
        batch: the only number of rows that it takes; None: any.
        view: the only height and width of the pictures that it takes; None: any. Without preprocessing it is the
            trunk's size in any case.

    Raises:
        ExportError: a student of this form cannot be such a graph.
    """

    def __init__(
        self,
        student: Student,
        pixels: Pixels,
        *,
        decode: bool,
        batch: int | None = None,
        view: Size | None = None,
    ) -> None:
        super().__init__()
        if pixels != "normalised" and not student.trunk.inputs.whole_view:
            raise ExportError(
                "--preprocess: the trunk's input is cropped or padded, which is not exported. Leave out --preprocess; "
                "the note in the file says what to do with the pictures."
            )
        self.trunk, self.heads = student.trunk, student.heads
        self.kinds, self.pixels, self.decode = student.kinds, pixels, decode
        self.batch, self.view = batch, student.trunk.inputs.size if pixels == "normalised" else view
        if pixels != "normalised" and view is not None:
            self.trunk.preprocess.only_views_of(view)

    @property
    def inputs(self) -> InputContract:
        """What the graph takes, for the note; `size` is the only one, else the one that costs no resize."""
        inside = replace(
            self.trunk.inputs,
            batch=self.batch,
            size=self.view if self.view is not None else self.trunk.inputs.size,
        )
        if self.pixels == "normalised":
            return inside
        bytes_ = self.pixels == "uint8"
        return replace(
            inside,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            white=255.0 if bytes_ else 1.0,
            dtype="uint8" if bytes_ else "float32",
            channels="rgb",
            layout="nchw",
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Tensors by output name.

        Args:
            images: "normalised": as `Preprocess` of the trunk's contract gives them; "float": [B, 3, H, W] in [0, 1];
                "uint8": [B, 3, H, W] from 0 to 255.
        """
        nhwc = self.pixels == "normalised" and self.trunk.inputs.layout == "nhwc"
        size = (images.shape[1], images.shape[2]) if nhwc else (images.shape[2], images.shape[3])
        features = self.trunk.read(self._seen(images))
        answers: dict[str, Tensor] = {}
        for task, head in self.heads.items():
            answers[task] = head(self.trunk.of(task, features))
            if self.decode:
                decoded = self.kinds[task].decode(answers[task], size)
                answers |= {f"{task}.{name}": value for name, value in decoded.items()}
        return answers

    def example(self) -> Tensor:
        """Images that it takes, random ones."""
        height, width = self.trunk.inputs.size
        noise = torch.Generator().manual_seed(0)
        # Not the trunk's own size, nor a square, where any size will do: neither may become part of the graph.
        size = self.view or (height + 7, width + 10)
        return self.taken(torch.rand(self.batch or 2, 3, *size, generator=noise))

    def taken(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] as the graph takes them."""
        return as_taken(images, self.pixels, self.trunk.preprocess)

    @property
    def own_size(self) -> Size:
        """Height and width of what the trunk sees."""
        return self.trunk.inputs.size

    def open_axes(self) -> Mapping[int, str]:
        """The axes of the input whose length is open, and what they are called."""
        rows = {} if self.batch is not None else {0: "batch"}
        return rows if self.view is not None else rows | {2: "height", 3: "width"}

    def _seen(self, images: Tensor) -> Tensor:
        if self.pixels == "normalised":
            return images
        return self.trunk.preprocess(images.float() / 255 if self.pixels == "uint8" else images)


def as_taken(images: Tensor, pixels: Pixels, preprocess: Callable[[Tensor], Tensor]) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] as a graph takes them."""
    if pixels == "normalised":
        return preprocess(images).contiguous()
    return (images * 255).round().to(torch.uint8) if pixels == "uint8" else images


def file_note(
    module: Deployable, recipe_sha256: str | None, precision: str = "fp32", *, resize: str | None = None
) -> dict[str, Any]:
    """The note, plain values for JSON.

    Keys: `inputs`, what to feed (`InputContract`); `tasks`, by name what each is (`TaskKind.describe`: kind, classes
    and options), and of a single task also `kind` and `classes` by themselves; `outputs`, names in their order;
    `preprocess`: pictures of any size go in, resize and normalisation are inside; `decode`: answers come out beside
    logits; `precision`, fp32 or int8; `resize`, what the student was evaluated on of a picture of another shape
    (crop: its centre; pad, squash: all of it), or null; `recipe_sha256` of the resolved recipe, or null;
    `distill_mtl`, the version.
    """
    tasks = {task: kind.describe() for task, kind in module.kinds.items()}
    alone = next(iter(tasks.values())) if len(tasks) == 1 else {}
    return {
        "inputs": module.inputs.to_dict(),
        **{key: alone[key] for key in ("kind", "classes") if key in alone},
        "tasks": tasks,
        "outputs": list(module(module.example())),
        "preprocess": module.pixels != "normalised",
        "decode": module.decode,
        "precision": precision,
        "resize": resize,
        "recipe_sha256": recipe_sha256,
        "distill_mtl": __version__,
    }


def remove_unread(backbone: Backbone) -> None:
    """Take out of a backbone the modules that no feature in `returns` depends on.

    Each gives way to one that passes its input on, if the network then still runs and gives the very same features;
    else it stays. Those in `returns` are given as before, no other one ever again. Where the pooled vector is
    among them, all of the network is needed.

    Args:
        backbone: changed.
    """
    if any(backbone.layer_of(name) in (POOLED, LOGITS) for name in backbone.returns):
        return
    noise = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *backbone.inputs.size, generator=noise).to(backbone.preprocess.mean.device)
    wanted, read = _features_and_weights(backbone, images)
    backbone.ends_with_features = True
    backbone.ends_with_features = _gives(backbone, images, wanted)
    model, dropped = backbone.model, list[str]()
    for name, module in list(model.named_modules()):
        weights = [id(weight) for weight in module.parameters()]
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
def _features_and_weights(backbone: Backbone, images: Tensor) -> tuple[dict[str, Tensor], set[int]]:
    """The features, and the ids of the model's parameters that they depend on."""
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
    read = {
        id(value) for value, gradient in zip(weights.values(), gradients, strict=True) if gradient is not None
    }
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
