"""`distill-mtl predict`: a network's answers about pictures, to the console or to files."""

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console

from distill_mtl.display import Display, output
from distill_mtl.errors import UserError, brief
from distill_mtl.files import atomic_file, refuse_folder
from distill_mtl.networks.modes import usable_device
from distill_mtl.networks.network import Resize
from distill_mtl.networks.opening import open_network
from distill_mtl.prediction.named_pictures import MEMBERS, Found, find_pictures
from distill_mtl.prediction.outputs import AnswerTable, JsonLines, Masks, Output, Overlays
from distill_mtl.prediction.predictions import Unread, answered_kinds, predictions
from distill_mtl.tasks.base import TaskKind

_NAMED = 20  # pictures at the end


@dataclass(frozen=True)
class Options:
    """What the command line says besides network and pictures.

    Attributes:
        only: tasks; None: all.
        json: file of JSON lines; `-` is standard output.
        masks: folder of label files.
        overlays: folder of pictures.
        top: likeliest classes that are told.
        resize: what the network sees of a picture; None: as in its evaluation.
        members: file endings of the picture in a shard.
        batch_size: pictures that run together.
        device: None: the accelerator, where there is one.
        trust: let programs and a user's own kinds of task run code.
    """

    only: Sequence[str] | None = None
    json: Path | None = None
    masks: Path | None = None
    overlays: Path | None = None
    top: int = 1
    resize: Resize | None = None
    members: str = MEMBERS
    batch_size: int = 16
    device: str | None = None
    trust: bool = False


def predict(place: str, images: Sequence[str], options: Options) -> int:
    """Write the answers about all pictures that can be read.

    Args:
        place: of the network, as `open_network` takes it.
        images: as `find_pictures` takes them.
        options: of the command line.

    Returns:
        How many pictures could not be read. Each was named on standard error.

    Raises:
        UserError: the network cannot be opened, nothing is there to look at, or an output cannot be written.
    """
    if options.json is not None:
        refuse_folder(options.json, "--json")
    device = _device(options.device)
    network = open_network(place, trust=options.trust)
    kinds = answered_kinds(network, options.only)
    network.to(device)
    found, errors = find_pictures(images, options.members), Console(stderr=True, highlight=False)
    unread, cropped = list[Unread](), 0
    with ExitStack() as files:
        outputs = _outputs(kinds, found, options, files)
        bar = files.enter_context(Display(errors, "prediction", len(found.pictures), unit="image"))
        answers = predictions(
            network, kinds, found.pictures, batch_size=options.batch_size, resize=options.resize
        )
        for done, answer in enumerate(answers, start=1):
            if isinstance(answer, Unread):
                unread.append(answer)
                errors.print(f"{answer.place}: {answer.reason}", style="red", markup=False, soft_wrap=True)
            else:
                cropped += answer.cropped
            for each in outputs:
                each.add(answer)
            bar.update(done)
    for each in outputs:
        each.finish()
    _conclude(errors, found, unread, cropped)
    return len(unread)


def _outputs(kinds: Mapping[str, TaskKind], found: Found, options: Options, files: ExitStack) -> list[Output]:
    """What was asked for; else a table on a terminal, and JSON lines in a pipe or a file."""
    chosen = list[Output]()
    if options.masks is not None:
        chosen.append(Masks(options.masks, kinds, found.pictures))
    if options.overlays is not None:
        chosen.append(Overlays(options.overlays, kinds, found.pictures))
    if options.json is not None and str(options.json) != "-":
        try:
            file = files.enter_context(atomic_file(options.json))
            stream = files.enter_context(io.TextIOWrapper(file, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--json {options.json} cannot be written: {brief(error)}.") from error
        chosen.append(JsonLines(stream, kinds, options.top))
    elif options.json is not None or (not chosen and not sys.stdout.isatty()):
        chosen.append(JsonLines(sys.stdout, kinds, options.top))
    return chosen or [AnswerTable(output(), kinds, options.top)]


def _conclude(errors: Console, found: Found, unread: Sequence[Unread], cropped: int) -> None:
    """What the answers do not say."""
    if cropped:
        were, them = ("picture was", "it") if cropped == 1 else ("pictures were", "them")
        errors.print(
            f"{cropped:,} {were} cropped to what the network sees; --resize squash shows it all of {them}.",
            soft_wrap=True,
        )
    for ending, count in sorted(found.left_out.items()):
        errors.print(f"{count:,} files are no pictures and were left out: {ending}")
    if unread:
        names = ", ".join(each.key for each in unread[:_NAMED]) + (", …" if len(unread) > _NAMED else "")
        errors.print(
            f"{len(unread):,} of {len(found.pictures):,} images could not be read: {names}",
            style="red",
            markup=False,
            soft_wrap=True,
        )


def _device(name: str | None) -> torch.device:
    if name is not None:
        return usable_device(name, "--device")
    device: torch.device = PartialState().device
    return device
