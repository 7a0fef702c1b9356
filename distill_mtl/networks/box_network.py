"""A detector behind a runtime: its raw outputs are read as scored boxes, by the form that `box_form` found."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.networks.box_form import BoxReading, batched, by_role, read_boxes
from distill_mtl.networks.boxes import BOX, as_answer
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.runtime import Runtime, of_one_length
from distill_mtl.networks.runtime_network import RuntimeNetwork
from distill_mtl.networks.task_network import AnswerKind
from distill_mtl.recipe.schema import OutputSection

_VIEW = "the view's height and width"
_LEAST_CHANNELS = 8  # of a map that is a feature, not the scores or sides of one of the detector's maps


class BoxNetwork(RuntimeNetwork):
    """Images in [0, 1] -> what a detector finds in them, as `boxes.as_answer` packs it: [R, classes + 4, K].

    Args:
        runtime: loaded and frozen.
        inputs: what it wants to see.
        reading: of its outputs.
        classes: how many it knows; None: as many as its outputs say.
        answers: as of `RuntimeNetwork`.
        raw: outputs of a trial, if there was one.

    Raises:
        UserError: it cannot run on such images.
    """

    gives = "boxes"

    def __init__(
        self,
        runtime: Runtime,
        inputs: InputContract,
        reading: BoxReading,
        classes: int | None,
        *,
        answers: Sequence[str] = (),
        raw: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.reading, self._classes = reading, classes
        super().__init__(runtime, inputs, OutputSection(), answers=answers, raw=raw)

    def _find_answer(self, raw: Mapping[str, Tensor], output: OutputSection) -> None:
        roles = self.reading.outputs
        self.answer, self.dense = next(iter(roles.values())), True
        self._answers |= frozenset(roles.values())
        read = by_role(raw, self.reading)
        self._outputs |= {name: tuple(read[role].shape[1:]) for role, name in roles.items()}
        self._tried_roles = read
        if self.reading.kind.numbers_classes:
            self.width = (self._classes or 0) + BOX
        else:
            self._count_columns()

    def know_classes(self, count: int | None) -> None:
        if self.reading.kind.numbers_classes:
            self._classes = self._classes or count
            if self._classes is None:
                raise UserError(
                    f"it gives boxes with numbers of classes (form {self.reading.form}), and nothing says how many "
                    "classes there are. Name them in order: `classes: [...]` of the teacher (on the command line: "
                    "--set 'classes=[...]')."
                )
            self.width = self._classes + BOX
        elif count is not None and count != self._classes and "background" in self.reading.found:
            # The task's classes tell more than a trial did.
            self.reading = self.reading.kind.refined(self._tried_roles, self.reading, count)
            self._count_columns()

    def _count_columns(self) -> None:
        self._classes = self.reading.kind.read(self._tried_roles, self.reading)[1].shape[2]
        self.width = self._classes + BOX

    def read_as(self, kind: AnswerKind) -> None:
        """Nothing is left to find out."""

    def with_reading(self, reading: BoxReading) -> "BoxNetwork":
        """The same network, weights shared, whose outputs are read in another way, for as many classes."""
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        twin.reading, twin._layers = reading, ()
        return twin

    def run(self, images: Tensor) -> dict[str, Tensor]:
        size = torch.tensor([images.shape[-2:]], device=images.device)
        return super().run(images) | {_VIEW: size.expand(len(images), 2)}

    def read(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        hidden = {name: self._layouts[name](features[name]) for name in self._layers}
        return {LOGITS: self._boxes(features)} | hidden

    def _boxes(self, features: Mapping[str, Tensor]) -> Tensor:
        # The views of a batch have one size. Whoever runs pictures of sizes of their own has given them the
        # proportions of the network's input.
        sizes, count = features.get(_VIEW), self.width - BOX
        view = self.inputs.size if sizes is None else (int(sizes[0, 0]), int(sizes[0, 1]))
        found = read_boxes(features, self.reading, self.inputs, classes=count, view=view)
        return as_answer(found, count, view)

    def _joined(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Lists of boxes may be of several lengths, and lack the batch's axis."""
        axes = self.reading.kind.roles
        roles = {name: role for role, name in self.reading.outputs.items()}
        joined = {}
        for name, first in parts[0].items():
            values = [batched(part[name], axes.get(roles.get(name, ""), first.ndim)) for part in parts]
            joined[name] = torch.cat(of_one_length(values))
        return joined

    def _is_map(self, name: str) -> bool:
        """Neither scores nor sides of one of the detector's own maps."""
        if not self._readable(name) or self._shapes[name].size in (None, (1, 1)):
            return False
        return (
            self._layouts[name].form in ("map", "map_last") and self._shapes[name].channels >= _LEAST_CHANNELS
        )
