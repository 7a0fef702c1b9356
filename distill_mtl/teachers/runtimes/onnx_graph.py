"""What an ONNX file says of itself: its input, its tensors, the files it needs."""

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distill_mtl.errors import UserError
from distill_mtl.teachers.runtimes.declared import not_one_input
from distill_mtl.teachers.runtimes.training_mode import saved_while_training

ELEMENTS = {torch.float32: 1, torch.uint8: 2, torch.float16: 10, torch.float64: 11, torch.bfloat16: 16}
"""Types of images, and their numbers in `onnx.TensorProto.DataType`."""

_STRING = 8


def package(name: str) -> Any:
    """Import one of the extra's packages.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"an ONNX file needs the package {name}: pip install 'distill_mtl[onnx]' "
            "(on a GPU then also onnxruntime-gpu, in place of onnxruntime)."
        ) from error


def read_graph(path: Path) -> Any:
    """The graph, with those weights that lie in the file itself.

    Raises:
        UserError: no such file, or no graph in it.
    """
    onnx = package("onnx")
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        model = onnx.load(path, load_external_data=False)
    # The parser's errors are protobuf's, a package of onnx's own choice.
    except Exception as error:
        raise UserError(f"{path} is no ONNX file, or it is cut short. Fetch or export it again.") from error
    if not model.graph.node:
        raise UserError(f"{path} holds no ONNX graph. Fetch or export it again.")
    return model


def external_files(model: Any, path: Path) -> list[Path]:
    """The files beside `path` that hold the other weights.

    Raises:
        UserError: one of them is missing.
    """
    names = dict.fromkeys(
        entry.value
        for tensor in _constants(model.graph)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    files = [path.parent / name for name in names]
    for file in files:
        if not file.is_file():
            raise UserError(f"{path} keeps weights in {file}, which does not exist. Put it there.")
    return files


def learned_numbers(model: Any) -> tuple[int, int]:
    """How many numbers it has learned, and their bytes, floats as float32.

    Learned are its floating point tensors (weights, and what normalisation has folded into them) and the whole
    numbers that a quantised file keeps in their place, not the scales of these.
    """
    onnx = package("onnx")
    floats = {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }
    restored = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    quantised = {node.input[0] for node in restored}
    scaling = [*restored, *(node for node in model.graph.node if node.op_type == "QuantizeLinear")]
    scales = {node.input[1] for node in scaling}
    numbers = size = 0
    for tensor in model.graph.initializer:
        count = math.prod(tensor.dims)
        if tensor.name in quantised:
            size += count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        elif tensor.data_type in floats and tensor.name not in scales:
            size += 4 * count
        else:
            continue
        numbers += count
    return numbers, size


def _constants(graph: Any) -> Iterator[Any]:
    """Every tensor with fixed values, those in the attributes of nodes and in graphs within graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _constants(attribute.g)


def only_input(model: Any, path: Path) -> Any:
    """What the graph takes; old files list their weights among the inputs, which do not count.

    Raises:
        UserError: it takes nothing, or more than one thing.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise not_one_input(path, (value.name for value in inputs))
    return inputs[0]


def shape_of(value: Any) -> list[int | None] | None:
    """Shape of an input, None for a size that is left open; None where the file gives no shape."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    # Some exporters write an open size as 0 or -1.
    return [side.dim_value if side.dim_value > 0 else None for side in value.type.tensor_type.shape.dim]


def dtype_of(value: Any, path: Path) -> torch.dtype:
    """Type of an input.

    Raises:
        UserError: images are never of that type.
    """
    element = value.type.tensor_type.elem_type
    for dtype, number in ELEMENTS.items():
        if number == element:
            return dtype
    kind = package("onnx").TensorProto.DataType.Name(element).lower()
    known = ", ".join(str(dtype).removeprefix("torch.") for dtype in ELEMENTS)
    raise UserError(f"{path} takes '{value.name}' of type {kind}; images are of type {known}.")


def returned_tensors(model: Any, path: Path) -> tuple[str, ...]:
    """Names of what the graph returns.

    Raises:
        UserError: no tensor of numbers among it.
    """
    names = tuple(value.name for value in model.graph.output if _is_tensor(value))
    if not names:
        raise UserError(f"{path} gives no tensor of numbers. A teacher gives at least one.")
    return names


def inner_tensors(model: Any, image: str) -> list[str]:
    """Names of what its nodes make of the images, in their order; what they make of weights alone is left out."""
    values = (*model.graph.value_info, *model.graph.output)
    other = {value.name for value in values if not _is_tensor(value)}
    reached = _reached(model.graph, image)
    return [
        name for node in model.graph.node for name in node.output if name in reached and name not in other
    ]


def _reached(graph: Any, image: str) -> set[str]:
    """Names of everything that depends on the images."""
    reached = {image}
    for node in graph.node:
        # Graphs within graphs read names of the outer one that their node does not list.
        if reached.intersection(node.input) or any(entry.HasField("g") for entry in node.attribute):
            reached.update(name for name in node.output if name)
    return reached


def ingredients(model: Any) -> dict[str, tuple[str, ...]] | None:
    """Name of each tensor that a node makes -> those that the node reads; None where graphs lie within the graph."""
    nodes = list(model.graph.node)
    if any(entry.HasField("g") for node in nodes for entry in node.attribute):
        return None
    return {name: tuple(node.input) for node in nodes for name in node.output}


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of numbers; one of unknown type counts."""
    kind = value.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and value.type.tensor_type.elem_type != _STRING)


def refuse_training(model: Any, image: str, path: Path) -> None:
    """ONNX Runtime would run such a graph without a word.

    Raises:
        UserError: the graph was exported in training mode.
    """
    reached = _reached(model.graph, image)
    for node in model.graph.node:
        # Weights may be normalised by themselves (weight standardisation), and not only in training.
        if node.op_type == "BatchNormalization" and node.input[0] in reached:
            trains = any(entry.name == "training_mode" and entry.i for entry in node.attribute)
        else:
            dropout = node.op_type == "Dropout" and len(node.input) > 2
            trains = dropout and _is_true(model.graph, node.input[2])
        if trains:
            raise saved_while_training(path, node.op_type, "torch.onnx.export")


def _is_true(graph: Any, name: str) -> bool:
    """Whether a tensor of the graph is a constant, and true."""
    tensors = [tensor for tensor in graph.initializer if tensor.name == name]
    tensors += [
        entry.t
        for node in graph.node
        if node.op_type == "Constant" and name in node.output
        for entry in node.attribute
        if entry.HasField("t")
    ]
    return any(bool(package("onnx").numpy_helper.to_array(tensor)) for tensor in tensors)
