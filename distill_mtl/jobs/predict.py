"""`distill-mtl predict`: a network's answers about pictures, to the console or to files."""

import io
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from typing import Literal, TextIO

import torch
from accelerate import PartialState
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from distill_mtl.display import Display, messages, output
from distill_mtl.errors import UserError
from distill_mtl.files import atomic_file, refuse_unwritable
from distill_mtl.jobs.arguments import as_names, refuse_below
from distill_mtl.networks.modes import usable_device
from distill_mtl.networks.opening import open_network
from distill_mtl.prediction.answer_parts import Answerer, answer_part, cut_into_parts
from distill_mtl.prediction.named_pictures import FoundPictures, Picture, find_pictures
from distill_mtl.prediction.outputs import (
    Answered,
    AnswerTable,
    JsonLines,
    MapFiles,
    Output,
    mask_files,
    overlay_files,
    refuse_full_disks_of,
)
from distill_mtl.prediction.predictions import Unread, answered_kinds
from distill_mtl.ray_tasks import RayCluster, connect
from distill_mtl.recipe.schema import StoreSize, bytes_of

_NAMED = 20  # pictures at the end


def predict(
    network: str,
    images: Sequence[str],
    *,
    json: Path | str | None = None,
    masks: Path | None = None,
    overlays: Path | None = None,
    only: str | Sequence[str] | None = None,
    top: int = 1,
    resize: Literal["crop", "pad", "squash"] | None = None,
    image: str = "jpg;jpeg;png;webp",
    batch_size: int = 16,
    device: str | None = None,
    trust: bool = False,
    store: str | None = None,
    ray: str | None = None,
    console: Console | None = None,
) -> list[Unread]:
    """Answer all tasks for your pictures.

    Print or write a network's decoded answers of all tasks for each picture. Without --json, --masks and --overlays:
    a table on a terminal, JSON lines elsewhere. More: docs/predict.md.

    Args:
        network (NETWORK): a run folder, a student folder, or whatever `teacher:` takes in a recipe: a timm folder,
            hf_hub:owner/name, a .onnx, .xml, .tflite, .pte, .pt2 or .ts file, or several keys as YAML:
            '{path: net.onnx, input: {size: 64}}'
        images (IMAGE ...): pictures, folders of them (at any depth), or shards, also in a bucket ('s3://b/pets-*.tar').
        json (FILE): write a JSON object per picture; - for standard output.
        masks (FOLDER): write answers with a place in the picture (classes per pixel, depth, normals, boxes) as label
            files, in the form that shards hold.
        overlays (FOLDER): write pictures with the answers drawn over them.
        only (A,B): these tasks; default all.
        top (K): number of classes in an answer, likeliest first.
        resize: how a picture is fitted to the network's input: crop (its centre), pad (all of it, with black bars) or
            squash (all of it, stretched); default as in the network's evaluation.
        image (MEMBERS): file endings of the picture in a shard, the first found wins.
        batch_size (N): pictures per batch.
        device: cpu, cuda, cuda:1, mps; default the accelerator, where there is one.
        trust: let it run code: .pt2 and .ts files and your own kinds of task are programs.
        store (SIZE): leave shards in their bucket, where indexes lie beside them (distill-mtl index), and hold at most
            so much of them on the disk: 50GB. Default: copy all of them to the cache folder first.
        ray (ADDRESS): let a Ray cluster answer, some hundred pictures at a time: auto (the cluster of this machine),
            HOST:PORT of its head node, or local (start one here). All nodes must see network and pictures under the
            same paths, or shards in a bucket with --store.
        console: where progress and what could not be read are shown; default standard error.

    Returns:
        The pictures that could not be read.

    Raises:
        UserError: the network cannot be opened, nothing is there to look at, or an output cannot be written.
        KeyboardInterrupt: interrupted: label files and overlays that were finished stay, and --json FILE is not there.

    Examples:
        a table; a line of JSON for each picture; label files, and pictures to look at; an exported file, on shards; a
        bucket, by a cluster:
          distill-mtl predict runs/scenes photo.jpg
          distill-mtl predict runs/scenes photos --json answers.jsonl
          distill-mtl predict runs/scenes photos --masks masks --overlays overlays
          distill-mtl predict student.onnx 'shards/pets-{000..009}.tar' --only breed
          distill-mtl predict runs/scenes 's3://b/pets-*.tar' --store 50GB --ray auto --json answers.jsonl

        Exit status 2 where a picture could not be read: it is named, the answers about all others are written.
    """
    refuse_below(1, top=top, batch_size=batch_size)
    lines = None if json is None or str(json) == "-" else Path(json)
    if lines is not None:
        refuse_unwritable(lines, "--json")
    for option, folder in (("--masks", masks), ("--overlays", overlays)):
        if folder is not None:
            refuse_unwritable(folder, option, folder=True)
    if ray is not None and device is not None:
        raise UserError(
            "--device: with --ray the cluster decides where the network runs. Remove one of them."
        )
    errors, room = console or messages(), None if store is None else _bytes(store)
    with ExitStack() as files:
        cluster = None if ray is None else files.enter_context(connect(ray))
        where = _device(device) if cluster is None else torch.device("cpu")
        opened = open_network(network, trust=trust)
        kinds = answered_kinds(opened, as_names(only))
        opened.to(where)
        found = find_pictures(images, image, store=room)
        stream = sys.stdout if lines is None else _opened(lines, files)
        outputs = list[Output]()
        if masks is not None:
            outputs.append(MapFiles(masks, "--masks", kinds, found.pictures, mask_files))
        if overlays is not None:
            outputs.append(MapFiles(overlays, "--overlays", kinds, found.pictures, overlay_files))
        if json is not None or (not outputs and not sys.stdout.isatty()):
            outputs.append(JsonLines(stream, top, lines if _is_plain(lines) else None))
        outputs = outputs or [AnswerTable(output(), kinds, top)]
        bar = files.enter_context(Display(errors, "prediction", len(found.pictures), unit="image"))
        unread, cropped = list[Unread](), 0
        makes = [each.make for each in outputs]
        answerer = Answerer(opened, kinds, makes, batch_size=batch_size, resize=resize)
        answers = (
            answerer.answers(found.pictures)
            if cluster is None
            else files.enter_context(closing(_by(cluster, answerer, found.pictures, batch_size)))
        )
        first = list(islice(answers, batch_size))
        refuse_full_disks_of(outputs, first, len(found.pictures))
        for done, answer in enumerate(chain(first, answers), start=1):
            if answer.unread is not None:
                unread.append(Unread(answer.key, answer.place, answer.unread))
                errors.print(f"{answer.place}: {answer.unread}", style="red", markup=False, soft_wrap=True)
            cropped += answer.cropped
            for each, content in zip(outputs, answer.contents, strict=True):
                each.put(answer.key, content)
            bar.update(done)
    for each in outputs:
        each.finish()
    _conclude(errors, found, unread, cropped)
    return unread


