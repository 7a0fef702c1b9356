"""A kind of task: everything that differs between, say, classification and depth.

One file per kind derives from `TaskKind` (or `AdditiveKind`, where scores follow from sums over rows) and registers
itself under the name that a recipe uses. The rest of the program uses this interface only: it never asks which kind
it holds. A user's own kind, `my_tasks:Angle`, is known under that very name once `import_kind` has imported it.
"""

import inspect
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, a_few, nearest
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.recipe.schema import DEEPEST, WIDEST
from distill_mtl.registry import Registry, import_class
from distill_mtl.tasks.json_values import plain_values
from distill_mtl.tasks.label import LabelForm
from distill_mtl.tasks.maps import map_size, resized

_NEEDED = ("member", "metrics")  # attributes that have no default
_LONGEST = 500  # letters of a class's name
_ROWS_AT_ONCE = 32  # each is weighed in turn, so that memory grows with their square

KINDS: Registry[type["TaskKind"]] = Registry("kind of task", "distill_mtl.tasks")


@dataclass(frozen=True)
class HeadShape:
    """How large a head is. None: what the kind thinks best.

    Attributes:
        width: channels inside.
        depth: layers inside: convolutions of a decoder, linear layers on a pooled vector.
    """

    width: int | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        """Raises UserError for a size that no head has, wherever it is from."""
        for name, most in (("width", WIDEST), ("depth", DEEPEST)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 < value <= most):
                raise UserError(
                    f"head.{name} is {value!r}, expected a whole number greater than 0 and at most {most}."
                )

    def given(self) -> dict[str, int]:
        """What is not left to the kind."""
        return {name: value for name, value in asdict(self).items() if value is not None}


DEFAULT_HEAD = HeadShape()
"""A head as its kind thinks best."""


class Truth(NamedTuple):
    """What is known about the rows with a teacher's target.

    Attributes:
        labels: [R, ...], as `read_label` and `transform_label` give them; a filler where a row has none.
        labelled: bool [R].
    """

    labels: Tensor
    labelled: Tensor


class Legend(NamedTuple):
    """What the colours of a picture mean (`Shown.legend`), or of all pictures of a kind (`TaskKind.legend`).

    Attributes:
        colors: name -> (red, green, blue), 0 to 255; empty where no colour stands for a name.
        note: how to read what is not a list of names, and the unit of captions; or nothing.
    """

    colors: Mapping[str, tuple[int, int, int]] = {}
    note: str = ""


class Shown(NamedTuple):
    """A label or an answer for people.

    Attributes:
        picture: uint8 [3, H, W]; None for what words say best.
        caption: a few words, or nothing.
        legend: of this picture: what is there, on its own scale.
        over_image: the picture shows the image itself, with something drawn on it.
    """

    picture: Tensor | None
    caption: str = ""
    legend: Legend = Legend()
    over_image: bool = False


