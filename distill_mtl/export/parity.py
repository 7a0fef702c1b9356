"""Whether an exported file answers as the student does, on real rows, in the runtime that opens such files.

The rows are those of the run's own data, or of shards that are named.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import Tensor

from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.batch import Batch, BatchRows
from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.errors import ExportError, UserError
from distill_mtl.evaluation.row_statistics import refuse_nan
from distill_mtl.export.deployable import Deployable, Pixels
from distill_mtl.export.export_format import ExportRequest
from distill_mtl.geometry.views import Size
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.recipe.schema import AugmentSection, SourceSection
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind
from distill_mtl.tasks.maps import map_size, resized

SURE = 10.0
"""A decision must stand where the student's margin exceeds the largest error so many times."""
LARGEST = 1e-3
"""Largest error that rounding explains, as a share of the student's largest answer."""
ROUNDING = 1e-6
"""Of one operation, as a share of the largest answer."""

_SIZES = (1, 3, 2)
"""Rows of the first batches; the others hold what is left, up to `_MOST`. The graph was recorded with 2."""
_MOST = 32


Answers = dict[str, Tensor]


class Answering(Protocol):
    """What `check_parity` asks of what was exported."""

    @property
    def kinds(self) -> Mapping[str, TaskKind]:
        """Of the tasks."""

    @property
    def pixels(self) -> Pixels:
        """What the file takes."""

    @property
    def decode(self) -> bool:
        """Whether it gives decoded answers too."""

    @property
    def own_size(self) -> Size:
        """Height and width of what the trunk sees."""

    def taken(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] as the file takes them."""


@dataclass(frozen=True)
class PictureBatch:
    """Rows in one batch.

    Attributes:
        images: float32 [B, 3, H, W] in [0, 1], of whole steps of 1/255.
        keys: identities of the rows.
    """

    images: Tensor
    keys: list[str]


class RealRows:
    """The rows that a request looks at.

    Args:
        request: the export.
        remedy: what to do where there are no rows, a sentence.

    Raises:
        ExportError: there is neither a recipe nor `--data`.
        UserError: the data is gone, or cannot be read.
    """

    def __init__(self, request: ExportRequest, remedy: str = "Name other shards with --data.") -> None:
        self._request = request
        self._remedy = remedy
        self._kinds: Mapping[str, TaskKind] = request.source.load().student.kinds
        self._require_rows()
        self._contract = request.student.trunk.inputs

    def _require_rows(self) -> None:
        """Refuse before anything is written."""
        if self._request.source.recipe is None and not self._request.data:
            raise ExportError(
                f"{self._request.source.folder} lies in no run, and an export is compared with the student on real "
                f"pictures. {self._remedy}"
            )

    def for_check(self, module: Deployable) -> list[PictureBatch]:
        """Test rows in batches of different numbers of rows; where any size will do, in several sizes too.

        What takes one number of rows gets whole batches: the last rows are left out, or seen again where they are few.
        """
        size = self._contract.size
        if module.pixels != "normalised":
            size = module.view or (size[0] + size[0] // 2, size[1] + size[1] // 4)
        images, keys = self.take("test", self._request.rows, size)
        images = images.float() / 255
        if module.batch is not None:
            return _whole_batches(images, keys, module.batch)
        batches, first, sizes = [], 0, iter(_SIZES)
        while first < len(keys):
            last = first + next(sizes, _MOST)
            batches.append(PictureBatch(images[first:last], keys[first:last]))
            first = last
        if module.view is None and len(batches) > 1:
            height, width = self._contract.size
            own, tall = batches[0].images[..., :height, :width], batches[1].images[..., : max(1, width // 2)]
            batches[0], batches[1] = PictureBatch(own, batches[0].keys), PictureBatch(tall, batches[1].keys)
        return batches

    def take(self, split: Split, number: int, size: Size) -> tuple[Tensor, list[str]]:
        """uint8 [N, 3, H, W], N = number or as many as there are, without augmentation; and the rows' keys."""
        sources = self.sources(size)
        batches = list(
            self._unlabelled(sources, number)
            if self._request.data
            else self._labelled(sources, split, number)
        )
        keys = [key for batch in batches for key in batch.keys]
        if not keys:
            raise ExportError(f"there is no {split} row to look at. {self._remedy}")
        return torch.cat([batch.images for batch in batches])[:number], keys[:number]

    def sources(self, size: Size) -> Sources:
        """The data, with pictures of this size."""
        try:
            return open_sources(self._settings, self._kinds, size, every_set=False)
        except UserError as error:
            if self._request.data:
                raise
            raise ExportError(
                f"the rows of the run's own recipe cannot be read, and an export is compared with the student on real "
                f"pictures. {self._remedy} {error}"
            ) from error

    @cached_property
    def recipe(self) -> Recipe:
        """Of the run."""
        assert self._request.source.recipe is not None
        return load_recipe(self._request.source.recipe)

    @property
    def _settings(self) -> DataSettings:
        """The given shards as a source without labels, or the run's own data."""
        if not self._request.data:
            return DataSettings.of(self.recipe)
        shards = as_patterns([path for paths in find_sets(self._request.data).values() for path in paths])
        plain = AugmentSection(crop=None, flip=False, color=0)
        return DataSettings({"data": SourceSection(shards=shards or [], augment=plain)})

    def _labelled(self, sources: Sources, split: Split, number: int) -> Iterator[Batch]:
        """Of every exported task alike many rows, spread evenly over its set."""
        tasks = [task for task in self._request.tasks if sources.count(task, split)]
        for place, task in enumerate(tasks):
            share = (number * (place + 1)) // len(tasks) - (number * place) // len(tasks)
            if share:
                yield from sources.labelled(task, split, _MOST, limit=share)

    def _unlabelled(self, sources: Sources, number: int) -> Iterator[Batch]:
        rows = sources.opened[0].rows("train")
        chosen = rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(np.int64)]
        for first in range(0, len(chosen), _MOST):
            part = chosen[first : first + _MOST]
            none = np.zeros_like(part)
            yield sources.training_rows(BatchRows(none, none, part))