def _by(
    cluster: RayCluster, answerer: Answerer, pictures: Sequence[Picture], batch_size: int
) -> Generator[Answered, None, None]:
    """The answers of a cluster, in the order of the pictures."""
    parts = cut_into_parts(pictures, batch_size, gpus=cluster.gpus)
    run = cluster.run(answer_part, answerer, parts, name=str, needs_gpu=lambda part: part.gpu, in_order=True)
    with closing(run) as done:
        for _, answers in done:
            yield from answers


def _bytes(size: str) -> int:
    try:
        return bytes_of(TypeAdapter(StoreSize).validate_python(size))
    except ValidationError:
        raise UserError(f"--store {size}: expected a number and a unit: 50GB, 800MB.") from None


def _is_plain(path: Path | None) -> bool:
    """Whether it is a file on a disk, or will be; not a device or a pipe."""
    return path is not None and (path.is_file() or not path.exists())


def _opened(path: Path, files: ExitStack) -> TextIO:
    """The file for JSON lines, which appears whole once `files` are closed."""
    file = files.enter_context(atomic_file(path))
    return files.enter_context(io.TextIOWrapper(file, encoding="utf-8"))


def _conclude(errors: Console, found: FoundPictures, unread: Sequence[Unread], cropped: int) -> None:
    """What the answers do not show: cropped pictures, files left out, pictures that could not be read."""
    if cropped:
        were, whole = ("picture was", "picture") if cropped == 1 else ("pictures were", "pictures")
        errors.print(
            f"{cropped:,} {were} cropped to the network's input. Use --resize squash for the whole {whole}.",
            soft_wrap=True,
        )
    for what, count in sorted(found.left_out.items()):
        errors.print(f"left out: {count:,} {what}", markup=False, soft_wrap=True)
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
