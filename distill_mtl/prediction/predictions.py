"""Pictures to decoded answers, in the order in which they were named; what cannot be read is an answer too."""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from distill_mtl.data.decode import read_image
from distill_mtl.errors import UserError, brief
from distill_mtl.evaluation.row_statistics import refuse_nan
from distill_mtl.geometry.views import Size, View, plain_view
from distill_mtl.networks.network import Network, Resize
from distill_mtl.prediction.named_pictures import Picture
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.teachers.load_teacher import kind_of, teacher_of

_READERS = 4


@dataclass(frozen=True)
class Prediction:
    """What a network answers about one picture.

    Attributes:
        key: of the picture.
        place: of the picture, for messages.
        size: its height and width.
        picture: uint8 [3, height, width], all of it.
        view: what the network was shown of it.
        image: uint8 [3, H, W], the same as pixels.
        logits: task -> [C] or [C, h, w], on the CPU.
        decoded: task -> answers by name, on the CPU, as the kind decodes them; places are in the whole picture.
    """

    key: str
    place: str
    size: Size
    picture: Tensor
    view: View
    image: Tensor
    logits: Mapping[str, Tensor]
    decoded: Mapping[str, Mapping[str, Tensor]]

    @property
    def cropped(self) -> bool:
        """Whether a part of the picture was not shown to the network."""
        return self.view.inside(self.size) != (0, 0, *self.size)


@dataclass(frozen=True)
class Unread:
    """A picture that could not be read.

    Attributes:
        key: of the picture.
        place: of the picture.
        reason: a text for the user.
    """

    key: str
    place: str
    reason: str


def answered_kinds(network: Network, only: Sequence[str] | None = None) -> dict[str, TaskKind]:
    """The kinds of the tasks that a network answers.

    Args:
        network: on the CPU.
        only: these tasks; None: all.

    Raises:
        UserError: it has no such task, or a kind of the user's own is not trusted or not found.
    """
    kinds = {}
    for task in network.only(only):
        kind = kind_of(teacher_of(network, task))
        described = network.tasks[task].described
        kinds[task] = build_kind(**described) if described else kind
    return kinds


def predictions(
    network: Network,
    kinds: Mapping[str, TaskKind],
    pictures: Sequence[Picture],
    *,
    batch_size: int = 16,
    resize: Resize | None = None,
) -> Iterator[Prediction | Unread]:
    """One answer per picture, in their order. No answer depends on the batch size, but for rounding.

    Args:
        network: on its device.
        kinds: from `answered_kinds`.
        pictures: to be read.
        batch_size: pictures that run together.
        resize: what the network sees of a picture; None: as in its evaluation.

    Raises:
        UserError: an answer is NaN.
    """
    named = iter(pictures)
    for read in read_ahead(pictures, batch_size):
        batch = [next(named) for _ in read]
        images = [image for image in read if isinstance(image, Tensor)]
        views = [_view(image, network.inputs.size, resize or network.resize) for image in images]
        shown = [
            view.image(image, (view.height, view.width)) for view, image in zip(views, images, strict=True)
        ]
        places = [
            picture.place for picture, image in zip(batch, read, strict=True) if isinstance(image, Tensor)
        ]
        answered = zip(_answered(network, kinds, shown, views, images, places), views, shown, strict=True)
        for picture, image in zip(batch, read, strict=True):
            if isinstance(image, str):
                yield Unread(picture.key, picture.place, image)
            else:
                (logits, decoded), view, frame = next(answered)
                size = (image.shape[1], image.shape[2])
                yield Prediction(picture.key, picture.place, size, image, view, frame, logits, decoded)


Answered = tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]


@torch.no_grad()
def _answered(
    network: Network,
    kinds: Mapping[str, TaskKind],
    shown: Sequence[Tensor],
    views: Sequence[View],
    images: Sequence[Tensor],
    places: Sequence[str],
) -> list[Answered]:
    """Logits and decoded answers of each image, which was read from its place."""
    if not shown:
        return []
    logits = network.logits(shown, kinds)
    found: list[Answered] = []
    for row, (view, image) in enumerate(zip(views, images, strict=True)):
        decoded = {}
        for task, kind in kinds.items():
            refuse_nan("network", task, logits[task][row][None], places[row : row + 1])
            answers = kind.decode(logits[task][row][None], (view.height, view.width))
            whole = (image.shape[1], image.shape[2])
            decoded[task] = kind.to_picture(
                {name: each[0].cpu() for name, each in answers.items()}, view, whole
            )
        found.append(({task: logits[task][row].cpu() for task in kinds}, decoded))
    return found


def _view(image: Tensor, shape: Size, resize: Resize) -> View:
    """The part of the picture that the network sees, in the picture's own pixels: it resizes by itself."""
    return plain_view((image.shape[1], image.shape[2]), shape, resize)


def read_ahead(pictures: Sequence[Picture], batch_size: int) -> Iterator[list[Tensor | str]]:
    """Batches of images uint8 [3, H, W] in the pictures' order, or why there is none; the next is read meanwhile."""
    waiting = iter(pictures)
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: deque[list[Future[Tensor | str]]] = deque()
        while True:
            if batch := [pool.submit(_read, picture) for picture in islice(waiting, batch_size)]:
                ahead.append(batch)
            if not ahead:
                return
            if len(ahead) == 2 or not batch:
                yield [future.result() for future in ahead.popleft()]


def _read(picture: Picture) -> Tensor | str:
    try:
        return read_image(picture.read(), os.path.splitext(picture.place)[1][1:])
    except (ValueError, UserError) as error:
        return brief(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror or brief(error)})"