class TaskKind(LabelForm):
    """One kind of task, for one list of classes; what it knows of labels on disk is in `LabelForm`.

    Losses and statistics are *per row*: the caller takes the mean over the rows of the step's global
    batch, so that no number depends on how the batch was split over processes or micro-batches.
    A dense row's loss is a mean over its pixels. Everything is computed in float32 whatever the
    precision of the logits; gradients reach the student's logits alone.

    "Classes" are the names of what is answered: of classes, attributes, numbers, or things to find. "Logits"
    are what the head gives, whatever the kind makes of them.

    Attributes:
        name: the kind, as the recipe and results.json call it.
        metrics: names of the scores this kind can report; the first is the default.
        lower_is_better: the scores among them that are errors.
        unit_metrics: the scores among them that are measured in the labels' own unit, each an error. All others
            are in points of 100, or in degrees.
        additive: scores follow from summed statistics, so that rows of a group may be summed first.
        exclusive: a row (or pixel) is of one class, so that answers are a softmax over dim 1 of the logits.
        dense: the head answers with a map.
        precise: logits are values that half the bits would spoil (12345.6), so a cache keeps them in fp32.
        settled_options: options that are `auto` until `options_from` finds them.
        teacher_labels: where no data set has labels of the task, its teacher's answers are its labels.
        takes_boxes: a teacher may answer with scored boxes (`networks.boxes`) in place of logits.
        partial: a teacher may know some of the classes only; `keep_known_classes` says what it is scored on.
        by_class: several teachers, and data sets, may know different classes (`class_view.ClassView`).
        fewest_classes: that make sense.
        output_options: options that decide what the outputs of a network stand for; `class_for` gives the class that
            knows them.
        head_options: options that a head computes its logits with, so that its weights mean nothing under others.
        metric: the score that this task reports.
        shape: of the head.
    """

    metrics: ClassVar[tuple[str, ...]]
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    unit_metrics: ClassVar[frozenset[str]] = frozenset()
    additive: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False
    dense: ClassVar[bool] = False
    precise: ClassVar[bool] = False
    settled_options: ClassVar[tuple[str, ...]] = ()
    teacher_labels: ClassVar[bool] = False
    takes_boxes: ClassVar[bool] = False
    partial: ClassVar[bool] = False
    by_class: ClassVar[bool] = False
    fewest_classes: ClassVar[int] = 1
    output_options: ClassVar[tuple[str, ...]] = ()
    head_options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, classes: tuple[str, ...], metric: str | None = None, *, head: HeadShape = DEFAULT_HEAD
    ) -> None:
        """Raises UserError for a list of classes or a metric that this kind cannot work with."""
        if self.fixed_classes is not None and classes != self.fixed_classes:
            raise UserError(
                f"a {self.name} task answers {', '.join(self.fixed_classes)} and nothing else. Remove `classes`."
            )
        if len(classes) < self.fewest_classes:
            least = "one class" if self.fewest_classes == 1 else "two classes"
            raise UserError(f"a {self.name} task needs at least {least}, found {list(classes)}.")
        if repeated := sorted(name for name, count in Counter(classes).items() if count > 1):
            raise UserError(f"class names must differ, found more than once: {a_few(repeated)}.")
        if long := next((name for name in classes if len(name) > _LONGEST), None):
            raise UserError(
                f"the name of a class has {len(long):,} letters, at most {_LONGEST} are taken: {long[:40]}…"
            )
        if metric is not None and metric not in self.metrics:
            known = ", ".join(self.metrics)
            hint = nearest(metric, self.metrics)
            raise UserError(f"unknown metric '{metric}' of kind {self.name}.{hint} Known: {known}.")
        self.classes = classes
        self.metric = metric or self.metrics[0]
        self.shape = head

    @property
    def higher_is_better(self) -> bool:
        """Direction of the score."""
        return self.metric not in self.lower_is_better

    @property
    def perfect(self) -> float:
        """The score of a network that makes no mistake."""
        return 100.0 if self.higher_is_better else 0.0

    @property
    def in_points(self) -> bool:
        """Whether a difference of 1 in the score means something without knowing the labels' unit."""
        return self.metric not in self.unit_metrics

    @property
    def options_on_labelled_rows(self) -> tuple[str, ...]:
        """Options in use that change nothing but on rows with both a label and a teacher's answer."""
        return ()

    @property
    def unsettled(self) -> bool:
        """Whether options are missing that `options_from` finds."""
        return False

    def options_from(self, answers: Iterable[Tensor]) -> dict[str, Any]:
        """Options that follow from a teacher's answers to training pictures, such as their mean; here none.

        Args:
            answers: logits [R, ...] of some rows each, on the host.

        Raises:
            UserError: the answers say nothing.
        """
        return {}

    # ---- the network ------------------------------------------------------------------------------
    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type["TaskKind"]:
        """The class of a task with these options, at least those in `output_options`: its class methods know them.

        Raises:
            UserError: an invalid value.
        """
        return cls

    @classmethod
    def classes_of(cls, outputs: int) -> int:
        """How many classes a network with so many outputs (channels of its answer) answers; below 1: none."""
        return outputs

    @property
    def outputs(self) -> int:
        """Channels of the logits; those of the classes come first."""
        return len(self.classes)

    @abstractmethod
    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        """Names of the trunk's features that this kind's head reads. Raises UserError if it has none."""

    @abstractmethod
    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        """A light head: forward(features by name) -> logits."""

    @classmethod
    def are_probabilities(cls, answer: Tensor) -> bool:
        """Whether a teacher's answer to random pictures [R, C, ...] can only be probabilities."""
        return False

    @classmethod
    def logits_of(cls, probabilities: Tensor) -> Tensor:
        """Logits that mean the same as the probabilities [R, C, ...] that a teacher gives.

        Raises:
            UserError: answers of this kind are not probabilities.
        """
        raise UserError(f"answers of kind {cls.name} are not probabilities. Use `output: {{gives: logits}}`.")

    # ---- losses -----------------------------------------------------------------------------------
    @abstractmethod
    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """float32 [R], one loss per row."""

    def labels_of_classes(self, labels: Tensor, known: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Labels [R, ...] as labels of a task that has some of the classes only (`class_view.ClassView`).

        Args:
            labels: as `transform_label` and `within` give them.
            known: positions of these classes, ascending.

        Returns:
            The labels, and bool [R]: those that say something.
        """
        raise UserError(f"a task of kind {self.name} is not learned class by class.")

    def average(self, answers: Sequence[Tensor], shares: Tensor, temperature: float) -> Tensor:
        """The logits of several teachers' softened answers together; here the mean of their values.

        Args:
            answers: of M teachers that know the same classes, [R, ...], maps perhaps of different sizes.
            shares: float [M, R] that sum to 1 over the teachers.
            temperature: softens answers that are probabilities: what is averaged is softened, and the logits that
                are returned say it at this temperature.
        """
        return (torch.stack(self.alike(answers)) * by_row(shares, answers[0].ndim)).sum(0)

    def sureness(self, logits: Tensor) -> Tensor | None:
        """float [R], larger for answers that are surer; None: answers of this kind do not say how sure they are."""
        return None

    def alike(self, answers: Sequence[Tensor]) -> list[Tensor]:
        """Answers as float32, maps of different sizes resized to the largest of them."""
        sizes = {tuple(answer.shape[2:]) for answer in answers}
        if len(sizes) == 1:
            return [answer.float() for answer in answers]
        return [
            resized(answer.float(), map_size(max(answers, key=lambda one: one.numel()))) for answer in answers
        ]

    @abstractmethod
    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        """float32 [R], one divergence per row, 0 where both agree, never below.

        Args:
            logits: the student's.
            teacher_logits: the teacher's, maps perhaps of another size.
            temperature: divides the logits where they are some; the loss is multiplied by its square.
            truth: what labels say about the same rows, for losses that ask; None: nothing.
        """

    # ---- what a user gets -------------------------------------------------------------------------
    @abstractmethod
    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """The answers a user of the model wants, by name; `size` is the height and width of the image."""

    def to_picture(self, decoded: Mapping[str, Tensor], view: View, picture: Size) -> dict[str, Tensor]:
        """Answers about a view as answers about the picture that it was cut from, without resizing or mirroring.

        As they are here, which is right for answers that no pixel belongs to.

        Args:
            decoded: of one row, from `decode` at the view's own height and width; no dimension for the batch.
            view: box in pixels of the picture, beyond its border where that was padded.
            picture: height and width of the picture.
        """
        return dict(decoded)

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """One row's answers in plain values that JSON knows, numbers that are not finite as None.

        Here all vectors and scalars as they are; of maps only the shape.

        Args:
            decoded: of one row, from `decode` or `to_picture`; no dimension for the batch.
            top: number of likeliest classes in the answer, if the kind ranks them.
        """
        return {
            name: plain_values(value) if value.ndim < 2 else {"shape": list(value.shape)}
            for name, value in decoded.items()
        }

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        """One label, as `transform_label` gives it, for people; `image` is uint8 [3, H, W]."""
        return Shown(None, ", ".join(str(value) for value in label.flatten().tolist()[:4]))

    @abstractmethod
    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        """The logits of one row, [C] or [C, h, w], for people; `image` is uint8 [3, H, W]."""

    def legend(self) -> Legend:
        """How to read any picture of `show_label` and `show_answer`, where many stand side by side; by default there
        is nothing to say."""
        return Legend()

    # ---- scores -----------------------------------------------------------------------------------
    @abstractmethod
    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """float64 [R, K] on the CPU: all that `score` needs to know about each row."""

    @abstractmethod
    def score(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        """The metric.

        Args:
            statistics: [R, K]; sums of some rows' where the kind is additive.
            weights: [S, R], how often each row counts; None: once.

        Returns:
            float64 [S], or [] without weights.
        """

    def row_scores(self, statistics: Tensor) -> Tensor:
        """float64 [R]: the metric of each row alone, or, where that says nothing, its like in the same direction."""
        some = statistics.split(_ROWS_AT_ONCE)
        return torch.cat([self.score(rows, torch.eye(len(rows), dtype=torch.float64)) for rows in some])

    def class_scores(self, statistics: Tensor) -> Tensor | None:
        """float64 [C]: the metric of each class, NaN for one without a label; None: the metric has no classes."""
        return None

    def correct_rows(self, statistics: Tensor) -> Tensor | None:
        """bool [R], where the metric is the share of right rows; None: it is another."""
        return None

    def may_differ(self, logits: Tensor, other: Tensor) -> Tensor | None:
        """bool [R]: the rows of which one network can be right and the other wrong, whatever the label turns out to be.

        None: the metric is not the share of right rows (`correct_rows`), so that each row may matter.
        """
        return None

    def calibration(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """What `metrics.calibration_error` needs, summed over the rows; None: answers carry no confidence."""
        return None

    @abstractmethod
    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """float64 [R] on the CPU, in [0, 1]: how far two networks decide alike on each row."""

    def decisions(self, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """What is decided, int64 [R, ...], and how surely: float32 of the same shape, a distance between logits.

        None: answers are numbers, among which nothing is decided; `agreement` says when two are alike.
        """
        if not self.exclusive:
            return None
        two = logits.float().topk(2, dim=1).values
        return logits.argmax(dim=1), two[:, 0] - two[:, 1]

    @abstractmethod
    def label_counts(self, labels: Tensor) -> Tensor:
        """float64 [K] on the CPU, summed over the rows: all that `constant_score` needs; the first ones are
        how often each class is the label, where the kind is exclusive."""

    @abstractmethod
    def constant_score(self, counts: Tensor) -> float:
        """The score of the best answer that never looks at the image, from summed `label_counts`."""

    def describe(self) -> dict[str, Any]:
        """What config.json of a student folder keeps: `build_kind(**kind.describe())` is this kind again."""
        entry: dict[str, Any] = {"kind": self.name, "classes": list(self.classes), "metric": self.metric}
        if self.shape.given():
            entry["head"] = self.shape.given()
        return entry


class AdditiveKind(TaskKind):
    """A kind whose statistics may be summed before they are scored."""

    additive = True

    def score(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.score_totals(statistics.sum(0) if weights is None else weights @ statistics)

    def row_scores(self, statistics: Tensor) -> Tensor:
        return self.score_totals(statistics)

    @abstractmethod
    def score_totals(self, totals: Tensor) -> Tensor:
        """The metric from summed statistics [..., K] -> [...]."""


def by_row(shares: Tensor, dimensions: int) -> Tensor:
    """[M, R] as [M, R, 1, ...], beside M stacked answers of so many dimensions."""
    return shares.view(*shares.shape, *[1] * (dimensions - 1))


def build_kind(
    kind: str,
    classes: Sequence[str] = (),
    metric: str | None = None,
    head: Mapping[str, int] | None = None,
    **options: Any,
) -> TaskKind:
    """The kind of task that a recipe or a student folder names.

    Args:
        kind: its name.
        classes: names of what is answered; empty: the kind's own.
        metric: None for the kind's first.
        head: width and depth of the head.
        options: of the kind.

    Raises:
        UserError: unknown kind, metric or option, or a value that the kind refuses.
    """
    cls = KINDS[kind]
    known = [name for name in inspect.signature(cls).parameters if name not in ("classes", "metric", "head")]
    for option in options:
        if option not in known:
            hint = nearest(option, known)
            raise UserError(
                f"unknown option '{option}' of kind {kind}.{hint} Known: {', '.join(known) or 'none'}."
            )
    named = tuple(classes) or cls.fixed_classes or ()
    built = cls.class_for(options)
    if not issubclass(built, cls):
        raise UserError(
            f"kind {kind} derives from a kind whose `class_for` gives {built.__name__}, not {cls.__name__}. Define "
            f"`class_for` in {cls.__name__}."
        )
    return built(named, metric=metric, head=HeadShape(**(head or {})), **options)


def kinds_by_member() -> dict[str, list[str]]:
    """File ending in a shard -> the kinds of task that have it as their label, a user's own kinds last."""
    owners: dict[str, list[str]] = {}
    for name in sorted(KINDS.names(), key=is_user_kind):
        for ending in KINDS[name].endings():
            owners.setdefault(ending, []).append(name)
    return owners


def named_classes(classes: Sequence[str]) -> tuple[str, ...] | None:
    """The classes, or None where they are mere numbers in order, which name nothing."""
    return None if list(classes) == [str(index) for index in range(len(classes))] else tuple(classes)


def output_options_in(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a kind's options that decide what the outputs of a network stand for."""
    return {name: options[name] for name in KINDS[kind].output_options if name in options}


def is_user_kind(kind: str) -> bool:
    """Whether a kind's name is that of a user's class."""
    return ":" in kind


def import_kind(kind: str, *, trust: bool, say: str) -> None:
    """Import a user's kind, so that `KINDS` knows it; nothing for any other, or one imported before.

    Args:
        kind: as a recipe or a student's folder names it.
        trust: whether its code may run.
        say: the option that says so, for the message.

    Raises:
        UserError: it is not trusted, there is no such class, or the class is not a complete kind of task.
    """
    if not is_user_kind(kind) or kind in KINDS.names():
        return
    if not trust:
        raise UserError(
            f"{kind} is code, which runs with all your rights on this machine. If you trust its origin, "
            f"write {say}."
        )
    KINDS.register(kind)(_import(kind))


def _import(kind: str) -> type[TaskKind]:
    found = import_class(kind, TaskKind, "kind of task")  # type: ignore[type-abstract]
    missing = [*sorted(found.__abstractmethods__), *(key for key in _NEEDED if not hasattr(found, key))]
    if inspect.isabstract(found) or missing:
        raise UserError(f"{kind} lacks what every kind of task has: {', '.join(missing)}.")
    found.name = kind
    return found
