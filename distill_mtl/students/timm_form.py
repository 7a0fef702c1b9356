"""A student's trunk in timm's local-dir form, alone or with the head of one task: timm opens it directly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from distill_mtl.errors import StudentError, UserError
from distill_mtl.networks.backbone import POOLED
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.modes import evaluating
from distill_mtl.networks.weights import load_exactly, write_network
from distill_mtl.students.student import DEFAULT_FAMILY, OWN_CODE, Body, Student

# What describes an architecture in timm's pretrained_cfg; where its first weights came from does not.
_KEPT = ("fixed_input_size", "pool_size", "first_conv", "classifier")


def save_timm(student: Student, task: str, folder: Path | str, *, card: str | None = None) -> None:
    """Write trunk and head of one task so that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens
    them and gives the same logits. Complete or not at all; an earlier network in the folder is replaced.

    Args:
        student: with a timm trunk.
        task: whose head is one linear layer on the pooled vector.
        folder: where to write.
        card: text of README.md; default a line on how to open it.

    Raises:
        StudentError: timm's form cannot say this network, or the folder holds something else.
    """
    folder = Path(folder)
    try:
        config = _config(student.trunk, student.kinds[task].classes)
        state = _equal_classifier(student, task).state_dict()
        write_network(folder, config, state, card or _card(student, task, folder))
    except UserError as error:
        raise StudentError(f"{task} cannot be written in timm's form: {error}") from error


def save_timm_trunk(student: Student, folder: Path | str, *, card: str) -> None:
    """Write the trunk so that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens it, without a classifier.
    Complete or not at all; an earlier network in the folder is replaced.

    Args:
        student: with a timm trunk.
        folder: where to write.
        card: text of README.md.

    Raises:
        StudentError: timm's form cannot say this trunk, or the folder holds something else.
    """
    try:
        _refuse_other_families(student)
        write_network(Path(folder), _config(student.trunk, ()), student.trunk.model.state_dict(), card)
    except UserError as error:
        raise StudentError(f"the trunk cannot be written in timm's form: {error}") from error


def has_timm_head(student: Student, task: str) -> bool:
    """Whether timm's form can hold the task's head: it chooses a class, by one linear layer on the pooled vector."""
    if student.trunk.family != DEFAULT_FAMILY or student.trunk.parts or not student.kinds[task].exclusive:
        return False
    try:
        _equal_classifier(student, task)
    except UserError:
        return False
    return True


def _refuse_other_families(student: Student) -> None:
    if why := student.trunk.no_network():
        raise UserError(why)
    if student.trunk.family != DEFAULT_FAMILY:
        code = student.trunk.family == OWN_CODE
        what = f"your own code, {student.trunk.name}" if code else f"of the family {student.trunk.family}"
        raise UserError(f"its trunk is {what}, which timm does not have. Use another form.")


def _equal_classifier(student: Student, task: str) -> nn.Module:
    """A whole timm network with the student's weights, compared with it."""
    _refuse_other_families(student)
    trunk, linear = student.trunk, _linear(student, task)
    model: Any = timm.create_model(trunk.name, num_classes=linear.out_features, **trunk.args)
    name = model.pretrained_cfg.get("classifier")
    if not isinstance(name, str):
        raise UserError(f"{trunk.name} has no single classifier layer.")
    head = {f"{name}.{part}": value for part, value in linear.state_dict().items()}
    load_exactly(model, trunk.model.state_dict() | head, f"{trunk.name}'s trunk and head")
    if not _agree(student, task, model.eval()):
        raise UserError(f"{trunk.name} puts more than a linear layer behind its pooled vector.")
    return model


@torch.no_grad()
def _agree(student: Student, task: str, model: nn.Module) -> bool:
    """Whether both networks give the same logits on random images, up to rounding."""
    device = student.trunk.preprocess.mean.device
    noise = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *student.trunk.inputs.size, generator=noise).to(device)
    model.to(device)
    with evaluating(student):
        ours, theirs = student(images)[task], model(student.trunk.preprocess(images))
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def _linear(student: Student, task: str) -> nn.Linear:
    """The one layer of the task's head."""
    head, trunk = student.heads[task], student.trunk
    layers = [module for module in head.modules() if list(module.parameters(recurse=False))]
    if student.kinds[task].needs(trunk.shapes) != (POOLED,) or len(layers) != 1:
        raise UserError("its head is more than one linear layer on the pooled vector. Use save_student.")
    (linear,) = layers
    if not isinstance(linear, nn.Linear):
        raise UserError(f"its head is a {type(linear).__name__}, not a linear layer. Use save_student.")
    return linear


def _config(trunk: Body, classes: Sequence[str]) -> dict[str, Any]:
    """timm's config.json; without classes that of a network without a classifier."""
    inputs = trunk.inputs
    cfg = {key: value for key, value in trunk.model.pretrained_cfg.items() if key in _KEPT}
    cfg |= {
        "input_size": [1 if inputs.channels == "grey" else 3, *inputs.size],
        "mean": list(inputs.mean),
        "std": list(inputs.std),
        "interpolation": inputs.interpolation,
        "crop_pct": 1.0,
        "custom_load": False,
        "num_classes": len(classes),
    }
    if InputContract.from_timm(cfg) != inputs:
        raise UserError(f"timm's form cannot describe its input, {inputs}.")
    return {
        "architecture": trunk.name.partition(".")[0],
        "num_classes": len(classes),
        "num_features": trunk.shapes[POOLED].channels,
        **({"label_names": list(classes)} if classes else {}),
        "model_args": trunk.args,
        "pretrained_cfg": cfg,
    }


def _card(student: Student, task: str, folder: Path) -> str:
    return (
        f"# {folder.resolve().name}\n\n{student.trunk.name} for `{task}`, "
        f"{len(student.kinds[task].classes)} classes, trained with distill_mtl.\n\n"
        '```python\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True)\n```\n'
    )
