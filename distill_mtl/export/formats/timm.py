"""`--to timm`: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens as the trunk."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor

from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS, ExportRequest, Format, export_folder
from distill_mtl.export.parity import SURE, Difference, Parity, PictureBatch, RealRows
from distill_mtl.students.student import Student
from distill_mtl.students.timm_form import has_timm_head, save_timm, save_timm_trunk

_WORDS = "the timm folder"
_SHOWN = 5  # parameters in the card


@FORMATS.register("timm")
class Timm(Format):
    """timm's local-dir form. Of a single classification task whose head is timm's own, with its classifier."""

    name = "timm"
    ending = "-timm"
    options = frozenset({"rows", "data"})

    def export(self, request: ExportRequest) -> None:
        student, (task, *others) = request.student, request.tasks
        whole = not others and has_timm_head(student, task)
        rows = RealRows(request).for_check(Deployable(student, "normalised", decode=False))
        with export_folder(request.out, overwrite=request.overwrite) as folder:
            if whole:
                save_timm(student, task, folder, card=_card(request, f"with the classifier of `{task}`"))
            else:
                save_timm_trunk(student, folder, card=_card(request, "without a classifier"))
            model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            found = _parity(student, model, task if whole else None, rows)
            request.console.print(found.table(_WORDS))
            found.refuse_difference(_WORDS)
        request.console.print(
            f"{request.out}: {student.trunk.name}, {'with the classifier of ' + task if whole else 'the trunk alone'}. "
            f'Open it with timm.create_model("local-dir:{request.out}", pretrained=True); without pretrained=True timm '
            "gives random weights, without a warning.",
            highlight=False,
            soft_wrap=True,
        )


@torch.no_grad()
def _parity(student: Student, model: Any, task: str | None, rows: Sequence[PictureBatch]) -> Parity:
    """What timm opens beside the student: the last map, and the pooled vector or the logits of the task."""
    trunk: Any = student.trunk.model
    found = Parity(sum(len(batch.keys) for batch in rows), [len(batch.keys) for batch in rows])
    features = found.outputs["features"] = Difference()
    last = found.outputs[task or "pooled"] = Difference()
    answered: list[tuple[Tensor, Tensor, PictureBatch]] = []
    for batch in rows:
        pixels = student.trunk.preprocess(batch.images)
        features.add(trunk.forward_features(pixels), model.forward_features(pixels), batch.keys)
        ours = trunk(pixels) if task is None else student(batch.images)[task]
        answered.append((ours, model(pixels), batch))
        last.add(*answered[-1][:2], batch.keys)
    for ours, theirs, batch in answered if task is not None else ():
        decided, given = (student.kinds[str(task)].decisions(logits) for logits in (ours, theirs))
        assert decided is not None
        assert given is not None
        last.decide(decided[0] != given[0], decided[1] > SURE * last.largest, batch.keys)
    return found


def _card(request: ExportRequest, what: str) -> str:
    """README.md of the folder."""
    whole = request.source.load().student
    trunk = request.student.trunk if whole.trunk.parts else whole.trunk
    parameters = dict(trunk.named_parameters())
    unread = set(parameters) - trunk.parameters_behind(trunk.tapped)
    numbers = sum(parameter.numel() for parameter in parameters.values())
    idle = (
        f"\n{sum(parameters[name].numel() for name in unread):,} of its {numbers:,} "
        f"parameters are read by no task and were not trained: {', '.join(sorted(unread)[:_SHOWN])}"
        f"{', …' if len(unread) > _SHOWN else ''}.\n"
        if unread
        else ""
    )
    inputs = trunk.inputs
    return f"""# {request.source.name}: {trunk.name}, {what}

The trunk of a student for {", ".join(whole.kinds)}, trained with distill_mtl. timm opens it, without distill_mtl:

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True)
```

**`pretrained=True` must be there.** Without it timm builds the network with random weights, without a warning.
`num_classes=N` replaces the classifier by a new one with random weights.

Images: {inputs.size[0]} x {inputs.size[1]}, mean {list(inputs.mean)}, std {list(inputs.std)}, {inputs.interpolation};
`timm.data.resolve_model_data_config(model)` says so too.
{idle}"""
