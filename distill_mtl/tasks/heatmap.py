"""Objects as points: boxes by their centres, or keypoints. Labels are lists of objects as JSON (`boxes.json`)."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.boxes import is_boxes
from distill_mtl.networks.features import FeatureShape
from distill_mtl.reading import loads
from distill_mtl.tasks.base import DEFAULT_HEAD, KINDS, HeadShape, Legend, Shown, TaskKind, Truth, by_row
from distill_mtl.tasks.detections import (
    as_maps,
    best_box_of_each_class,
    fused,
    soft_box_loss,
    strongest_boxes,
)
from distill_mtl.tasks.doubts import Doubt, never
from distill_mtl.tasks.drawing import draw_objects, named_colors
from distill_mtl.tasks.heads import PyramidDecoder, pyramid_levels
from distill_mtl.tasks.heat import (
    Peaks,
    as_large,
    best_peak_of_each_class,
    draw_gaussians,
    focal_loss,
    gaussians,
    soft_heat_loss,
    strongest_peaks,
)
from distill_mtl.tasks.json_values import plain_values
from distill_mtl.tasks.label import AskedAs, CountsTable, LabelCounts, by_count, list_classes, to_json
from distill_mtl.tasks.losses import average_sigmoid
from distill_mtl.tasks.maps import map_size
from distill_mtl.tasks.metrics import average_precision
from distill_mtl.tasks.objects import (
    MATCH_IOU,
    best_constant_pck,
    centre_distances,
    centre_histogram,
    corners,
    match_objects,
    no_objects,
    pairwise_iou,
    points_found,
    read_objects,
    same_class,
    transform_objects,
)
from distill_mtl.tasks.options import mirror_partners, read_mirrored, share, swap_classes, whole_number

MOST_OBJECTS = 64
"""Room in a label where the recipe does not say otherwise."""
LEAST_SCORE = 0.3
"""Score from which a peak counts as an answer where there must be a yes or no."""
SIZE_WEIGHT = 0.1
_DRAWN = (64, 64)  # maps that a detector's boxes are drawn on where a loss of their own is asked for
_POINT_RADIUS = 2.0  # cells: the standard deviation is 5/6 of a cell
_PRIOR = -2.19  # logit of 0.1
_LEAST = 1e-6  # of a probability and of what is left to 1, before its logit is taken


@KINDS.register("heatmap")
class Heatmap(TaskKind):
    """One heat map per class whose peaks are the centres of boxes, or points (`form: points`).

    After Zhou, Wang & Krähenbühl 2019 ("Objects as Points", arXiv:1904.07850). Logits [R, C + 4, h, w]: the classes'
    heat, width and height in cells of this map, and where in its cell a centre lies (x and y in [0, 1)); of
    points [R, C + 2, h, w], without sizes. Labels float32 [R, max_objects, 5]: class (-1: no object), x and y of the
    centre, width, height, as shares of the view's sides; points have no size. An empty list is a label too.

    A teacher may give scored boxes instead of maps (`networks.boxes`): they are scored and compared as they are, and
    become soft targets at the student's own map size (`heat.soft_box_loss`).

    Metrics: `map50`, the mean over the classes that occur of the average precision at an overlap of 0.5 (COCO's
    AP50), for boxes alone; and `pck`, the share of labelled centres whose class has its highest
    peak within a tenth of the view's larger side (Yang & Ramanan 2013, IEEE TPAMI 35 (12), section 7), the usual
    one for points.

    Args:
        form: `boxes`, or `points`: each class has one in a picture.
        max_objects: room in a label; a picture with more is refused.
        mirrored: pairs of classes that become each other in a mirror, such as [left_eye, right_eye].
        top: boxes of a picture that are answered at most.
        least_score: score from which a box of a teacher that is a detector is a soft target. Below it, down to 0.05,
            neither object nor background is claimed; it stands where other kinds have the temperature.
    """

    name = "heatmap"
    member = "boxes.json"
    metrics: ClassVar[tuple[str, ...]] = ("map50", "pck")
    dense = True
    takes_boxes = True
    by_class = True
    output_options = ("form",)
    label_options = ("form", "max_objects")
    extra_channels: ClassVar[int] = 4
    boxes: ClassVar[bool] = True
    asked_as: ClassVar[AskedAs] = "boxes"

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = DEFAULT_HEAD,
        form: str = "boxes",
        max_objects: int = MOST_OBJECTS,
        mirrored: Sequence[Sequence[str]] = (),
        top: int = 32,
        least_score: float = LEAST_SCORE,
    ) -> None:
        super().__init__(classes, metric, head=head)
        assert type(self) is self.class_for({"form": form}), "build_kind takes the class of the form"
        self.form = form
        self.max_objects = whole_number("max_objects", max_objects, least=1)
        self.top = whole_number("top", top, least=1)
        self.least_score = share("least_score", least_score)
        self.mirrored = read_mirrored(mirrored, classes)
        self._partners = mirror_partners(self.mirrored, self.classes)
        self._index = {name: index for index, name in enumerate(classes)}

    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type["Heatmap"]:
        form = str(options.get("form", "boxes"))
        if form not in FORMS:
            hint = nearest(form, FORMS)
            raise UserError(f"unknown form '{form}' of kind heatmap.{hint} Known: {', '.join(FORMS)}.")
        return FORMS[form]

    # ---- the label on disk ------------------------------------------------------------------------
    def read_label(self, payload: bytes) -> Tensor:
        """float32 [max_objects, 5] in pixels of the picture."""
        return read_objects(payload, self._index, self.form, self.max_objects)

    def has_label(self, label: Tensor) -> bool:
        return True

    @classmethod
    def label_from_cells(cls, cells: Mapping[str, Any]) -> bytes:
        """A list of objects as JSON."""
        ((column, cell),) = cells.items()
        try:
            return to_json(loads(cell) if isinstance(cell, str) else cell)
        except ValueError:
            raise ValueError(f"{column} is not JSON: {str(cell)[:60]}") from None

    @classmethod
    def classes_in(cls, labels: Iterable[bytes], columns: Sequence[str]) -> tuple[str, ...] | int | None:
        return list_classes(str(thing["class"]) for thing in _things(labels) if "class" in thing)

    @classmethod
    def options_in(cls, labels: Iterable[bytes]) -> dict[str, Any]:
        """`form: points` where all objects are points."""
        keys = {key for thing in _things(labels) for key in ("box", "point") if key in thing}
        return {"form": "points"} if keys == {"point"} else {}

    def count_label(self, label: Tensor, picture: Size, counts: LabelCounts) -> None:
        objects = label[label[:, 0] >= 0]
        counts.count("objects", Counter(self.classes[int(number)] for number in objects[:, 0].tolist()))
        counts.count("rows", {"with objects" if len(objects) else "without objects": 1})
        if self.boxes:
            height, width = picture
            left, top, right, bottom = corners(objects).unbind(1)
            # By more than the pixel that rounding may cost.
            beyond = (left < -1) | (top < -1) | (right > width + 1) | (bottom > height + 1)
            counts.count("boxes beyond their picture", {"all": len(objects), "beyond": int(beyond.sum())})

    def counts_table(self, counts: LabelCounts) -> CountsTable:
        objects = counts.counts["objects"]
        title = f"{objects.total():,} in {counts.counts['rows']['with objects']:,} rows"
        return CountsTable(
            ("class", self.form), [(name, f"{count:,}") for name, count in by_count(objects)], title
        )

    def doubts(self, counts: LabelCounts) -> list[Doubt]:
        objects, boxes = (
            counts.counts.get(what, Counter()) for what in ("objects", "boxes beyond their picture")
        )
        if counts.rows and not objects:
            return [
                Doubt(f"none of the {counts.rows:,} labels has an object. Are these the right files?", True)
            ]
        absent = [name for name in self.classes if name not in objects]
        found = super().doubts(counts) + never(
            absent,
            "no row has {names}. Labels teach nothing about what they do not show, and it has no score. Add such rows, "
            "or remove these classes.",
        )
        if boxes["beyond"]:
            found.append(
                Doubt(
                    f"{boxes['beyond']:,} of {boxes['all']:,} boxes reach beyond their picture. Are they [left, top, "
                    "right, bottom]? [left, top, width, height] is expected."
                )
            )
        return found

    def filler(self, size: Size) -> Tensor:
        return no_objects(self.max_objects + (len(self.classes) if self.knows else 0))

    def within(self, label: Tensor, known: Sequence[int]) -> Tensor:
        """float32 [max_objects + classes, 5]: behind the objects a row for each class, with -2 - its number as class
        where nothing is said of it, else -1."""
        strange = [number for number in label[:, 0].long().tolist() if number >= 0 and number not in known]
        if strange:
            raise ValueError(
                f"the label has a '{self.classes[strange[0]]}', and `knows` of its data set does not list it. Add it "
                "there."
            )
        notes = no_objects(len(self.classes))
        for number in set(range(len(self.classes))) - set(known):
            notes[number, 0] = -2 - number
        return torch.cat([label, notes])

    def leaves_open(self, label: Tensor) -> bool:
        return bool((label[:, 0] < -1).any())

    def labels_of_classes(self, labels: Tensor, known: Sequence[int]) -> tuple[Tensor, Tensor]:
        numbers, found = labels[..., 0], labels.clone()
        found[..., 0] = -1
        for place, number in enumerate(known):
            found[..., 0] = torch.where(numbers == number, float(place), found[..., 0])
            found[..., 0] = torch.where(numbers == -2 - number, float(-2 - place), found[..., 0])
        silent = self._silent(labels)
        return found, labels.new_ones(len(labels)).bool() if silent is None else ~silent[:, list(known)].all(
            1
        )

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        seen = transform_objects(label, view, picture, size, self.form)
        if view.flip and self.mirrored:
            seen[:, 0] = swap_classes(seen[:, 0].long(), self._partners).float()
        return seen

    # ---- the network ------------------------------------------------------------------------------
    @classmethod
    def classes_of(cls, outputs: int) -> int:
        return outputs - cls.extra_channels

    @property
    def outputs(self) -> int:
        return len(self.classes) + self.extra_channels

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return pyramid_levels(features)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        """Nothing is found at first: the heat begins at 0.1 (section 4 of the paper, after RetinaNet)."""
        decoder = PyramidDecoder(features, self.outputs, self.shape)
        last = decoder.fuse[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[: len(self.classes)], _PRIOR)
        return decoder

    @classmethod
    def are_probabilities(cls, answer: Tensor) -> bool:
        """Of the heat alone: sizes and offsets are numbers anyway."""
        heat = answer[:, : -cls.extra_channels]
        return heat.numel() > 0 and bool(heat.min() >= 0) and bool(heat.max() <= 1)

    @classmethod
    def logits_of(cls, probabilities: Tensor) -> Tensor:
        """Logits of the heat, sizes and offsets as they are."""
        heat = torch.logit(probabilities[:, : -cls.extra_channels], _LEAST)
        return torch.cat([heat, probabilities[:, -cls.extra_channels :]], 1)

    # ---- losses -----------------------------------------------------------------------------------
    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal loss of the heat, L1 of sizes (times 0.1) and offsets in the centres' cells, by the row's objects.

        Equations 1 to 4 of the paper, but for the unit of a row in place of a batch: N is the number of the
        row's objects, at least 1.
        """
        logits = logits.float()
        if is_boxes(logits):  # of a detector; nothing is learned from its loss
            logits = as_maps(logits, len(self.classes), _DRAWN)
        height, width = map_size(logits)
        there = labels[..., 0] >= 0
        # Scalars, as a tensor of them would be a copy to the device that the host waits for.
        x, y = labels[..., 1] * width, labels[..., 2] * height
        centre = torch.stack([x, y], -1)
        sides = torch.stack([labels[..., 3] * width, labels[..., 4] * height], -1)
        cell = torch.stack([x.floor().clamp(0, width - 1), y.floor().clamp(0, height - 1)], -1)
        number = there.sum(1).clamp(min=1)
        heat = self._wanted(labels, there, cell.long(), sides, (height, width))
        focal = focal_loss(logits[:, : len(self.classes)], heat)
        silent = self._silent(labels)
        if silent is not None:
            focal = focal.masked_fill(silent[:, :, None, None], 0.0)
        losses = focal.flatten(1).sum(1)
        place = (cell[..., 1] * width + cell[..., 0]).long()
        behind = logits[:, len(self.classes) :].flatten(2)
        read = behind.gather(2, place[:, None].expand(-1, self.extra_channels, -1)).movedim(1, 2)
        apart = (read[..., -2:] - (centre - cell)).abs().sum(2)
        if self.boxes:
            apart = apart + SIZE_WEIGHT * (read[..., :2] - sides).abs().sum(2)
        return (losses + (apart * there).sum(1)) / number

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        if is_boxes(teacher_logits):
            return soft_box_loss(
                logits.float(),
                teacher_logits.detach().float(),
                len(self.classes),
                self.least_score,
                size_weight=SIZE_WEIGHT,
            )
        return soft_heat_loss(
            logits.float(),
            teacher_logits.detach().float(),
            len(self.classes),
            temperature,
            size_weight=SIZE_WEIGHT if self.boxes else None,
        )

    def average(self, answers: Sequence[Tensor], shares: Tensor, temperature: float) -> Tensor:
        """The heat's probabilities averaged; sizes and offsets from the map with the most heat in the cell. Boxes of
        detectors alone are fused as boxes."""
        if all(is_boxes(one) for one in answers):
            return fused(answers, shares)
        maps, number = self.alike(answers), len(self.classes)
        weights = by_row(shares, 4)
        heat = average_sigmoid([one[:, :number] for one in maps], weights, temperature)
        hottest = torch.stack([one[:, :number].sigmoid().amax(1, keepdim=True) for one in maps]) * weights
        behind = torch.stack([one[:, number:] for one in maps])
        chosen = hottest.argmax(0, keepdim=True).expand(1, *behind.shape[1:])
        return torch.cat([heat, behind.gather(0, chosen)[0]], 1)

    def alike(self, answers: Sequence[Tensor]) -> list[Tensor]:
        """Maps of one size; a detector's boxes are drawn on such a map."""
        maps = [one for one in answers if not is_boxes(one)]
        size = map_size(max(maps, key=lambda one: one.numel())) if maps else _DRAWN
        return [
            as_maps(one.float(), len(self.classes), size)
            if is_boxes(one)
            else one.float()
            if map_size(one) == size
            else as_large(one.float(), len(self.classes), size, sized=self.boxes)
            for one in answers
        ]

    # ---- what a user gets -------------------------------------------------------------------------
    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`boxes` float32 [B, K, 4], left, top, right and bottom in pixels, strongest first, K = `top`;
        or `points` float32 [B, C, 2], the best of each class. `scores` float32, 0 where there is nothing (and no
        box), and `label` int64 beside them."""
        found = self._found(logits)
        answer = {"scores": found.scores, "label": found.objects[..., 0].long().clamp_min(0)}
        if not self.boxes:
            return {"points": _in_pixels(found.objects[..., 1:3], size), **answer}
        boxes = _in_pixels(corners(found.objects).clamp(0, 1), size)
        return {"boxes": boxes.masked_fill(found.objects[..., :1] < 0, 0), **answer}

    def to_picture(self, decoded: Mapping[str, Tensor], view: View, picture: Size) -> dict[str, Tensor]:
        """Boxes are cut at the picture's border."""
        name = "boxes" if self.boxes else "points"
        places = decoded[name] + decoded[name].new_tensor([view.left, view.top]).repeat(
            2 if self.boxes else 1
        )
        if self.boxes:
            sides = places.new_tensor([picture[1], picture[0]]).repeat(2)
            places = places.clamp_min(0).minimum(sides)
        return {**decoded, name: places}

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """`objects` above `LEAST_SCORE`, strongest first, in pixels as `boxes.json` has them, each with its `score`."""
        order = decoded["scores"].argsort(descending=True, stable=True).tolist()
        scores, classes = plain_values(decoded["scores"]), decoded["label"].tolist()
        found = []
        for place in (place for place in order if decoded["scores"][place] > LEAST_SCORE):
            if self.boxes:
                left, top_side, right, bottom = decoded["boxes"][place].double().tolist()
                where = {"box": plain_values(torch.tensor([left, top_side, right - left, bottom - top_side]))}
            else:
                where = {"point": plain_values(decoded["points"][place])}
            if self.boxes and min(where["box"][2:]) <= 0:
                continue  # beyond the picture, in the part of a view that was padded
            found.append({"class": self.classes[classes[place]], **where, "score": scores[place]})
        return {"objects": found}

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        """The `max_objects` strongest, without boxes smaller than a pixel: `read_label` takes these for shares."""
        found = [thing for thing in self.answers(decoded)["objects"] if max(thing.get("box", [1])[-2:]) >= 1]
        return self.member, json.dumps(found[: self.max_objects]).encode()

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return draw_objects(label[label[:, 0] >= 0], image, self.classes)

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        objects, scores = self._found(logits[None])
        return draw_objects(objects[0][scores[0] > LEAST_SCORE], image, self.classes)

    def legend(self) -> Legend:
        return Legend(named_colors(self.classes, first=1))

    # ---- scores -----------------------------------------------------------------------------------
    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """map50: score, class (-1: none) and hit of every box, objects by class, K = 3 top + C; pck: [hits, points]."""
        if self.metric == "pck":
            if is_boxes(logits):
                best, size = best_box_of_each_class(logits.float()).objects, (1, 1)
            else:
                best = best_peak_of_each_class(logits.float(), len(self.classes), sized=self.boxes).objects
                size = map_size(logits)
            return points_found(best.cpu().double(), labels.cpu().double(), size)
        objects, scores = (part.cpu().double() for part in self._found(logits))
        known = labels.cpu().double()
        silent = self._silent(known)
        if silent is not None:  # what is found there may be right
            number = objects[..., 0].long()
            unsaid = (number >= 0) & silent.gather(1, number.clamp(min=0))
            objects[..., 0] = objects[..., 0].masked_fill(unsaid, -1)
        right = match_objects(objects, known)
        missing = self.top - objects.shape[1]  # a small map has not so many cells
        columns = (scores, objects[..., 0], right.double())
        padded = [
            F.pad(column, (0, missing), value=value)
            for column, value in zip(columns, (0, -1, 0), strict=True)
        ]
        count = (known[..., :1] == torch.arange(len(self.classes))).sum(1).double()
        return torch.cat([*padded, count], 1)

    def score(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            return self.score(statistics, statistics.new_ones(1, len(statistics)))[0]
        if self.metric == "pck":
            totals = weights @ statistics
            return 100 * totals[:, 0] / totals[:, 1].clamp(min=1)
        return 100 * self._precisions(statistics, weights).nanmean(1).nan_to_num(0)

    def class_scores(self, statistics: Tensor) -> Tensor | None:
        if self.metric == "pck":
            return None
        return 100 * self._precisions(statistics, statistics.new_ones(1, len(statistics)))[0]

    def _precisions(self, statistics: Tensor, weights: Tensor) -> Tensor:
        """[S, C]: average precision, NaN for a class without an object."""
        scores, classes, right = statistics[:, : 3 * self.top].split(self.top, 1)
        wanted = weights @ statistics[:, 3 * self.top :]
        row = torch.arange(len(statistics))[:, None].expand_as(classes)
        precisions = []
        for number in range(len(self.classes)):
            mine = classes == number
            precisions.append(
                average_precision(
                    scores[mine],
                    right[mine] > 0,
                    weights,
                    wanted[:, number],
                    rows=row[mine],
                    interpolated=True,
                )
            )
        return torch.stack(precisions, 1)

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """Share of both networks' peaks above 0.3 to which the other has a like one; 1 where there are none.

        Alike are peaks of one class whose boxes overlap by half, or points at most a cell of the coarser map apart.
        """
        found = [self._found(maps) for maps in (logits, other)]
        mine, theirs = (part.objects.cpu().double() for part in found)
        sure = [(part.scores > LEAST_SCORE).cpu() for part in found]
        if self.boxes:
            alike = pairwise_iou(mine, theirs) >= MATCH_IOU
        else:
            coarse = min(map_size(logits), map_size(other))
            alike = same_class(mine, theirs) & (centre_distances(mine, theirs, coarse) <= 1)
        alike &= sure[0][:, :, None] & sure[1][:, None]
        matched = alike.any(2).sum(1) + alike.any(1).sum(1)
        answers = sure[0].sum(1) + sure[1].sum(1)
        return torch.where(answers > 0, matched / answers.clamp(min=1), 1.0).double()

    def decisions(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Of every cell and class, whether a peak there would count."""
        beyond = logits[:, : len(self.classes)].float() - math.log(LEAST_SCORE / (1 - LEAST_SCORE))
        return (beyond > 0).long(), beyond.abs()

    def label_counts(self, labels: Tensor) -> Tensor:
        """Where centres lie, by class, on a coarse grid."""
        return centre_histogram(labels.cpu(), len(self.classes)).flatten()

    def constant_score(self, counts: Tensor) -> float:
        """0 for boxes, though a box in the middle may hit; for points about that of the best place of each class."""
        return best_constant_pck(counts.view(len(self.classes), -1)) if self.metric == "pck" else 0.0

    def describe(self) -> dict[str, Any]:
        pairs = [list(pair) for pair in self.mirrored]
        return super().describe() | {
            "form": self.form,
            "max_objects": self.max_objects,
            "mirrored": pairs,
            "top": self.top,
            "least_score": self.least_score,
        }

    def _silent(self, labels: Tensor) -> Tensor | None:
        """bool [R, C], the classes that labels say nothing of; None: they tell of all."""
        if labels.shape[1] == self.max_objects:
            return None
        numbers = torch.arange(len(self.classes), device=labels.device)
        return (labels[..., :1] == -2 - numbers).any(1)

    def _found(self, logits: Tensor) -> Peaks:
        """Of a student's maps, or of a detector's boxes."""
        if is_boxes(logits):
            return strongest_boxes(logits.float(), self.top)
        if self.boxes:
            return strongest_peaks(logits.float(), len(self.classes), self.top)
        return best_peak_of_each_class(logits.float(), len(self.classes), sized=False)

    def _wanted(self, labels: Tensor, there: Tensor, cell: Tensor, sides: Tensor, size: Size) -> Tensor:
        """float32 [R, C, h, w]: the heat that the labels ask for."""
        classes = len(self.classes)
        if self.boxes:
            return gaussians(labels[..., 0], there, cell, sides, classes, size)
        row, slot = there.nonzero(as_tuple=True)
        place = row * classes + labels[row, slot, 0].long()
        column, line = cell[row, slot].unbind(1)
        radius = torch.full_like(place, _POINT_RADIUS, dtype=labels.dtype)
        heat = draw_gaussians(place, line, column, radius, len(labels) * classes, size)
        return heat.view(len(labels), classes, *size)


def _in_pixels(places: Tensor, size: Size) -> Tensor:
    """[..., 2 N], x and y in turn as shares of the sides -> pixels.

    Column by column: a tensor made of the sides would be a constant in a recorded graph.
    """
    columns = enumerate(places.unbind(-1))
    return torch.stack([column * size[1 - place % 2] for place, column in columns], -1)


def _things(labels: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of some labels, as far as they are some; `read_label` says what is wrong with others."""
    for label in labels:
        things = loads(label)
        yield from (
            thing for thing in (things if isinstance(things, list) else ()) if isinstance(thing, dict)
        )


class HeatmapOfPoints(Heatmap):
    """`form: points`."""

    metrics = ("pck",)
    takes_boxes = False
    extra_channels = 2
    boxes = False
    asked_as = "points"


FORMS: dict[str, type[Heatmap]] = {"boxes": Heatmap, "points": HeatmapOfPoints}
