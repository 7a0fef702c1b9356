"""The first weights of a trunk, taken from a network that was trained before."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from distill_mtl.errors import StudentError, UserError
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.weights import load_exactly, network_folder, read_config, read_weights
from distill_mtl.students.trunk import Trunk

_TEACHER = "teacher:"
_TRUNK = "trunk.model."
_HEADS = "heads."


def load_initial(
    trunk: Trunk,
    init: str,
    teacher_folders: Mapping[str, Path],
    teacher_inputs: Mapping[str, InputContract],
) -> None:
    """Fill a trunk's weights as `student.init` says.

    From a folder the normalisation is taken along, because the weights expect it; the size is not.

    Args:
        trunk: freshly created; `pretrained` and `random` are already done.
        init: `pretrained`, `random`, `teacher:TASK`, or a folder or .safetensors file with the weights of a
            timm network or of a student, or the folder of the run that left a student.
        teacher_folders: task -> its teacher's folder, or file of weights.
        teacher_inputs: task -> what its teacher wants to see, as the recipe may have corrected it; where it is
            not named, the folder's word is taken.

    Raises:
        StudentError: there is no such teacher or file, or its architecture is another one.
    """
    if init in ("pretrained", "random"):
        return
    path, inputs = Path(init), None
    if init.startswith(_TEACHER):
        task = init.removeprefix(_TEACHER)
        if task not in teacher_folders:
            known = ", ".join(f"{_TEACHER}{name}" for name in teacher_folders) or "none"
            raise StudentError(
                f"student.init: no task '{task}' with a teacher. Teachers to begin with: {known}."
            )
        path, inputs = Path(teacher_folders[task]), teacher_inputs.get(task)
    if not path.exists():
        raise StudentError(
            f"student.init: '{init}' is neither pretrained, random nor {_TEACHER}TASK, and there is no such "
            "folder or file."
        )
    path = network_folder(path)
    try:
        load_exactly(trunk.model, _trunk_weights(read_weights(path), trunk), str(path))
        if inputs is None and path.is_dir():
            inputs = _contract(path)
        if inputs is not None:
            trunk.preprocess = Preprocess(_of_a_student(inputs, trunk))
    except UserError as error:
        raise StudentError(
            f"student.init: {error}\nThe student is {trunk.name} {trunk.args}; it can only begin with the "
            "weights of the same architecture and arguments."
        ) from error


def _trunk_weights(state: Mapping[str, Tensor], trunk: Trunk) -> dict[str, Tensor]:
    """The tensors of a trunk in a state dict of a student, of a timm classifier, or of a bare trunk."""
    if any(key.startswith(_TRUNK) for key in state):
        return {key.removeprefix(_TRUNK): value for key, value in state.items() if not key.startswith(_HEADS)}
    classifier = getattr(trunk.model, "pretrained_cfg", {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    ends = tuple(f"{name}.{part}" for name in names for part in ("weight", "bias"))
    return {key: value for key, value in state.items() if key not in ends}


def _of_a_student(inputs: InputContract, trunk: Trunk) -> InputContract:
    """What the weights expect of colours and numbers, at the trunk's own size and in torch's own form."""
    return replace(
        inputs,
        size=trunk.inputs.size,
        resize="squash",
        crop=1.0,
        layout="nchw",
        dtype="float32",
        batch=None,
    )


def _contract(folder: Path) -> InputContract:
    """The input contract in a network's folder, of either form."""
    config = read_config(folder)
    if "trunk" in config:
        return InputContract.from_dict(config["trunk"]["inputs"])
    return InputContract.from_timm(config.get("pretrained_cfg", config))
