"""A trained network, opened by `open_network` (opening.py), whatever form it was saved in.

It says what it wants to see and which tasks it answers, and answers them for pictures or batches. `head` gives one
task of it as a network of its own: that is what a teacher is made of.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.task_network import BackboneNetwork, TaskNetwork
from distill_mtl.networks.weights import RecordedScore
from distill_mtl.recipe.schema import TeacherSection

Resize = Literal["crop", "pad", "squash"]
"""What a network sees of a picture of another shape: its largest centred part of the network's shape, all of it with
black beside it, or all of it stretched."""


EMBEDDING = "embedding"
"""The kind of task that learns a network's features."""


@dataclass(frozen=True)
class TaskOutput:
    """What a network's files say of one task that it answers.

    Attributes:
        form: what it is read from, such as "an ONNX file".
        kind: of the task; None where the files do not say it.
        classes: in the order of the logits, numbers where they have no names; None where the files do not say them.
        described: keyword arguments of `build_kind`, where distill_mtl wrote the files; else empty.
        score: what the files record about its quality, if anything.
    """

    form: str
    kind: str | None = None
    classes: tuple[str, ...] | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    score: RecordedScore | None = None

    @classmethod
    def of_entry(
        cls, form: str, entry: Mapping[str, Any], score: RecordedScore | None = None
    ) -> "TaskOutput":
        """From what `TaskKind.describe` gave. Raises KeyError or TypeError for anything else."""
        return cls(form, entry["kind"], tuple(map(str, entry["classes"])), dict(entry), score)


@dataclass(frozen=True)
class NetworkFiles:
    """Where a trained network lies: files that can be hashed before they are opened.

    Attributes:
        section: how a recipe names it.
        place: the folder or file of that name, on this machine.
        files: what decides the answers, weights first.
        program: what of it is code that would run ("a TorchScript archive"); None where it is data alone.
        opener: opens it.
    """

    section: TeacherSection
    place: Path
    files: tuple[Path, ...]
    program: str | None
    opener: Callable[["NetworkFiles"], "Network"]

    def open(self) -> "Network":
        """Load the network, onto the CPU.

        Raises:
            UserError: it is broken, incomplete, or does not fit its description.
        """
        return self.opener(self)