def _whole_batches(images: Tensor, keys: Sequence[str], rows: int) -> list[PictureBatch]:
    number = max(1, len(keys) // rows) * rows
    order = [at % len(keys) for at in range(number)]
    return [
        PictureBatch(images[part], [keys[at] for at in part])
        for part in (order[first : first + rows] for first in range(0, number, rows))
    ]


@dataclass
class Difference:
    """One output beside the student's.

    Attributes:
        largest, mean: absolute error.
        scale: the largest absolute answer of the student.
        decisions: how many were compared; 0 for answers that decide nothing.
        close: how many of them were too close for a comparison.
        changed: how many of the others differ.
        rows_changed: rows in which any decision differs, a close one too.
        where: key of a row with a decision that changed, else of the one with the largest error.
        numbers: how many were compared; 0 for whole numbers, which are decisions.
    """

    largest: float = 0.0
    mean: float = 0.0
    scale: float = 0.0
    decisions: int = 0
    close: int = 0
    changed: int = 0
    where: str | None = None
    numbers: int = 0
    rows_changed: int = 0

    def add(self, expected: Tensor, found: Tensor, keys: Sequence[str]) -> None:
        """Count the numbers of a batch."""
        apart = (expected.double() - found.double()).abs()
        # NaN on both sides is equal; on one side it is infinitely far apart.
        apart = apart.where(~(expected.isnan() & found.isnan()), 0.0).nan_to_num(nan=torch.inf)
        worst = float(apart.max()) if apart.numel() else 0.0
        if worst > self.largest:
            self.largest, self.where = worst, keys[int(apart.flatten(1).amax(1).argmax())]
        self.mean = (self.mean * self.numbers + float(apart.sum())) / max(1, self.numbers + apart.numel())
        self.numbers += apart.numel()
        self.scale = max(self.scale, float(expected.double().abs().nan_to_num().max()))

    def decide(self, changed: Tensor, sure: Tensor, keys: Sequence[str]) -> None:
        """Count the decisions of a batch, [B, ...]: which differ, and of which the student is sure."""
        self.decisions += changed.numel()
        self.close += int((~sure).sum())
        self.rows_changed += int(changed.reshape(len(changed), -1).any(1).sum())
        wrong = (changed & sure).flatten(1).any(1) if changed.ndim > 1 else changed & sure
        if bool(wrong.any()) and not self.changed:
            self.where = keys[int(wrong.int().argmax())]
        self.changed += int((changed & sure).sum())

    @property
    def excessive(self) -> bool:
        """Whether no rounding explains the largest error."""
        return self.largest > LARGEST * max(self.scale, 1e-6)


@dataclass
class Parity:
    """All outputs of a file beside the student's.

    Attributes:
        outputs: by name.
        rows: that were compared.
        batches: how many rows each batch had.
    """

    rows: int
    batches: list[int]
    outputs: dict[str, Difference] = field(default_factory=dict)

    def table(self, words: str) -> Table:
        """One line an output."""
        sizes = self.batches[:1] if len(set(self.batches)) == 1 else self.batches
        table = Table(
            title=f"{words} beside the student, {self.rows} rows in batches of {', '.join(map(str, sizes))}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
        )
        for column in ("output", "largest error", "mean error", "decisions", "too close", "changed"):
            table.add_column(column, justify="left" if column == "output" else "right")
        for name, found in self.outputs.items():
            counts = (found.decisions, found.close, found.changed)
            cells = [f"{count:,}" if found.decisions else "–" for count in counts]
            errors = [f"{error:.1e}" if found.numbers else "–" for error in (found.largest, found.mean)]
            table.add_row(name, *errors, *cells)
        return table

    def refuse_difference(self, words: str) -> None:
        """Raise ExportError for an output that is not the student's, with the row that shows it."""
        for name, found in self.outputs.items():
            if found.changed:
                what = (
                    f"{found.changed:,} of {found.decisions:,} decisions changed that the student is sure of"
                )
            elif found.excessive:
                what = f"the largest error is {found.largest:.2g}, of answers up to {found.scale:.2g}"
            else:
                continue
            raise ExportError(
                f"{words} does not answer as the student does: {name}: {what} (largest error {found.largest:.2g}, "
                f"row {found.where}). Nothing was written. Try another "
                "format with --to, or leave out --preprocess or --decode."
            )


def check_parity(
    module: Answering,
    student: Callable[[Tensor], Mapping[str, Mapping[str, Tensor]]],
    run: Callable[[Tensor], dict[str, Tensor]],
    batches: Sequence[PictureBatch],
) -> Parity:
    """Compare every output on every row.

    Logits are compared with those of the student as `load_student` gives it, which has its own preprocessing and
    all of its parts. What the file decodes is compared with what the kind decodes from the file's own logits, so
    that a rounding error in a logit is counted once.

    Args:
        module: what was exported.
        student: a loaded student (`DeployedStudent`), or its recorded answers.
        run: the file.
        batches: the rows.
    """
    found = Parity(sum(len(batch.keys) for batch in batches), [len(batch.keys) for batch in batches])
    pairs = [_answers(module, student, run, batch) for batch in batches]
    for eager, given, _ in pairs:
        missing = set(eager) ^ set(given)
        if missing:
            raise ExportError(
                f"the exported file has other outputs than the student: {', '.join(sorted(missing))}."
            )
    for name in pairs[0][0]:
        difference = found.outputs[name] = Difference()
        for (eager, given, _), batch in zip(pairs, batches, strict=True):
            if eager[name].shape != given[name].shape:
                raise ExportError(
                    f"the exported file gives '{name}' the shape {list(given[name].shape)} for {len(batch.keys)} rows, "
                    f"the student {list(eager[name].shape)}."
                )
            if eager[name].is_floating_point():
                difference.add(eager[name], given[name], batch.keys)
    for task, kind in module.kinds.items():
        for (eager, given, size), batch in zip(pairs, batches, strict=True):
            _decisions(kind, task, found, eager, given, size, batch.keys)
    return found


def _answers(
    module: Answering,
    student: Callable[[Tensor], Mapping[str, Mapping[str, Tensor]]],
    run: Callable[[Tensor], Answers],
    batch: PictureBatch,
) -> tuple[Answers, Answers, tuple[int, int]]:
    """What is expected of every output, what the file gives, and the size of its images."""
    taken = module.taken(batch.images)
    given = run(taken)
    answers = student(batch.images)
    size = map_size(taken)
    if module.pixels == "normalised":
        size = module.own_size
    eager = {}
    for task, kind in module.kinds.items():
        eager[task] = answers[task]["logits"]
        refuse_nan("student", task, eager[task], batch.keys)
        if module.decode:
            eager |= {f"{task}.{name}": value for name, value in kind.decode(given[task], size).items()}
    return eager, given, size


def _decisions(
    kind: TaskKind,
    task: str,
    found: Parity,
    eager: Answers,
    given: Answers,
    size: tuple[int, int],
    keys: Sequence[str],
) -> None:
    """Count what was decided otherwise, in a task's logits and in what was decoded from them."""
    logits = found.outputs[task]
    limit = SURE * logits.largest
    decided = kind.decisions(eager[task])
    if decided is None:
        agreement = kind.agreement(eager[task], given[task])
        logits.decide(agreement < 1, torch.ones_like(agreement) > 0, keys)
    else:
        theirs = kind.decisions(given[task])
        assert theirs is not None
        logits.decide(decided[0] != theirs[0], decided[1] > limit, keys)
    whole = [name for name in eager if name.startswith(f"{task}.") and not eager[name].is_floating_point()]
    for name in whole:
        changed = eager[name] != given[name]
        maps = resized(given[task].float(), size) if kind.dense else given[task]
        margins = kind.decisions(maps)
        # The two have the same logits, but may round otherwise when they enlarge them.
        apart = max(limit, SURE * ROUNDING * logits.scale)
        fits = margins is not None and margins[1].shape == changed.shape
        sure = margins[1] > apart if fits and margins is not None else torch.ones_like(changed)
        found.outputs[name].decide(changed, sure, keys)
