"""Live teachers: they run during training, on the rows that need a target."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from distill_mtl.data.batch import Batch
from distill_mtl.targets.provider import Rows, TargetProvider, only, seen, union_of
from distill_mtl.teachers.shared_trunks import by_trunk
from distill_mtl.teachers.teacher import Teacher, TeacherOutput

_Weights = tuple[nn.Module, Mapping[str, nn.Parameter]]
ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights autocast rounds in every pass."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LiveTeachers(TargetProvider):
    """Runs each teacher on its rows of a batch; teachers of one trunk run it once.

    Args:
        teachers: by name.
        on: which rows get a target.
        precisions: name of a teacher -> fp32, bf16 or fp16; what is not named runs in fp32. Teachers of one trunk that
            differ run in fp32.
        compiled: teachers whose networks go through torch.compile.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        on: Rows = "missing",
        *,
        precisions: Mapping[str, str] | None = None,
        compiled: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__({name: teacher.known for name, teacher in teachers.items()}, on)
        self.teachers = {name: teachers[name] for name in self.names}
        self._groups = by_trunk(self.teachers)
        self._precisions = dict(precisions or {})
        self._rounded: dict[tuple[str, torch.device], RoundedWeights] = {}
        self._compiled = compiled
        # How many rows need a teacher changes from step to step, so one compiled form must do for all.
        self._runs: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {}
        for group in self._groups:
            run = next(iter(group.values())).network.run
            self._runs |= dict.fromkeys(
                group, torch.compile(run, dynamic=True) if compiled & set(group) else run
            )

    def everything(self, images: Tensor, tasks: Iterable[str]) -> dict[str, TeacherOutput]:
        """The answers of some teachers about every image [B, 3, H, W] in [0, 1]."""
        wanted, every = set(tasks), torch.arange(len(images))
        outputs: dict[str, TeacherOutput] = {}
        for group in self._groups:
            mine = dict.fromkeys((task for task in group if task in wanted), every)
            outputs |= self.together(images, mine) if mine else {}
        return outputs

    def ask(self, task: str, batch: Batch, rows: Tensor | None = None) -> TeacherOutput:
        return self.together(batch.images, {task: torch.arange(len(batch)) if rows is None else rows})[task]

    @torch.no_grad()
    def together(self, images: Tensor, rows: Mapping[str, Tensor]) -> dict[str, TeacherOutput]:
        """The answers of teachers that share one trunk, on the images' device.

        Args:
            images: float [B, 3, H, W] in [0, 1].
            rows: task -> int64 [R] on the host, ascending, R at least 1.
        """
        first = next(iter(rows))
        union = union_of(rows)
        place = self.teachers[first].fixed_device or images.device
        dtype = self._dtype(rows)
        low = dtype != torch.float32
        with torch.autocast(place.type, dtype=dtype if low else None, enabled=low):
            with self._rounded_weights(first, place, dtype):
                features = self._runs[first](seen(images, union).to(place, non_blocking=True))
            return {
                task: self.teachers[task].read(only(features, union, mine)).to(images.device)
                for task, mine in rows.items()
            }

    def to(self, device: torch.device | str) -> "LiveTeachers":
        """Move every teacher to `device`, but for those with a fixed device."""
        for teacher in self.teachers.values():
            teacher.to(device)
        return self

    def _answers(self, batch: Batch, rows: Mapping[str, Tensor]) -> dict[str, TeacherOutput]:
        outputs: dict[str, TeacherOutput] = {}
        for group in self._groups:
            mine = {task: rows[task] for task in group if task in rows}
            outputs |= self.together(batch.images, mine) if mine else {}
        return outputs

    def _dtype(self, rows: Iterable[str]) -> torch.dtype:
        """In which the teachers of these tasks run together."""
        precisions = {self._precisions.get(task, "fp32") for task in rows}
        return DTYPES[precisions.pop()] if len(precisions) == 1 else torch.float32

    def _rounded_weights(
        self, task: str, device: torch.device, dtype: torch.dtype
    ) -> AbstractContextManager[None]:
        """The pass of a task's network finds its weights as autocast would round them; a compiled one keeps its own."""
        if dtype == torch.float32 or task in self._compiled:
            return nullcontext()
        if (task, device) not in self._rounded:
            self._rounded[task, device] = RoundedWeights(self.teachers[task].network, dtype)
        return self._rounded[task, device].in_use()


class RoundedWeights:
    """The weights of a frozen network's layers, rounded once to what autocast rounds them to in every pass.

    Args:
        network: with weights that no longer change, on its device.
        dtype: of autocast.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self._exact, self._rounded = list[_Weights](), list[_Weights]()
        for module in network.modules():
            exact = {
                name: weight for name, weight in module.named_parameters(recurse=False) if _is_exact(weight)
            }
            if type(module) in ROUNDED and exact:  # a class of its own may use its weights for something else
                rounded = {name: nn.Parameter(weight.to(dtype), False) for name, weight in exact.items()}
                self._exact.append((module, exact))
                self._rounded.append((module, rounded))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """For one pass under autocast."""
        _put(self._rounded)
        try:
            yield
        finally:
            _put(self._exact)


def _put(weights: Iterable[_Weights]) -> None:
    for module, named in weights:
        module._parameters.update(named)


def _is_exact(weight: Tensor) -> bool:
    return weight.dtype == torch.float32