class Network:
    """Pictures -> logits by task.

    Args:
        source: its files.
        inputs: what it wants to see.
        tasks: by name; where the files name no task, the only one, under the name of its file.
        view: makes the network of one task; those of all tasks of one path have one trunk in common.
        names_tasks: the names are the files' own.
        told: keys of `inputs` that the files contain.
        assumed: keys of `inputs` that neither the files nor the recipe say, and that matter.
        trunk: what `student` would say in a recipe to get the same trunk; None where it is not known.
        resize: what evaluation showed it of a picture of another shape.
        any_size: it takes pictures of any size in [0, 1] (or bytes), and resizes and normalises them by itself.
    """

    def __init__(
        self,
        source: NetworkFiles,
        inputs: InputContract,
        tasks: Mapping[str, TaskOutput],
        view: Callable[[str], TaskNetwork],
        *,
        names_tasks: bool = True,
        told: Iterable[str] = (),
        assumed: Iterable[str] = (),
        trunk: Mapping[str, Any] | None = None,
        resize: Any = None,
        any_size: bool = False,
    ) -> None:
        self.source, self.inputs, self.tasks, self.names_tasks = source, inputs, dict(tasks), names_tasks
        self.told, self.assumed, self.trunk = tuple(told), tuple(assumed), trunk
        self.resize: Resize = resize if resize in ("crop", "pad") else "squash"
        self.any_size, self.device = any_size, torch.device("cpu")
        self._view, self._heads = view, dict[str, TaskNetwork]()

    def head(self, task: str) -> TaskNetwork:
        """The network of one task, on the network's device."""
        if task not in self._heads:
            device = self.device
            self.to(torch.device("cpu"))  # where a trunk is first looked at
            head = self._view(task).eval()
            self._share(head)
            self._heads[task] = head
            self.to(device)
        return self._heads[task]

    def with_inputs(self, inputs: InputContract) -> "Network":
        """The same network behind another input contract."""
        twin = copy.copy(self)
        twin.inputs, twin.any_size, twin._heads = inputs, False, {}
        twin._view = lambda task: self._view(task).with_inputs(inputs)
        return twin

    def giving(self, feature: str) -> "Network":
        """The network whose answer is an inner feature, for tasks that learn it; of several tasks the first one's path,
        or that of the task which the recipe names.

        Args:
            feature: `pooled`, or the dotted name of a layer.

        Raises:
            UserError: there is no such layer, or it gives neither a map, tokens nor a vector.
        """
        named = self.source.section.task
        task = self.choose(named, next(iter(self.tasks))) if named is not None else next(iter(self.tasks))

        head = self._view(task)
        assert isinstance(head, BackboneNetwork)
        giving = head.giving(feature)
        output = TaskOutput(
            f"feature '{feature}' of {self.tasks[task].form}", EMBEDDING, described={"map": giving.dense}
        )
        return Network(
            self.source,
            self.inputs,
            {task: output},
            lambda _: giving,
            names_tasks=self.names_tasks,
            told=self.told,
            assumed=self.assumed,
            trunk=self.trunk,
            resize=self.resize,
        )

    def tap(self, task: str, layers: Sequence[str]) -> None:
        """Let the head of a task give these features too; the other heads go on reading theirs."""
        head = self.head(task)
        head.tap(layers)
        self._share(head)

    def to(self, device: torch.device) -> "Network":
        """Move the network. Raises UserError where the form cannot work there."""
        self.device = device
        for head in self._heads.values():
            head.to(device)
        return self

    def choose(self, asked: str | None, default: str) -> str:
        """One task of the network; see `chosen_task`.

        Raises:
            UserError: there is no such task.
        """
        if self.names_tasks:
            return chosen_task(self.source.place, list(self.tasks), asked, default)
        if asked is not None:
            raise UserError(
                f"{self.source.place} does not name its tasks, so it has no task '{asked}'. Remove `task`; "
                "`output: {name: ...}` chooses an output of a file."
            )
        return next(iter(self.tasks))

    def only(self, asked: Sequence[str] | None) -> list[str]:
        """The tasks of these names, in the network's order; None: all.

        Raises:
            UserError: there is no such task.
        """
        for task in asked or ():
            if task not in self.tasks:
                raise no_such_task(self.source.place, task, list(self.tasks))
        return [task for task in self.tasks if asked is None or task in asked]

    @torch.no_grad()
    def logits(self, pictures: Sequence[Tensor], tasks: Iterable[str]) -> dict[str, list[Tensor]]:
        """Task -> the logits of each picture, [C] or [C, h, w], on `device`.

        Args:
            pictures: uint8 [3, H, W], of any sizes; each is resized alone.
            tasks: of the network.
        """
        heads = {task: self.head(task) for task in tasks}
        first = next(iter(heads.values()))
        pixels = [self._pixels(first, picture.to(self.device)) for picture in pictures]
        found = {task: [torch.empty(0)] * len(pictures) for task in heads}
        together: dict[torch.Size, list[int]] = defaultdict(list)
        for row, image in enumerate(pixels):
            together[image.shape].append(row)
        for rows in together.values():
            batch = torch.stack([pixels[row] for row in rows])
            features: dict[int, dict[str, Tensor]] = {}
            for task, head in heads.items():
                if id(head.trunk) not in features:
                    features[id(head.trunk)] = head.run_pixels(batch)
                answers = head.read(features[id(head.trunk)])[LOGITS]
                for row, logits in zip(rows, answers.unbind(), strict=True):
                    found[task][row] = logits
        return found

    def _pixels(self, head: TaskNetwork, picture: Tensor) -> Tensor:
        """A picture, resized for the network."""
        if self.any_size and self.inputs.dtype == "uint8":
            return picture
        image = picture.float() / 255
        return image if self.any_size else head.pixels(image[None])[0]

    def _share(self, head: TaskNetwork) -> None:
        """Make the trunk of all heads of its path return what each of them reads."""
        for other in self._heads.values():
            if other is not head and other.path == head.path:
                other.join(head)


def chosen_task(place: Path, tasks: Sequence[str], asked: str | None, default: str) -> str:
    """One task of several, by name.

    Args:
        place: of the network, for the message.
        tasks: that it answers.
        asked: which was asked for by name; None: the one called `default`, or the only one.
        default: the task that it is to answer.

    Raises:
        UserError: there is no such task.
    """
    wanted = asked or (default if default in tasks or len(tasks) > 1 else tasks[0])
    if wanted not in tasks:
        raise no_such_task(place, wanted, tasks)
    return wanted


def no_such_task(place: Path, task: str, tasks: Sequence[str]) -> UserError:
    """The error for a network that lacks a task."""
    return UserError(
        f"{place} has no task '{task}'.{nearest(task, tasks)} Its tasks: {', '.join(tasks)}. Choose one with "
        "`teacher: {path: ..., task: NAME}` (on the command line: --task NAME, or --only NAME)."
    )
