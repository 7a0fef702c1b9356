"""All data sets of a recipe as one object: training, the check and evaluation get their rows from it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.data.augmentation import DrawnViews, TrainingViews
from distill_mtl.data.batch import ALONE, Batch, BatchRows, Integers, ProcessShare
from distill_mtl.data.batch_plan import Plan, source_parts
from distill_mtl.data.deep_check import RowsChecked, check_rows
from distill_mtl.data.fetch_ahead import FetchAhead, coming_files, refuse_small_stores
from distill_mtl.data.few_labels import labelled_share, small_classes
from distill_mtl.data.quota import PERIOD, Alternating, Quota
from distill_mtl.data.reader import EveryView, Reader
from distill_mtl.data.source import RowMembers, Source, is_in_windows
from distill_mtl.data.stream import read_ahead, stream
from distill_mtl.data.windows import RowsByShard
from distill_mtl.errors import RecipeError, ShardError
from distill_mtl.geometry.views import Size
from distill_mtl.recipe.schema import Recipe, SourceSection, StreamSection
from distill_mtl.splitmix import fold, uniforms
from distill_mtl.splits import SPLITS, Split
from distill_mtl.tasks.base import TaskKind

_TRIED = 4096  # steps whose rows are counted for each process

Answer = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W] in [0, 1] -> what a network answers, on the host."""


@dataclass(frozen=True)
class SourceSummary:
    """What the check prints of one source.

    Attributes:
        name: in the recipe.
        shards: files of all three sets.
        rows: of each set.
        labels: task -> member.
        labelled: training rows that keep their labels.
        labelled_share: of the source's rows in a batch, those that keep their labels, in (0, 1].
        small_classes: class -> rows, where `limit.per_class` asks for more.
        share: of a training batch, or of the steps where sources alternate, in [0, 1].
        hashed: the sets that were cut from the training shards by a hash of the key.
    """

    name: str
    shards: int
    rows: dict[Split, int]
    labels: dict[str, str]
    labelled: int
    labelled_share: float
    small_classes: dict[str, int]
    share: float
    hashed: tuple[Split, ...]

    @property
    def is_limited(self) -> bool:
        """Whether some of its training rows hide the labels that they carry."""
        return bool(self.labels) and self.labelled < self.rows["train"]


@dataclass(frozen=True)
class DataSettings:
    """What a recipe says about the rows of a run.

    Attributes:
        data: the data sets by name.
        seed: of the order of rows and of augmentation.
        batch_size: rows per training step.
        stream: how the data sets share the steps.
        views: of each row; None: a fresh one each epoch.
    """

    data: Mapping[str, SourceSection]
    seed: int = 0
    batch_size: int = 256
    stream: StreamSection = field(default_factory=StreamSection)
    views: int | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "DataSettings":
        """Those of a recipe."""
        training = recipe.training
        return cls(recipe.data, recipe.seed, training.batch_size, training.stream, recipe.targets.view_count)


