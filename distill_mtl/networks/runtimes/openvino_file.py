"""An OpenVINO IR, a graph (`.xml`) with its weights beside it (`.bin`), run by OpenVINO; needs the extra [openvino].

Reading and running it executes no code of the file's: operations that OpenVINO does not have are refused.
"""

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError, brief
from distill_mtl.extras import extra
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.modes import freeze
from distill_mtl.networks.runtime import (
    RUNTIMES,
    DeclaredInput,
    SessionRuntime,
    declared_input,
    normalisation,
    not_one_input,
)
from distill_mtl.reading import stand_in_note

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "u8": torch.uint8}
_FLOATS, _QUANTISED = ("f32", "f16", "bf16", "f64"), ("i8", "u8", "i4", "u4")
_INFO = "model_info"
"""Where OpenVINO's Model API, Geti and Ultralytics write down what the network wants and answers."""


@RUNTIMES.register(".xml")
class OpenVinoRuntime(SessionRuntime):
    """Names are the friendly names of the graph's operations, `NAME.1` for the second output of one of several.

    Args:
        path: the .xml; the .bin has the same name.

    Raises:
        UserError: openvino is not installed, no such file, a broken one, or one that takes something else than one
            batch of images.
    """

    words = "an OpenVINO file"
    unit = "operation"
    is_program = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = _read(path)
        self.files = self.files_of(path)
        if len(model.inputs) != 1:
            raise not_one_input(path, (entry.get_any_name() for entry in model.inputs))
        self.declared = _declared(model, path)
        self._nodes = {name: None for name, _ in _inner(model)}
        self.outputs = tuple(_names_of_outputs(model))
        self._learned = _learned(model)
        self._behind = {output: _behind(model, at) for at, output in enumerate(self.outputs)}
        freeze(self)

    @classmethod
    def files_of(cls, path: Path) -> tuple[Path, ...]:
        weights = path.with_suffix(".bin")
        return (path, weights) if weights.is_file() else (path,)

    def names(self) -> list[str]:
        return list(dict.fromkeys((*self._nodes, *self.outputs)))

    def behind(self, output: str) -> frozenset[str] | None:
        return self._behind.get(output)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.moved(images.device)
        if self._session is None:
            self._session = self._start()
        answers = self._session.infer({0: images.contiguous().numpy()}, share_inputs=True)
        names = (*self.outputs, *self._taps)
        return {name: torch.from_numpy(answers[at].copy()) for at, name in enumerate(names)}

    def moved(self, device: torch.device) -> None:
        if device.type != "cpu":
            raise UserError(
                f"{self.files[0]}: OpenVINO is used on the CPU, not on {device.type}. Write `teacher.device: cpu`."
            )

    def _start(self) -> Any:
        path = self.files[0]
        model = _read(path)
        inner = dict(_inner(model))
        for name in self._taps:
            model.add_outputs([inner[name]])
        threads = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # Two runs on one machine would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
            # Otherwise bf16 where the processor has it.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            return core().compile_model(model, "CPU", threads).create_infer_request()
        # Its errors have no common type of their own.
        except Exception as error:
            raise UserError(f"OpenVINO cannot run {path}: {brief(error)}.") from error


