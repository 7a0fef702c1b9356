"""What YOLO's exporters write into a file beside the network: names of the classes, size of the pictures, the task.

ONNX has it in its metadata, a TorchScript archive in the extra file `config.txt`, as JSON.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill_mtl.errors import UserError
from distill_mtl.networks.runtime import DeclaredInput, classes_in
from distill_mtl.reading import loads

_OTHER = {
    "segment": "instance masks, which are not read. Name a detector of boxes, or a network of kind segmentation.",
    "obb": "oriented boxes, which are not read. Name a detector of upright boxes.",
    "pose": "the joints of persons, which are not read. Name a detector of boxes.",
}


@dataclass(frozen=True)
class DetectorNote:
    """What a file says of itself; None where it does not.

    Attributes:
        classes: names, in the order of the outputs.
        size: height and width of the pictures.
    """

    classes: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None


def read_detector_note(declared: DeclaredInput) -> DetectorNote:
    """The note of a file; empty where it has none that can be read.

    Raises:
        UserError: it says that the network gives something else than boxes, such as instance masks.
    """
    notes: Mapping[str, Any] = declared.notes
    if isinstance(config := _value(notes.get("config.txt")), Mapping):
        notes = config
    classes = classes_in({key: str(notes[key]) for key in ("names",) if key in notes})
    if classes is None:
        return DetectorNote()
    if (task := str(notes.get("task"))) in _OTHER:
        raise UserError(f"its file says `task: {task}`: {_OTHER[task]}")
    size = _value(notes.get("imgsz"))
    whole = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int for side in size)
    return DetectorNote(classes, (size[0], size[1]) if whole else None)


def _value(text: Any) -> Any:
    """A value that was written as JSON or as a literal of Python; None where it is neither."""
    if not isinstance(text, str):
        return text
    for read in (loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