class Sources:
    """The rows of all data sets: streamed for training, listed by task and set for everything else.

    Args:
        settings: seed, batch size, number of views and the stream's mode.
        sources: opened and limited, in the settings' order; a batch's `source` counts in it.
        kinds: every task of the recipe.
        size: height and width of the images.
        local: this process among those of this machine, one of which fetches shards for all.

    Attributes:
        names: of the sources.
        size: height and width of the images.
        batch_size: rows of a step.
        phase_length: steps that each source has whole batches for, turn by turn; None where every batch mixes
            all of them.
        lanes: that processes share, for sources that are read in windows; None: there are none.

    Raises:
        RecipeError: a source with class_balance has not exactly one class label.
    """

    def __init__(
        self,
        settings: DataSettings,
        sources: list[Source],
        kinds: Mapping[str, TaskKind],
        size: Size,
        *,
        local: ProcessShare = ALONE,
    ) -> None:
        self.names = tuple(source.name for source in sources)
        self.size = size
        self.batch_size = settings.batch_size
        self._sources, self._kinds, self._local = sources, kinds, local
        self._weights = [source.section.weight or float(np.sqrt(source.count("train"))) for source in sources]
        drawn = DrawnViews(sources, size, settings.seed, settings.views)
        self._reader = Reader(sources, kinds, size, settings.seed, drawn)
        lanes = settings.stream.lanes
        parts = [source_parts(settings.seed, source, kinds, lanes) for source in sources]
        windows = any(is_in_windows(source.section) and source.count("train") for source in sources)
        self.lanes = lanes if windows else None
        weighted = zip(self._weights, parts, strict=True)
        mixed = Quota([weight * part.share for weight, own in weighted for part in own], self.batch_size)
        self.phase_length: int | None = None
        self._quota: Quota | Alternating = mixed
        if settings.stream.mode == "alternate":
            self.phase_length = settings.stream.phase
            shares = [[part.share for part in own] for own in parts if own]
            self._quota = Alternating(shares, self.batch_size, self.phase_length)
        self._plan, self._mixed = (Plan(parts, quota, self.lanes) for quota in (self._quota, mixed))
        self._skipped: dict[str, set[str]] = {name: set() for name in self.names}
        self._answers: dict[str, Answer] = {}

    @property
    def opened(self) -> Sequence[Source]:
        """The data sets, in the order of their numbers."""
        return self._sources

    @property
    def training_views(self) -> TrainingViews:
        """Which view each training row gets."""
        return self._reader.views

    @property
    def picture_reader(self) -> Reader:
        """Reads rows without their labels; it may travel to other machines."""
        return self._reader.without_labels()

    def see_under(self, views: TrainingViews) -> None:
        """From now on training rows are seen under these views."""
        self._reader.views = views

    def augment_as(self, sections: Mapping[str, SourceSection]) -> None:
        """From now on training rows are augmented as these sections of the data sets say."""
        for source in self._sources:
            source.section = sections[source.name]

    def label_by(self, task: str, answer: "Answer") -> None:
        """From now on a network's answers are the labels of a task that no data set has labels for.

        Args:
            task: whose kind has `teacher_labels`.
            answer: images float [B, 3, H, W] in [0, 1] on the host -> labels [B, ...] on the host.
        """
        self._answers[task] = answer

    def stream(
        self,
        *,
        micro_batches: int = 1,
        share: ProcessShare = ALONE,
        start_step: int = 0,
        steps: int,
        workers: int = 0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Iterator[Batch]:
        """Batches under training views: `micro_batches` for each step from `start_step` to `steps` - 1.

        The rows of a step are the same however they are split over processes and micro-batches.

        Args:
            micro_batches: parts of this process's rows of a step.
            share: this process among all.
            start_step: the first step, 0 or where a run goes on.
            steps: of the whole run.
            workers: reader processes; 0 reads in this one.
            stopping: whether to wait no longer for a batch that reader processes are at.

        Raises:
            RecipeError: fewer rows in a batch than parts to share them.
            ShardError: a row cannot be read.
            Stopped: `stopping` came to be while a batch was due.
        """
        self.refuse_processes(share.world, micro_batches)
        batches = stream(
            self._plan,
            self._reader,
            range(start_step, steps),
            micro_batches=micro_batches,
            share=share,
            workers=workers,
            stopping=stopping,
        )
        fetched = self._fetching(batches, range(start_step, steps), micro_batches, share)
        return self._noting_skipped(fetched)

    def preview(self, *, micro_batches: int, steps: int) -> Iterator[Batch]:
        """Batches with rows of every source, the same on every process, to try and to calibrate on.

        They are the stream's first ones where it mixes the sources. Where sources alternate, its first
        batches would be of one source alone.

        Args:
            micro_batches: parts of a step's rows.
            steps: from the first.

        Raises:
            RecipeError: fewer rows in a batch than parts.
            ShardError: a row cannot be read.
        """
        self.refuse_processes(1, micro_batches)
        batches = stream(self._mixed, self._reader, range(steps), micro_batches=micro_batches)
        if not self._local.rank:
            with FetchAhead(
                coming_files(self._mixed, self._sources, range(steps), ALONE, self._local), 0
            ) as ahead:
                ahead.bring_first()
        return self._noting_skipped(batches)

    def phase(self, step: int) -> int:
        """The number of the phase that a step belongs to; 0 for all steps where every batch mixes the sources."""
        return self._quota.phase(step)

    def phase_begins(self, step: int) -> bool:
        """Whether step `step`, counted from 0, is the first of a phase; step 0 always is."""
        return step == 0 or self.phase(step) != self.phase(step - 1)

    def every_view(
        self,
        blocks: Sequence[tuple[int, Integers]],
        *,
        workers: int = 0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Iterator[EveryView]:
        """Rows under all their views, block after block; for a fixed number of views alone.

        Args:
            blocks: number of a source, and rows of it.
            workers: reader processes; 0 reads in this one.
            stopping: whether to wait no longer for a block that reader processes are at.

        Raises:
            ShardError: a row cannot be read.
            Stopped: `stopping` came to be while a block was due.
        """
        one_by_one = self._reader.one_view_by_one
        for seen in read_ahead(self._reader.every_view, blocks, workers, one_by_one, stopping):
            self._note(seen.skipped)
            yield seen

    def check_rows(self, workers: int) -> Iterator[RowsChecked]:
        """Every row of every set: read, compared with its checksums, decoded, with its labels."""
        return check_rows(self._sources, self._kinds, workers)

    def checksums(self) -> int:
        """How many rows have checksums."""
        return sum(source.checksums() for source in self._sources)

    def training_rows(self, picks: BatchRows) -> Batch:
        """A batch of just these rows, each in the view of its epoch.

        Raises:
            ShardError: a row cannot be read.
        """
        return self._reader.training(picks)

    def labelled(
        self,
        task: str,
        split: Split | None,
        batch_size: int,
        *,
        share: ProcessShare = ALONE,
        limit: int | None = None,
        only: Collection[str] | None = None,
        sources: Collection[str] | None = None,
    ) -> Iterator[Batch]:
        """The rows of a set that are labelled for `task`, under plain views, in shard order, with `groups`.

        Args:
            task: of the recipe; a batch holds its labels only.
            split: which set; None: all rows, whatever their set.
            batch_size: rows per batch, fewer in the last or where rows are skipped.
            share: this process's, of every world-th row.
            limit: at most this many rows, spread evenly over the set.
            only: the rows with these keys alone.
            sources: the rows of these data sets alone.

        The rows of a task that its teacher labels are those of all data sets.

        Raises:
            ShardError: a row cannot be read.
        """
        rows = self._labelled_rows(task, split, sources)
        places = None if only is None else np.flatnonzero(self._named(*rows.at(), only))
        if self._is_labelled_by_teacher(task):
            batches = self._plain(rows, places, None, batch_size, share, limit)
            return (self._answered(task, batch) for batch in batches)
        return self._plain(rows, places, task, batch_size, share, limit)

    @property
    def endings(self) -> frozenset[str]:
        """The members that rows have."""
        return frozenset[str]().union(*(source.endings for source in self._sources))

    def members(
        self, task: str, split: Split | None, members: Collection[str], sources: Collection[str] | None = None
    ) -> Iterator[RowMembers]:
        """What the rows that are labelled for a task carry in some members; no picture is read.

        Args:
            task, split, sources: which rows, as in `labelled`.
            members: file endings.

        Raises:
            ShardError: a row cannot be read.
        """
        source, row = self._labelled_rows(task, split, sources).at()
        for number in np.unique(source).tolist():
            yield from self._sources[number].members(row[source == number], members)

    def telling(self, task: str, known: Sequence[int] | None) -> list[str]:
        """The sources whose labels of a task tell of all of these classes; if there is none, of some of them.

        Args:
            task: of the recipe.
            known: positions of the classes; None: all.
        """
        kind = self._kinds[task]
        ground = getattr(kind, "background", None)
        asked = {*(known if known is not None else range(len(kind.classes)))} - {ground}
        told = {
            source.name: asked & {*kind.knows.get(source.name, asked)}
            for source in self._sources
            if task in source.labels or self._is_labelled_by_teacher(task)
        }
        return [name for name, classes in told.items() if classes == asked] or [
            name for name, classes in told.items() if classes
        ]

    def unlabelled(self, task: str) -> list[str]:
        """The sources that have no labels of a task."""
        if self._is_labelled_by_teacher(task):
            return []
        return [source.name for source in self._sources if task not in source.labels]

    def pictures(
        self,
        source: str,
        split: Split | None,
        batch_size: int,
        *,
        share: ProcessShare = ALONE,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """The rows of one source in a set, under plain views and without labels; arguments as in `labelled`."""
        number = self.names.index(source)
        rows = _Listed({number: self._sources[number].rows_by_shard(split)})
        return self._plain(rows, None, None, batch_size, share, limit)

    def _plain(
        self,
        rows: "_Listed",
        places: Integers | None,
        task: str | None,
        batch_size: int,
        share: ProcessShare,
        limit: int | None,
    ) -> Iterator[Batch]:
        """Batches of the rows at some places of a list, None: of all."""
        total = len(rows) if places is None else len(places)
        if limit is not None and limit < total:
            # One by lot of each stretch: classes that follow each other in turn must all come.
            borders = np.arange(limit + 1) * total // limit
            lot = uniforms(fold("limit", np.arange(limit)), 1)[:, 0]
            chosen = (borders[:-1] + (lot * np.diff(borders)).astype(np.int64))[share.rank :: share.world]
        else:
            chosen = np.arange(share.rank, total, share.world)
        source, row = rows.at(chosen if places is None else places[chosen])
        picks = BatchRows(source, np.zeros_like(row), row)
        parts = (picks[first : first + batch_size] for first in range(0, len(picks), batch_size))
        batches = (self._reader.plain(part, task) for part in parts)
        return (batch for batch in self._noting_skipped(batches) if len(batch))

    def count(self, task: str, split: Split | None, sources: Collection[str] | None = None) -> int:
        """Rows of a set, or of all, that carry a label member for `task`; of these data sets, if some are named."""
        return len(self._labelled_rows(task, split, sources))

    def rows(self, split: Split = "train") -> dict[str, int]:
        """Rows of each source in a set."""
        return {source.name: source.count(split) for source in self._sources}

    def steps_per_epoch(self, batch_size: int) -> float:
        """All training rows / `batch_size`."""
        return sum(self.rows().values()) / batch_size

    def covered_by_labels(self, task: str) -> bool:
        """Whether every row that the stream draws, of whatever source, has a label for `task`."""
        drawn = (source for source in self._sources if source.count("train"))
        return all(task in source.labels and labelled_share(source) == 1 for source in drawn)

    def hashed(self, task: str, split: Split = "test", sources: Collection[str] | None = None) -> bool:
        """Whether rows of this set of `task` were cut from training shards, so that its teacher may know them."""
        taught = self._is_labelled_by_teacher(task)
        return any(
            (taught or task in source.labels)
            and split in source.hashed
            and (sources is None or source.name in sources)
            for source in self._sources
        )

    @property
    def skipped(self) -> dict[str, int]:
        """Different rows of each source that could not be decoded and were replaced or left out so far."""
        return {name: len(keys) for name, keys in self._skipped.items()}

    def summary(self) -> list[SourceSummary]:
        """What the check prints, a line for each source."""
        weights = self._weights
        if self.phase_length is not None:
            weights = [float(source.count("train") > 0) for source in self._sources]
        return [
            SourceSummary(
                name=source.name,
                shards=len(source.shards),
                rows={split: source.count(split) for split in SPLITS},
                labels=source.labels,
                labelled=source.shown_count("train") if source.labels else 0,
                labelled_share=labelled_share(source),
                small_classes=small_classes(source, self._kinds),
                share=weight / sum(weights),
                hashed=tuple(split for split in SPLITS if split in source.hashed),
            )
            for source, weight in zip(self._sources, weights, strict=True)
        ]

    def _noting_skipped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._note(batch.skipped)
            yield batch

    def _fetching(
        self, batches: Iterator[Batch], steps: range, micro_batches: int, share: ProcessShare
    ) -> Iterator[Batch]:
        """The batches, while one process of each machine has the shards of the next ones fetched."""
        coming = coming_files(self._plan, self._sources, steps, share, self._local)
        if self._local.rank or not coming:
            yield from batches
            return
        with FetchAhead(coming, steps.start) as ahead:
            ahead.bring_first()
            for number, batch in enumerate(batches, 1):
                if number == 1:
                    ahead.start()
                yield batch
                ahead.at(steps.start + number // micro_batches)

    def streamed(self) -> dict[str, dict[str, str]]:
        """Source -> URL -> ETag of each shard that stays in a bucket."""
        return {source.name: source.store.states() for source in self._sources if source.store is not None}

    def _note(self, skipped: Sequence[str]) -> None:
        for key in skipped:
            self._skipped[key.split("/", 1)[0]].add(key)

    def refuse_processes(self, world: int, micro_batches: int) -> None:
        """Raise RecipeError where so many processes with so many micro-batches cannot share the rows of a step, and
        ShardError where a store does not hold the shards that those of this machine read at the same time."""
        refuse_small_stores(self._plan, self._sources, world, self._local)
        if self.batch_size < world * micro_batches:
            raise RecipeError(
                f"training.batch_size: {self.batch_size} rows cannot be shared by {world} processes with "
                f"{micro_batches} micro-batches each. Raise it, or lower training.accumulate."
            )
        if self.lanes is None or world == 1:
            return
        windowed = ", ".join(source.name for source in self._sources if is_in_windows(source.section))
        if self.lanes % world:
            raise RecipeError(
                f"training.stream.lanes: {self.lanes} lanes cannot be shared by {world} processes, and the rows of "
                f"{windowed} are read on lanes. Start {_divisors(self.lanes, world)} processes, or a new run with "
                f"training.stream.lanes={-(-self.lanes // world) * world}."
            )
        # Every source's counts repeat after a period, and where they alternate within a turn.
        turn = 1 if self.phase_length is None else self.phase_length * len(self._sources)
        fewest = self._plan.fewest(world, range(min(PERIOD * turn, _TRIED)))
        if fewest < micro_batches:
            raise RecipeError(
                f"training.batch_size: with {self.batch_size} rows on lanes, one of {world} processes may have "
                f"{fewest} in a step, for {micro_batches} micro-batches. Raise it, start fewer processes, or read "
                f"{windowed} with `order: rows`."
            )

    def refuse_empty_sets(self) -> None:
        """Raise ShardError for a task that has labels, but none for training, validation or test; where all its
        sources are for testing alone, for test."""
        for task in self._kinds:
            owners = [source for source in self._sources if task in source.labels]
            trained = any(source.section.shards is not None for source in owners)
            for split in SPLITS if trained else ("test",):
                if owners and not self.count(task, split):
                    raise ShardError(
                        f"data.{owners[0].name}: no {split} rows for the task {task}. 5 % of so few rows is less "
                        f"than one row. Name shards in data.{owners[0].name}.split.{split}."
                    )

    def _named(self, source: Integers, row: Integers, keys: Collection[str]) -> NDArray[np.bool_]:
        """bool [N]: which of the rows have one of the keys."""
        wanted = set(keys)
        found = np.zeros(len(row), np.bool_)
        for number in np.unique(source).tolist():
            mine = source == number
            found[mine] = [key in wanted for key in self._sources[number].keys(row[mine].tolist())]
        return found

    def _is_labelled_by_teacher(self, task: str) -> bool:
        return self._kinds[task].teacher_labels and all(task not in source.labels for source in self._sources)

    def _answered(self, task: str, batch: Batch) -> Batch:
        """Plain rows with the labels that the teacher gives them; without a teacher at hand with none."""
        if task in self._answers:
            labels = self._answers[task](batch.to("cpu").images)
        else:
            filler = self._kinds[task].filler(self.size)
            labels = filler.expand(len(batch), *filler.shape)
        labelled = torch.full((len(batch),), task in self._answers)
        return replace(batch, labels={task: labels}, labelled={task: labelled})

    def _labelled_rows(
        self, task: str, split: Split | None, sources: Collection[str] | None = None
    ) -> "_Listed":
        """Every row of a set, or of all, that is labelled for `task`, in a shard or by its teacher."""
        taught = self._is_labelled_by_teacher(task)
        return _Listed(
            {
                number: owner.rows_by_shard(split, shown=not taught)
                for number, owner in enumerate(self._sources)
                if (sources is None or owner.name in sources) and (taught or task in owner.labels)
            }
        )


class _Listed:
    """Rows of several sources, one source after the other; looked up are those that are asked for.

    Args:
        parts: number of a source -> its rows.
    """

    def __init__(self, parts: Mapping[int, RowsByShard]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def at(self, places: Integers | None = None) -> tuple[Integers, Integers]:
        """Source [P] and row [P] at some places [P], ascending; None: of all."""
        places = np.arange(len(self)) if places is None else places
        sources, rows, first = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for number, part in self._parts.items():
            low, high = np.searchsorted(places, (first, first + len(part)))
            rows.append(part.at(places[low:high] - first))
            sources.append(np.full(high - low, number))
            first += len(part)
        return np.concatenate(sources), np.concatenate(rows)


def _divisors(number: int, world: int) -> str:
    """The numbers nearest to `world` that divide another: "2 or 4"."""
    fitting = [each for each in range(1, number + 1) if number % each == 0]
    below, above = [each for each in fitting if each < world], [each for each in fitting if each > world]
    return " or ".join(map(str, below[-1:] + above[:1]))
