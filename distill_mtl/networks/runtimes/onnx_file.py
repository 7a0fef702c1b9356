"""An ONNX file, run by ONNX Runtime; needs the extra [onnx].

Reading and running it executes no code of the file's: operators that ONNX Runtime does not have are
refused, and libraries with more of them are never loaded. The functions below the class read the graph.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError, brief
from distill_mtl.extras import extra
from distill_mtl.networks.modes import freeze
from distill_mtl.networks.runtime import (
    RUNTIMES,
    SessionRuntime,
    declared_input,
    not_one_input,
    saved_while_training,
)
from distill_mtl.reading import shown, stand_in_note

_CUDA = "CUDAExecutionProvider"


@RUNTIMES.register(".onnx")
class OnnxRuntime(SessionRuntime):
    """Names are those of the graph's tensors, as Netron shows them on the arrows between its nodes.

    The session is started for the device of the first image, and again after a change of device or taps;
    a copy of the runtime starts its own. Weights in a file beside it (`model.onnx.data`) are found.

    Args:
        path: the file.

    Raises:
        UserError: onnx or onnxruntime is not installed, no such file, a broken one, one that takes
            something else than one batch of images, or one that was exported in training mode.
    """

    words = "an ONNX file"
    is_program = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        package("onnxruntime")
        model = read_graph(path)
        self.files = (path, *external_files(model, path))
        image = only_input(model, path)
        refuse_training(model, image.name, path)
        notes = {entry.key: entry.value for entry in model.metadata_props}
        self.declared = declared_input(
            shape_of(image), dtype_of(image, path), notes, file=path, name=image.name
        )
        self.outputs = returned_tensors(model, path)
        self._names = list(dict.fromkeys((*inner_tensors(model, image.name), *self.outputs)))
        self._ingredients = ingredients(model)
        self._learned = learned_numbers(model)
        self._input = image.name
        self._taps: tuple[str, ...] = ()
        self._device = torch.device("cpu")
        self._session: Any = None
        freeze(self)

    @classmethod
    def files_of(cls, path: Path) -> tuple[Path, ...]:
        return (path, *external_files(read_graph(path), path))

    def names(self) -> list[str]:
        return list(self._names)

    def behind(self, output: str) -> frozenset[str] | None:
        if self._ingredients is None:
            return None
        found, waiting = set[str](), [output]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self._ingredients.get(name, ()))
        return frozenset(found)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.moved(images.device)
        if self._session is None:
            self._session = self._start()
        # Both ends are bound to memory where they lie, so nothing is copied between torch and the session.
        images = images.contiguous()
        where = (images.device.type, images.device.index or 0)
        binding = self._session.io_binding()
        binding.bind_input(
            self._input, *where, ELEMENTS[images.dtype], tuple(images.shape), images.data_ptr()
        )
        names = (*self.outputs, *self._taps)
        for name in names:
            binding.bind_output(name, *where)
        if images.is_cuda:
            # The session works on a stream of its own and waits for it before it returns, but knows nothing
            # of torch's: the images must be there, and no kernel may still read memory that it reuses.
            torch.cuda.current_stream(images.device).synchronize()
        self._session.run_with_iobinding(binding)
        return {
            name: torch.from_dlpack(value) for name, value in zip(names, binding.get_outputs(), strict=True)
        }

    def moved(self, device: torch.device) -> None:
        if device == self._device:
            return
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"{self.files[0]}: ONNX Runtime is used on cpu and cuda, not on {device.type}.")
        if device.type == "cuda" and _CUDA not in package("onnxruntime").get_available_providers():
            raise UserError(
                f"{self.files[0]} cannot run on the GPU: the installed onnxruntime works on the CPU only. "
                "Run `pip uninstall onnxruntime; pip install onnxruntime-gpu`, or write `teacher.device: cpu`."
            )
        self._device, self._session = device, None

    def _start(self) -> Any:
        path, onnxruntime = self.files[0], package("onnxruntime")
        model = read_graph(path)
        # Inner tensors become outputs, which also keeps the optimiser from fusing them away. Their types
        # are left out: the session infers them.
        model.graph.output.extend(package("onnx").ValueInfoProto(name=name) for name in self._taps)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would otherwise spin between two batches, on the cores that the student needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
        )
        providers: list[Any] = ["CPUExecutionProvider"]
        if self._device.type == "cuda":
            # Batches vary in size with the rows that lack a label; the default would search for the
            # fastest convolution anew for each size.
            how = {"device_id": self._device.index or 0, "cudnn_conv_algo_search": "HEURISTIC"}
            providers.insert(0, (_CUDA, how))
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        # Its errors have no common type of their own.
        except Exception as error:
            raise UserError(f"ONNX Runtime cannot run {path}: {brief(error)}.") from error
        if self._device.type == "cuda" and _CUDA not in session.get_providers():
            raise UserError(
                f"{path} cannot run on the GPU: onnxruntime-gpu found no CUDA and cuDNN of the versions it was "
                "built for. Install an onnxruntime-gpu that fits this PyTorch's CUDA "
                f"({torch.version.cuda}), or write `teacher.device: cpu`."
            )
        return session


ELEMENTS = {torch.float32: 1, torch.uint8: 2, torch.float16: 10, torch.float64: 11, torch.bfloat16: 16}
"""Types of images, and their numbers in `onnx.TensorProto.DataType`."""

_STRING = 8


def package(name: str) -> Any:
    """Import one of the extra's packages.

    Raises:
        UserError: it is not installed.
    """
    return extra(name, "onnx", "an ONNX file")


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
        raise UserError(
            f"{path} is not an ONNX file, or it is truncated.{stand_in_note(path)} Fetch or export it again."
        ) from error
    if not model.graph.node:
        raise UserError(f"{path} holds no ONNX graph. Fetch or export it again.")
    return model


def external_files(model: Any, path: Path) -> list[Path]:
    """The files beside `path` that hold the other weights.

    Raises:
        UserError: one of them is missing, or lies elsewhere.
    """
    names = dict.fromkeys(
        entry.value
        for tensor in _constants(model.graph)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    for name in names:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise UserError(
                f"{path} names {shown(name)} for its weights. They lie beside it, or below its folder."
            )
    files = [path.parent / name for name in names]
    for file in files:
        if not os.path.isfile(file):
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
    """ONNX Runtime would run such a graph without a warning.

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
