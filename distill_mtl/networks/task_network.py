"""One task of a trained network, whatever it was read from: images in, named features and logits out.

`Network.head` makes it; teachers ask it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import itemgetter
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from distill_mtl.networks.backbone import LOGITS, POOLED, Backbone
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.modes import evaluating


class AnswerKind(Protocol):
    """What a network must know of the kind of task that it answers; every `TaskKind` says it."""

    @property
    def exclusive(self) -> bool:
        """Whether it decides between classes, so that the answer is their softmax."""

    def are_probabilities(self, answer: Tensor) -> bool:
        """Whether an answer to random pictures [R, C, ...] can only be probabilities."""

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Logits that mean the same as the probabilities [R, C, ...]. Raises UserError: this kind has none."""


def two_classes(logit: Tensor) -> Tensor:
    """The logit of the second of two classes [R, 1, ...] -> logits of both [R, 2, ...].

    The first is 0, so that their softmax is the logit's sigmoid.
    """
    return torch.cat([torch.zeros_like(logit), logit], 1)


class TaskNetwork(nn.Module, ABC):
    """Images [R, 3, H, W] in [0, 1] of any size -> features by name, `logits` among them.

    A pass has two halves, so that the tasks of one file can share the first: `run`, then `read`.

    Attributes:
        last_map: name of the default hint layer; None where the network gives its answer alone.
        width: number of logits, or of channels of a map of them.
        dense: the logits are maps.
        one_logit: the network gives one logit, or one probability, where the kind decides between classes. It is
            the second of two classes (`two_classes`).
        answer: name of the output that answers the task.
        gives: what the answer is as the network gives it; probabilities are turned into logits, boxes are packed
            (`boxes.as_answer`).
        path: which path through the files' network the trunk is, where tasks part in it; networks of other paths do
            not join. None: all tasks read one trunk.
    """

    last_map: str | None
    width: int
    dense: bool
    one_logit: bool = False
    answer: str = LOGITS
    gives: Literal["logits", "probabilities", "boxes"] = "logits"
    path: str | None = None

    @property
    @abstractmethod
    def inputs(self) -> InputContract:
        """What the network wants to see."""

    @property
    @abstractmethod
    def shapes(self) -> Mapping[str, FeatureShape]:
        """Shape of every feature that can be read without tapping more, by name."""

    def know_classes(self, count: int | None) -> None:
        """How many classes files and recipe say, for a network whose outputs do not.

        Raises:
            UserError: nobody says it, and it must be known.
        """

    def read_as(self, kind: AnswerKind) -> None:
        """From now on the answer is one of this kind of task: probabilities are found out and turned into its logits,
        and a single logit into those of two classes where the kind decides between classes.

        Raises:
            UserError: the recipe says that the answer is probabilities, and this kind has none.
        """

    def _two_where_one(self, kind: AnswerKind, channels: int) -> None:
        """Set `one_logit` and `width` for an answer of this kind with so many channels."""
        self.one_logit = kind.exclusive and channels == 1
        self.width = 2 if self.one_logit else channels

    @abstractmethod
    def tap(self, layers: Sequence[str]) -> None:
        """Make forward passes return these features besides the logits; replaces earlier ones.

        Raises:
            UserError: no such layer, or its output is neither a map, tokens nor a vector.
        """

    @abstractmethod
    def tapping(self, layers: Sequence[str]) -> AbstractContextManager[None]:
        """For the block a pass gives these features; then it gives the earlier ones again.

        What networks of the same trunk read is left to them.
        """

    @abstractmethod
    def layer_names(self) -> list[str]:
        """Every name that `tap` knows."""

    @abstractmethod
    def features(self) -> dict[str, FeatureShape]:
        """Every feature that can be a hint, with its shape, in the order they run."""

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Everything that the network returns by itself, and the shape of each for one image."""

    @property
    @abstractmethod
    def answer_features(self) -> tuple[str, ...]:
        """Names of the features that the answer is made from; none where the network does not give them."""

    @abstractmethod
    def with_inputs(self, inputs: InputContract) -> "TaskNetwork":
        """The same network, weights shared, behind another input contract; it gives its logits alone."""

    @property
    @abstractmethod
    def trunk(self) -> nn.Module:
        """What `run` runs; networks that share it are one file seen from several tasks."""

    @abstractmethod
    def join(self, other: "TaskNetwork") -> None:
        """Use the other's trunk from now on, which then gives what both read.

        Args:
            other: of the same type, files, path and input contract.
        """

    @abstractmethod
    def pixels(self, images: Tensor) -> Tensor:
        """Images [R, 3, H, W] in [0, 1] as the trunk takes them."""

    @abstractmethod
    def run_pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        """The trunk's pass: everything that is read from it, by name, first dimension R."""

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """The trunk's pass, from images [R, 3, H, W] in [0, 1] of any size."""
        return self.run_pixels(self.pixels(images))

    @abstractmethod
    def read(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits and tapped features, maps [R, C, h, w] or vectors [R, C], from what `run` gave."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits and tapped features."""
        return self.read(self.run(images))


class BackboneNetwork(TaskNetwork):
    """A network by timm's conventions, or a trunk of ours, with one head.

    Args:
        backbone: images to named features, preprocessing included.
        head: named features to logits; a module, or a function without parameters.
        needs: names of the features that the head reads.
        width: number of logits.
        dense: the logits are maps.
        path: see `TaskNetwork`.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Callable[[Mapping[str, Tensor]], Tensor],
        needs: Sequence[str],
        *,
        width: int,
        dense: bool,
        path: str | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.backbone, self.head, self.needs = backbone, head, tuple(needs)
        self.width, self.dense, self._channels = width, dense, width
        self.last_map = backbone.last
        self._layers: tuple[str, ...] = ()
        self.tap(())

    def giving(self, feature: str) -> "BackboneNetwork":
        """The same network with an inner feature as its answer.

        Raises:
            UserError: there is no such layer, or its output cannot be read.
        """
        self.backbone.tap((feature,))
        shape = self.backbone.shapes[feature]
        dense = shape.size is not None
        return BackboneNetwork(
            self.backbone, itemgetter(feature), (feature,), width=shape.channels, dense=dense, path=self.path
        )

    @property
    def inputs(self) -> InputContract:
        return self.backbone.inputs

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return self.backbone.shapes

    def read_as(self, kind: AnswerKind) -> None:
        self._two_where_one(kind, self._channels)

    def tap(self, layers: Sequence[str]) -> None:
        self._layers = tuple(layers)
        self.backbone.tap((*self.needs, *layers))

    @contextmanager
    def tapping(self, layers: Sequence[str]) -> Iterator[None]:
        mine, everybodys = self._layers, self.backbone.returns
        try:
            self._layers = tuple(layers)
            self.backbone.tap((*everybodys, *layers))
            yield
        finally:
            self._layers = mine
            self.backbone.tap(everybodys)

    def layer_names(self) -> list[str]:
        return self.backbone.layer_names()

    def features(self) -> dict[str, FeatureShape]:
        return self.backbone.features()

    @property
    @torch.no_grad()
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        black = torch.zeros(1, 3, *self.inputs.size, device=self.backbone.preprocess.mean.device)
        with evaluating(self):
            return {LOGITS: tuple(self.head(self.run(black)).shape[1:])}

    @property
    def answer_features(self) -> tuple[str, ...]:
        return (POOLED,) if self.needs == (LOGITS,) else self.needs

    def with_inputs(self, inputs: InputContract) -> "BackboneNetwork":
        backbone = Backbone(self.backbone.model, inputs)
        twin = BackboneNetwork(
            backbone, self.head, self.needs, width=self._channels, dense=self.dense, path=self.path
        )
        twin.one_logit, twin.width = self.one_logit, self.width
        return twin

    @property
    def trunk(self) -> nn.Module:
        return self.backbone

    def join(self, other: TaskNetwork) -> None:
        assert isinstance(other, BackboneNetwork)
        self.backbone = other.backbone
        self.backbone.tap((*other.backbone.returns, *self.needs, *self._layers))

    def run(self, images: Tensor) -> dict[str, Tensor]:
        return self.backbone(images)

    def pixels(self, images: Tensor) -> Tensor:
        return self.backbone.preprocess(images)

    def run_pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        return self.backbone.read(pixels)

    def read(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answer = self.head(features)
        logits = two_classes(answer) if self.one_logit else answer
        return {LOGITS: logits} | {layer: features[layer] for layer in self._layers}
