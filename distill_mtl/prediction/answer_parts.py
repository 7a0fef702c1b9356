"""Pictures answered in the form in which outputs write them: here one after the other, or in parts by a cluster.

An `Answerer` travels without its network. The process that works on a part opens it once, and answers with the
`predictions` that a single process uses.
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distill_mtl.errors import UserError
from distill_mtl.networks.network import Network, Resize
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.weights import sha256
from distill_mtl.prediction.named_pictures import Picture
from distill_mtl.prediction.outputs import Answered, Make
from distill_mtl.prediction.predictions import answered_kinds, predictions
from distill_mtl.tasks.base import TaskKind

_PICTURES = 256  # of a part, about


@dataclass(frozen=True)
class PicturePart:
    """Pictures that follow each other.

    Attributes:
        first: the number of the first, from 1 on.
        pictures: at least one.
        gpu: whether the network runs on a GPU.
    """

    first: int
    pictures: Sequence[Picture]
    gpu: bool

    def __str__(self) -> str:
        return f"pictures {self.first:,} to {self.first + len(self.pictures) - 1:,}"


def cut_into_parts(pictures: Sequence[Picture], batch_size: int, *, gpus: bool) -> list[PicturePart]:
    """Parts of whole batches, so that the same pictures run together however many processes there are."""
    size = batch_size * max(1, _PICTURES // batch_size)
    return [
        PicturePart(first + 1, pictures[first : first + size], gpus)
        for first in range(0, len(pictures), size)
    ]


class Answerer:
    """Answers pictures with a network, for some outputs.

    Args:
        network: on its device.
        kinds: of its tasks that are asked for.
        makes: of the outputs.
        batch_size: pictures that run together.
        resize: what the network sees of a picture; None: as in its evaluation.
    """

    def __init__(
        self,
        network: Network,
        kinds: Mapping[str, TaskKind],
        makes: Sequence[Make],
        *,
        batch_size: int,
        resize: Resize | None,
    ) -> None:
        self._opened: tuple[Network, Mapping[str, TaskKind]] | None = (network, kinds)
        self._section, self._files, self._tasks = network.source.section, network.source.files, list(kinds)
        self._makes, self._batch_size, self._resize = makes, batch_size, resize
        self._hashes: list[str] = []

    def answers(self, pictures: Sequence[Picture]) -> Iterator[Answered]:
        """One for each picture, in their order.

        Raises:
            UserError: as `predictions`; an answer is no label.
        """
        assert self._opened is not None
        network, kinds = self._opened
        found = predictions(network, kinds, pictures, batch_size=self._batch_size, resize=self._resize)
        return (Answered.of(kinds, answer, self._makes) for answer in found)

    def open(self, device: torch.device) -> None:
        """Open the network in a process that the answerer has travelled to, once.

        Raises:
            UserError: it is not there, or is another one.
        """
        if self._opened is not None:
            return
        network = open_network(self._section)
        for path, expected in zip(network.source.files, self._hashes, strict=True):
            if (found := sha256(path)) != expected:
                raise UserError(
                    f"{path} (sha256 {found[:8]}) is another file there than on the machine that started (sha256 "
                    f"{expected[:8]}). Put it into a folder that every node sees under this path."
                )
        kinds = answered_kinds(network, self._tasks)
        network.to(device)
        self._opened = network, kinds

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_hashes": [sha256(path) for path in self._files]}


def answer_part(answerer: Answerer, part: PicturePart) -> list[Answered]:
    """The answers of a part, in a process of a cluster.

    Raises:
        UserError: the pictures or the network are not there, or another network is.
    """
    file = part.pictures[0].file
    if file is not None and not os.path.exists(file):
        raise UserError(
            f"{file} is not on {socket.gethostname()}. Put the pictures into a folder that every node sees under this "
            "path, or shards into a bucket (--store)."
        )
    answerer.open(torch.device("cuda" if part.gpu else "cpu"))
    return list(answerer.answers(part.pictures))
