"""A detector that needs no training, in every form of boxes, and the pictures that it is made for.

Pictures are dark, 32 pixels wide, with bright red or blue rectangles, at most one in each cell of 8 x 8 pixels. The
detector frames what is bright in a cell, so its boxes are right to the pixel.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toy_world
from torch import Tensor, nn

SIDE = 32
CLASSES = ("warm", "cold")
_CELL, _CELLS = 8, 4
_EMPTY = 5  # places of the coarser maps, where nothing is found


class Finder(nn.Module):
    """Images [B, 3, 32, 32] in [0, 1] -> boxes in one of the forms.

    Args:
        form: of the boxes; `boxes` for the parts that the others are made of.
        corners: cxcywh or xyxy, for the forms before suppression.
        unit: pixels or shares.
    """

    def __init__(self, form: str = "yolo", corners: str = "cxcywh", unit: str = "pixels") -> None:
        super().__init__()
        self.form, self.corners, self.unit = form, corners, unit
        self.look = nn.Conv2d(3, 2, 1)
        self.look.weight.data = torch.tensor([[2.0, 0, 0], [0, 0, 2.0]])[..., None, None]
        self.look.bias.data.fill_(-1.0)

    def places(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and sides [B, 21, 4] in pixels, scores [B, 21, 2]."""
        bright = torch.relu(self.look(images)).clamp(max=1)
        cells = bright.unflatten(3, (_CELLS, _CELL)).unflatten(2, (_CELLS, _CELL))
        lit = (cells.amax(1) > 0.2).float()  # [B, 4, 8, 4, 8]
        place = torch.arange(_CELL, device=images.device) + 0.5
        start = torch.arange(_CELLS, device=images.device) * _CELL
        columns, lines = lit.amax(2), lit.amax(4).movedim(2, 3)  # [B, 4, 4, 8]
        width, height = columns.sum(3), lines.sum(3)
        x = (columns * place).sum(3) / width.clamp(min=1) + start
        y = (lines * place).sum(3) / height.clamp(min=1) + start[:, None]
        # How much of its frame is bright: noise is none.
        filled = cells.sum((3, 5)) / (width * height).clamp(min=1)[:, None]
        scores = (0.9 * (2 * filled - 1).clamp(0, 1)).flatten(2).transpose(1, 2)
        boxes = torch.stack([part.flatten(1) for part in (x, y, width, height)], 2)
        empty = boxes[:, :_EMPTY] * 0 + boxes.new_tensor([16.0, 16.0, 8.0, 8.0])
        return torch.cat([boxes, empty], 1), torch.cat([scores, scores[:, :_EMPTY] * 0], 1)

    def forward(self, images: Tensor) -> Any:
        boxes, scores = self.places(images)
        left_top, right_bottom = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
        framed = torch.cat([left_top, right_bottom], 2)
        boxes = framed if self.corners == "xyxy" else boxes
        if self.unit == "shares":
            boxes, framed = boxes / SIDE, framed / SIDE
        if self.form == "yolo":
            return torch.cat([boxes, scores], 2).transpose(1, 2)
        if self.form == "yolov5":
            there = scores.amax(2, keepdim=True)
            rows = torch.cat([boxes, there, scores / there.clamp(min=0.1)], 2)
            nothing = rows * rows.new_tensor([1.0] * 4 + [0.0] * 3)
            return torch.cat([rows, nothing, nothing], 1)
        if self.form == "detr":
            shares = torch.cat([scores, 1 - scores.sum(2, keepdim=True)], 2)
            return {"logits": shares.clamp(min=1e-4).log(), "pred_boxes": boxes}
        if self.form == "detr_sigmoid":
            return {"logits": torch.logit(scores.clamp(1e-4, 1 - 1e-4)), "pred_boxes": boxes}
        if self.form == "scores":
            return {"scores": torch.cat([1 - scores.sum(2, keepdim=True), scores], 2), "boxes": framed}
        best, labels = scores.max(2)
        if self.form == "yolo_nms":
            listed = torch.cat([framed, best[..., None], labels[..., None].float()], 2)
            return listed.gather(1, best.topk(10, dim=1)[1][..., None].expand(-1, -1, 6))
        if self.form == "torchvision":
            return [
                {"boxes": framed[row][best[row] > 0.5], "labels": labels[row][best[row] > 0.5] + 1}
                | {"scores": best[row][best[row] > 0.5]}
                for row in range(len(images))
            ]
        top, place = best.topk(10, dim=1)
        swapped = framed[..., [1, 0, 3, 2]].gather(1, place[..., None].expand(-1, -1, 4))
        count = (top > 0.5).sum(1).float()
        return swapped, labels.gather(1, place).float(), top, count


def make(form: str = "yolo", **options: str) -> Finder:
    return Finder(form, **options).eval()


SHARES = ("detr", "detr_sigmoid", "scores", "ssd")
"""Forms that usually give shares of the sides."""


def usual(form: str) -> Finder:
    """The detector in a form, as files of that form usually are."""
    return make(form, unit="shares" if form in SHARES else "pixels")


def picture(generator: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """uint8 [32, 32, 3] and its objects as `boxes.json` has them."""
    pixels = generator.integers(0, 40, (SIDE, SIDE, 3)).astype(np.uint8)
    objects: list[dict[str, Any]] = []
    for place in generator.permutation(_CELLS**2)[: int(generator.integers(1, 5))].tolist():
        height, width = generator.integers(5, _CELL + 1, 2).tolist()
        top = place // _CELLS * _CELL + int(generator.integers(0, _CELL - height + 1))
        left = place % _CELLS * _CELL + int(generator.integers(0, _CELL - width + 1))
        number = int(generator.integers(2))
        pixels[top : top + height, left : left + width, 2 * number] = 255
        objects.append({"class": CLASSES[number], "box": [left, top, width, height]})
    return pixels, objects


def pictures(rows: int, seed: int = 0) -> tuple[Tensor, list[list[dict[str, Any]]]]:
    """float32 [R, 3, 32, 32] in [0, 1], and the objects of each."""
    generator = np.random.default_rng(seed)
    drawn = [picture(generator) for _ in range(rows)]
    images = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) for pixels, _ in drawn])
    return images.float() / 255, [objects for _, objects in drawn]


def write(path: Path, rows: int, seed: int) -> None:
    """A shard of such pictures."""
    generator = np.random.default_rng(seed)
    samples = []
    for row in range(rows):
        pixels, objects = picture(generator)
        samples.append(
            {
                "__key__": f"{path.stem}-{row:04d}",
                "png": toy_world.png(pixels),
                "boxes.json": json.dumps(objects).encode(),
            }
        )
    toy_world.write_rows(path, samples)


def save_pt2(network: nn.Module, path: Path) -> Path:
    """The network as a `torch.export` program of any number of rows."""
    free = {0: torch.export.Dim("batch", min=1, max=1024)}
    program = torch.export.export(network, (torch.rand(2, 3, SIDE, SIDE),), dynamic_shapes=(free,))
    torch.export.save(program, path)
    return path


def save_onnx(network: nn.Module, path: Path, notes: dict[str, str] | None = None) -> Path:
    """The network as an ONNX file of any number of rows, with notes in its metadata."""
    import onnx

    free = {0: torch.export.Dim("batch", min=1, max=1024)}
    torch.onnx.export(
        network,
        (torch.rand(2, 3, SIDE, SIDE),),
        path,
        dynamic_shapes=(free,),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if notes:
        model = onnx.load(path)
        onnx.helper.set_model_props(model, notes)
        onnx.save(model, path)
    return path
