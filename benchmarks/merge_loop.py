"""The rival of the merge bench: a short training loop in plain torch, as a practitioner would write it.

SGD with Nesterov momentum and a one-cycle rate (AdamW for transformers), bf16 where it is faster, pad-crop and flips,
the sum of the tasks' losses, and plain distillation (T = 4) on the rows that lack a label. The network is our student
class and the losses are the tasks' own, so that it is scored by the very same code.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.nn import functional as F

from distill_mtl.data import Sources
from distill_mtl.data.batch import ALONE
from distill_mtl.students.student import Student
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

Labels = dict[str, tuple[Tensor, Tensor]]
"""Task -> the rows of the batch that have its label, int64 [R], and these labels [R, ...]."""
Batches = Iterator[tuple[Tensor, Labels]]
"""Images uint8 [B, 3, H, W], and labels."""


@dataclass(frozen=True)
class LoopSettings:
    """How the loop trains.

    Attributes:
        steps: of the optimizer.
        rate: the highest one.
        optimizer: sgd, adamw, or timm's muon.
        bf16: whether student and teachers run under bf16 autocast.
        seed: of the order of rows and of their views.
        temperatures: task -> of its soft targets; 4 where it is not named.
        everywhere: teachers speak about rows with a label too.
    """

    steps: int
    rate: float
    optimizer: str = "sgd"
    bf16: bool = False
    seed: int = 0
    temperatures: Mapping[str, float] | None = None
    everywhere: bool = False


def train(
    student: Student, teachers: Mapping[str, Teacher], batches: Batches, settings: LoopSettings
) -> None:
    """Train the student in place; without teachers on labels alone."""
    step = loop_step(student, teachers, settings)
    student.train()
    for _, (images, labels) in zip(range(settings.steps), batches, strict=False):
        step(images, labels)


def loop_step(
    student: Student, teachers: Mapping[str, Teacher], settings: LoopSettings
) -> Callable[[Tensor, Labels], None]:
    """One step of the loop."""
    parameters = list(student.to(memory_format=torch.channels_last).parameters())
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, settings.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    elif settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, settings.rate, weight_decay=0.05)
    else:
        optimizer = create_optimizer_v2(student, settings.optimizer, settings.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps + 1)
    temperatures = settings.temperatures or {}

    def step(images: Tensor, labels: Labels) -> None:
        images = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        losses = []
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            answers = student(images)
            for task, kind in student.kinds.items():
                rows, truth = labels.get(task, (torch.zeros(0, dtype=torch.long), None))
                if truth is not None and len(rows):
                    losses.append(kind.supervised_loss(answers[task][rows], truth).mean())
                others = torch.ones(len(images), dtype=torch.bool)
                if not settings.everywhere:
                    others[rows] = False
                if task in teachers and others.any():
                    target = teachers[task](images[others]).logits
                    temperature = temperatures.get(task, 4.0)
                    losses.append(kind.soft_target_loss(answers[task][others], target, temperature).mean())
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()

    return step


@dataclass(frozen=True)
class Pool:
    """Rows with labels for the same tasks, in memory.

    Attributes:
        images: uint8 [N, 3, H, W].
        labels: task -> [N, ...].
        crop, flip: whether its pictures may be moved and mirrored.
    """

    images: Tensor
    labels: Mapping[str, Tensor]
    crop: bool
    flip: bool

    def draw(self, rows: Tensor, padding: Mapping[str, Tensor], chance: torch.Generator) -> "Pool":
        """Some rows: moved by up to an eighth after padding with black, and half of them mirrored."""
        images, labels = self.images[rows], {task: label[rows] for task, label in self.labels.items()}
        if self.crop:
            height, width = images.shape[-2:]
            moves = [
                torch.randint(-(n // 8), n // 8 + 1, (len(rows),), generator=chance) for n in (height, width)
            ]
            images = moved(images, *moves, 0)
            labels = {
                task: moved(label, *moves, int(padding[task])) if task in padding else label
                for task, label in labels.items()
            }
        if self.flip:
            mirrored = torch.rand(len(rows), generator=chance) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
            for task in padding.keys() & labels.keys():
                labels[task][mirrored] = labels[task][mirrored].flip(-1)
        return Pool(images, labels, self.crop, self.flip)


def moved(maps: Tensor, down: Tensor, right: Tensor, padding: int) -> Tensor:
    """Each map of [N, ..., H, W] moved by its own number of pixels [N]; what comes in from outside is `padding`."""
    height, width = maps.shape[-2:]
    rows = torch.arange(height)[None] - down[:, None]
    columns = torch.arange(width)[None] - right[:, None]
    outside = ((rows < 0) | (rows >= height))[:, :, None] | ((columns < 0) | (columns >= width))[:, None]
    flat = maps.reshape(len(maps), -1, height, width)
    index = torch.arange(len(maps))[:, None, None]
    taken = flat.transpose(0, 1)[
        :, index, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    ]
    return taken.masked_fill(outside, padding).transpose(0, 1).reshape(maps.shape)


def pools(sources: Sources, kinds: Mapping[str, TaskKind], *, unlabelled: bool) -> list[Pool]:
    """All training rows in memory, those with and those without labels apart.

    Args:
        sources: opened; their labels are hidden where the recipe limits them.
        kinds: the tasks.
        unlabelled: keep the rows without any label of these tasks.
    """
    found = []
    for source in sources.opened:
        if not source.count("train"):
            continue
        images, keys = [], list[str]()
        for batch in sources.pictures(source.name, "train", 1000):
            images.append(batch.images)
            keys += batch.keys
        place = {key: number for number, key in enumerate(keys)}
        augment, everything = source.section.augment, torch.cat(images)
        labels: dict[str, Tensor] = {}
        labelled = torch.zeros(len(keys), dtype=torch.bool)
        for task in kinds.keys() & source.labels.keys():
            for batch in sources.labelled(task, "train", 1000):
                rows = batch.labelled[task].nonzero().flatten()
                at = torch.tensor([place[batch.keys[row]] for row in rows.tolist()], dtype=torch.long)
                label = batch.labels[task]
                whole = labels.setdefault(task, label.new_zeros((len(keys), *label.shape[1:])))
                whole[at] = label[rows]
                labelled[at] = True
        crop, flip = augment.crop is not None, augment.flip
        if labelled.any():
            known = {task: label[labelled] for task, label in labels.items()}
            found.append(Pool(everything[labelled], known, crop, flip))
        if unlabelled and not labelled.all():
            found.append(Pool(everything[~labelled], {}, crop, flip))
    return found


def in_memory(found: Sequence[Pool], kinds: Mapping[str, TaskKind], batch_size: int, seed: int) -> Batches:
    """Batches with an equal share of every pool, each in a new order in every pass over it."""
    chance = torch.Generator().manual_seed(seed)
    fillers = {task: kind.filler((1, 1)).flatten()[0] for task, kind in kinds.items()}
    padding = {
        task: fillers[task] for task, kind in kinds.items() if kind.filler((8, 8)).shape[-2:] == (8, 8)
    }
    orders = [endless(len(pool.images), chance) for pool in found]
    step = 0
    while True:
        shares = [(step + number) % len(found) < batch_size % len(found) for number in range(len(found))]
        parts = [
            pool.draw(order(batch_size // len(found) + more), padding, chance)
            for pool, order, more in zip(found, orders, shares, strict=True)
        ]
        starts = torch.tensor([0, *(len(part.images) for part in parts)]).cumsum(0).tolist()
        labels: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for part, start in zip(parts, starts, strict=False):
            for task, label in part.labels.items():
                rows = torch.arange(start, start + len(label))
                labels.setdefault(task, []).append((rows, label))
        joined = {
            task: (torch.cat([rows for rows, _ in some]), torch.cat([label for _, label in some]))
            for task, some in labels.items()
        }
        yield torch.cat([part.images for part in parts]), joined
        step += 1


def endless(rows: int, chance: torch.Generator) -> Callable[[int], Tensor]:
    """Gives the next so many rows of an order that is drawn anew for every pass."""
    order = torch.zeros(0, dtype=torch.long)

    def take(count: int) -> Tensor:
        nonlocal order
        while len(order) < count:
            order = torch.cat([order, torch.randperm(rows, generator=chance)])
        taken, order = order[:count], order[count:]
        return taken

    return take


def recipe_views(sources: Sources, steps: int, kinds: Mapping[str, TaskKind]) -> Batches:
    """The batches of our own stream: its rows, and the recipe's views of them."""
    for batch in sources.stream(micro_batches=1, share=ALONE, start_step=0, steps=steps, workers=0):
        rows = {task: batch.labelled[task].nonzero().flatten() for task in kinds}
        yield batch.images, {task: (at, batch.labels[task][at]) for task, at in rows.items()}


def bf16_is_faster(student: Student, size: tuple[int, int], rows: int) -> bool:
    """Whether a step of the student takes a tenth less time in bf16 on this machine."""
    images = torch.rand(rows, 3, *size).contiguous(memory_format=torch.channels_last)
    student = student.to(memory_format=torch.channels_last).train()
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(5):
        for low, seconds in taken.items():
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                answers = student(images)
            torch.stack([F.relu(answer.float()).sum() for answer in answers.values()]).sum().backward()
            seconds.append(time.process_time() - start)
    return min(taken[True]) < 0.9 * min(taken[False])