def package() -> Any:
    """Import openvino, which otherwise reports that to Google Analytics: without this other package it does not.

    Raises:
        UserError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return extra("openvino", "openvino", "an OpenVINO file")


def core() -> Any:
    """OpenVINO itself, once in a process.

    Each further one would put a signal stack of its own in place of the one that it finds. When it goes it puts back
    that one, which may be gone already (2026.4): the next signal that has a handler then ends the process.

    Raises:
        UserError: openvino is not installed.
    """
    return _core(package())


@cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


def _read(path: Path) -> Any:
    opener = core()
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        return opener.read_model(path)
    # Its errors have no common type of their own.
    except Exception as error:
        weights = path.with_suffix(".bin")
        missing = "" if weights.is_file() else f" Its weights, {weights.name}, are not beside it."
        raise UserError(
            f"{path} is no OpenVINO file that can be read, or it or its weights are truncated."
            f"{stand_in_note(path) or missing or stand_in_note(weights)} Fetch or convert it again."
        ) from error


def _declared(model: Any, path: Path) -> DeclaredInput:
    image = model.inputs[0]
    name = next(iter(sorted(image.get_names())), image.get_node().get_friendly_name())
    dtype = _DTYPES.get(image.element_type.get_type_name())
    if dtype is None:
        raise UserError(
            f"{path} takes '{name}' of type {image.element_type.get_type_name()}; images are of type "
            f"{', '.join(_DTYPES)}."
        )
    shape = None
    if image.partial_shape.rank.is_static:
        shape = [side.get_length() if side.is_static else None for side in image.partial_shape]
    said = image.get_node().layout.to_string().strip("[]").replace(",", "")
    notes = {NOTE: str(model.get_rt_info([NOTE]).astype(str))} if model.has_rt_info([NOTE]) else {}
    declared = declared_input(shape, dtype, notes, file=path, name=name)
    if shape is not None and said in ("NCHW", "NHWC") and said != declared.layout:
        channels, height, width = shape[1:] if said == "NCHW" else (shape[3], *shape[1:3])
        size = None if height is None or width is None else (height, width)
        declared = DeclaredInput(size, channels, said, dtype, shape[0], notes)
    info = _model_info(model)
    return DeclaredInput(
        declared.size,
        declared.channels,
        declared.layout,
        dtype,
        declared.batch,
        notes,
        contract=_contract(info, declared.channels),
        classes=tuple(info["labels"].split()) or None if "labels" in info else None,
    )


def _model_info(model: Any) -> dict[str, str]:
    found = {}
    for key in ("labels", "mean_values", "scale_values", "embedded_processing"):
        if model.has_rt_info([_INFO, key]):
            found[key] = str(model.get_rt_info([_INFO, key]).astype(str))
    return found


def _contract(info: Mapping[str, str], channels: int | None) -> dict[str, Any]:
    """Mean and std in Model API's form, for pixels from 0 to 255; they may be a part of the graph already."""
    if info.get("embedded_processing", "").lower() in ("true", "yes", "1"):
        return normalisation([], [], channels)
    try:
        mean, std = (
            [float(value) for value in info.get(key, "").replace(",", " ").split()]
            for key in ("mean_values", "scale_values")
        )
    except ValueError:
        return {}
    return normalisation(mean, std, channels) if mean or std else {}


def _inner(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and output of every operation that depends on the images, in the order they run."""
    reached = set()
    for node in model.get_ordered_ops():
        sources = [entry.get_source_output().get_node().get_friendly_name() for entry in node.inputs()]
        name = node.get_friendly_name()
        if node.get_type_name() == "Parameter":
            reached.add(name)
        elif reached.intersection(sources):
            reached.add(name)
            if node.get_type_name() != "Result":
                outputs = node.outputs()
                for at, output in enumerate(outputs):
                    yield name if len(outputs) == 1 else f"{name}.{at}", output


def _names_of_outputs(model: Any) -> Iterator[str]:
    """A name of each result: that of its tensor, else of the operation that makes it."""
    for output in model.outputs:
        source = output.get_node().input(0).get_source_output()
        several = source.get_node().get_output_size() > 1
        made = source.get_node().get_friendly_name() + (f".{source.get_index()}" if several else "")
        yield next(iter(sorted(output.get_names())), made)


def _behind(model: Any, at: int) -> frozenset[str]:
    """Names of the operations that a result is made from."""
    found: set[str] = set()
    waiting = [model.outputs[at].get_node()]
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name not in found:
            found.add(name)
            found |= {f"{name}.{port}" for port in range(node.get_output_size())}
            waiting += [entry.get_source_output().get_node() for entry in node.inputs()]
    return frozenset(found)


def _learned(model: Any) -> tuple[int, int]:
    """How many numbers it has learned, and their bytes, floats as float32: constants of more than one number, but
    the whole numbers that shapes and axes are."""
    numbers = size = 0
    for node in model.get_ops():
        if node.get_type_name() != "Constant":
            continue
        output = node.output(0)
        kind, count = output.element_type.get_type_name(), 1
        for side in output.shape:
            count *= side
        if count > 1 and kind in (*_FLOATS, *_QUANTISED):
            numbers += count
            size += count * (4 if kind in _FLOATS else 1)
    return numbers, size
