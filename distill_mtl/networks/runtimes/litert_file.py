"""A LiteRT (TensorFlow Lite) file, run by LiteRT; needs the extra [litert].

Reading and running it executes no code of the file's: operations that LiteRT does not have are refused. The whole
numbers of a quantised input or answer stand for scale * (number - zero point), and its contract is one of these values.
Whole numbers that the file says nothing of are bytes: black is the lowest one and white the highest.
"""

import importlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
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
from distill_mtl.reading import open_regular, stand_in_note

_FLOAT32, _FLOAT16, _INT32, _UINT8, _INT8, _INT4 = 0, 1, 2, 3, 9, 17
"""Numbers of `TensorType` in LiteRT's schema."""
_DTYPES = {_FLOAT32: torch.float32, _FLOAT16: torch.float16, _UINT8: torch.uint8, _INT8: torch.uint8}
_RANGES = {_UINT8: (0, 255), _INT8: (-128, 127)}
_NORMALISATIONS: tuple[tuple[float, list[float], list[float]], ...] = (
    (1.0, [0.0], [1.0]),
    (1.0, [0.5], [0.5]),
    (255.0, [0.0], [1.0]),
    (255.0, [128.0], [1.0]),
    (1.0, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)),
)
"""White, mean and std that a quantised input may have been trained with."""
_ALIKE = 0.1  # of a range: how far its ends may lie from another's, because pictures for calibration set them
_METADATA = b"TFLITE_METADATA"
_LONGEST = 1 << 20  # bytes of a list of labels


@RUNTIMES.register(".tflite")
class LiteRtRuntime(SessionRuntime):
    """Names are those of the graph's tensors; of tensors of one name, the later ones have `#2`, `#3`, ...

    Args:
        path: the file.

    Raises:
        UserError: ai-edge-litert is not installed, no such file, a broken one, or one that takes something else than
            one batch of images.
    """

    words = "a LiteRT file"
    is_program = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = _read(path)
        graph = model.subgraphs[0]
        names = list(_names(graph))
        if len(graph.inputs) != 1:
            raise not_one_input(path, (names[at] for at in graph.inputs))
        self._input = int(graph.inputs[0])
        image = graph.tensors[self._input]
        if image.type not in _DTYPES:
            raise UserError(
                f"{path} takes '{names[self._input]}' of another type than images: float32, float16, uint8."
            )
        self.files = (path,)
        self._type, self._coding = image.type, _coding(image)
        self.declared = _declared(model, path, names[self._input])
        self._made_from = {
            int(made): [int(at) for at in node.inputs if at >= 0]
            for node in graph.operators
            for made in node.outputs
        }
        self._tensors = {names[at]: at for at in _reached(graph, self._input)}
        self._ends = {names[at]: int(at) for at in graph.outputs}
        self.outputs = tuple(self._ends)
        self._learned = _learned(model, graph)
        self._rows = 0
        freeze(self)

    def names(self) -> list[str]:
        return list(dict.fromkeys((*self._tensors, *self.outputs)))

    def behind(self, output: str) -> frozenset[str] | None:
        found, waiting = set[int](), [self._ends.get(output, self._tensors.get(output, -1))]
        while waiting:
            at = waiting.pop()
            if at not in found:
                found.add(at)
                waiting.extend(self._made_from.get(at, ()))
        return frozenset(name for name, at in {**self._tensors, **self._ends}.items() if at in found)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.moved(images.device)
        if self._session is None:
            self._session, self._rows = self._start(), 0
        pixels = self._coded(images.contiguous()).numpy()
        if self.declared.batch is None and len(pixels) != self._rows:
            self._session.resize_tensor_input(self._input, list(pixels.shape))
            self._session.allocate_tensors()
            self._rows = len(pixels)
        self._session.set_tensor(self._input, pixels)
        self._session.invoke()
        places = {**self._ends, **{name: self._tensors[name] for name in self._taps}}
        return {name: self._value(at) for name, at in places.items()}

    def moved(self, device: torch.device) -> None:
        if device.type != "cpu":
            raise UserError(
                f"{self.files[0]}: LiteRT is used on the CPU, not on {device.type}. Write `teacher.device: cpu`."
            )

    def _coded(self, images: Tensor) -> Tensor:
        """Pixels as the numbers of a quantised input; bytes are bytes."""
        if self._type not in _RANGES:
            return images
        lowest, highest = _RANGES[self._type]
        scale, zero = self._coding if self._coding and images.is_floating_point() else (1.0, lowest)
        numbers = (images.float() / scale).round() + zero
        return numbers.clamp(lowest, highest).to(torch.int8 if self._type == _INT8 else torch.uint8)

    def _value(self, at: int) -> Tensor:
        """A tensor of the graph, quantised numbers as the floats that they stand for."""
        value = torch.from_numpy(self._session.get_tensor(at))
        scale, zero = self._scales[at]
        return (value.float() - zero) * scale if scale else value

    def _start(self) -> Any:
        path, litert = self.files[0], _package("interpreter")
        try:
            session = litert.Interpreter(model_content=self._content(), num_threads=torch.get_num_threads())
            session.allocate_tensors()
        # Its errors have no common type of their own.
        except Exception as error:
            raise UserError(f"LiteRT cannot run {path}: {brief(error)}.") from error
        self._scales = {entry["index"]: entry["quantization"] for entry in session.get_tensor_details()}
        return session

    def _content(self) -> bytes:
        """The file, with inner tensors among its outputs: what runs it keeps the others to itself."""
        if not self._taps:
            return self.files[0].read_bytes()
        model = _read(self.files[0])
        graph = model.subgraphs[0]
        graph.outputs = [*graph.outputs, *(self._tensors[name] for name in self._taps)]
        # The signatures name the file's own outputs, and are not used here.
        model.signatureDefs = None
        return _packed(model)


def _package(module: str) -> Any:
    return extra(f"ai_edge_litert.{module}", "litert", "a LiteRT file")


def _read(path: Path) -> Any:
    """The graph as the classes of LiteRT's own schema."""
    schema = _package("schema_py_generated")
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with open_regular(path) as file:
        content = file.read()
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        complete = content[4:8] == b"TFL3" and bool(model.subgraphs) and bool(model.subgraphs[0].operators)
    # A damaged file sends the reader anywhere.
    except Exception:
        complete = False
    if not complete:
        raise UserError(
            f"{path} is not a LiteRT file, or it is truncated.{stand_in_note(path)} Fetch or convert it again."
        )
    return model


def write_note(path: Path, notes: Mapping[str, str], *, image: str, outputs: Sequence[str]) -> None:
    """Put texts into a file's metadata, and give its input and its outputs other names.

    Args:
        path: the file; replaced.
        notes: by name.
        image: name of the input.
        outputs: names, in the order of the outputs.
    """
    schema, model = _package("schema_py_generated"), _read(path)
    graph = model.subgraphs[0]
    for at, name in zip([*graph.inputs, *graph.outputs], [image, *outputs], strict=True):
        graph.tensors[at].name = name.encode()
    for signature in model.signatureDefs or ():
        ends = [*signature.inputs, *signature.outputs]
        for end in ends:
            end.name = graph.tensors[end.tensorIndex].name
    for name, text in notes.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(text.encode())
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*(model.metadata or ()), entry]
    path.write_bytes(_packed(model))


def _packed(model: Any) -> bytes:
    builder = importlib.import_module("flatbuffers").Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _notes(model: Any) -> dict[str, str]:
    """Our note, where the file has one."""
    found = [entry.buffer for entry in model.metadata or () if entry.name == NOTE.encode()]
    data = model.buffers[found[0]].data if found and found[0] < len(model.buffers) else None
    return {} if data is None else {NOTE: bytes(data).decode("utf-8", "replace")}


def _names(graph: Any) -> Iterator[str]:
    """A name for each tensor of a graph."""
    seen: dict[str, int] = {}
    for at, tensor in enumerate(graph.tensors):
        name = (tensor.name or b"").decode("utf-8", "replace") or f"tensor{at}"
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}#{seen[name]}"


def _reached(graph: Any, image: int) -> list[int]:
    """The tensors that depend on the images, in the order they are made."""
    reached = [image]
    for node in graph.operators:
        if not set(reached).isdisjoint(int(at) for at in node.inputs):
            reached += [int(at) for at in node.outputs if int(at) not in reached]
    return reached[1:]


def _declared(model: Any, path: Path, name: str) -> DeclaredInput:
    image = model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])]
    sides = image.shapeSignature if image.shapeSignature is not None else image.shape
    shape = [None if side < 0 else int(side) for side in sides]
    coding = _coding(image)
    dtype = _DTYPES[image.type] if coding is None else torch.float32
    declared = declared_input(shape, dtype, _notes(model), file=path, name=name)
    contract = _normalisation(model, declared.channels) if dtype != torch.uint8 else {}
    proposed: dict[str, Any] = {}
    if coding is not None:
        ends = _range_of(image.type, coding)
        # Programs that hand over bytes as they are do not read this note of quantised files; some are wrong.
        if contract and _apart(ends, contract["white"], contract["mean"], contract["std"]) > _ALIKE:
            contract = {}
        proposed = _proposed(ends, declared.channels)
    return replace(declared, contract=contract, proposed=proposed, classes=_labels(path))


def _coding(image: Any) -> tuple[float, int] | None:
    """Scale and zero point of a quantised input; None: the file does not give them."""
    said = image.quantization
    if image.type not in _RANGES or said is None or said.scale is None or len(said.scale) != 1:
        return None
    scale = float(said.scale[0])
    zero = int(said.zeroPoint[0]) if said.zeroPoint is not None and len(said.zeroPoint) else 0
    return (scale, zero) if math.isfinite(scale) and scale > 0 else None


def _range_of(kind: int, coding: tuple[float, int]) -> tuple[float, float]:
    """The values that the lowest and the highest number of a quantised input stand for."""
    lowest, highest = _RANGES[kind]
    return coding[0] * (lowest - coding[1]), coding[0] * (highest - coding[1])


def _apart(ends: tuple[float, float], white: float, mean: Sequence[float], std: Sequence[float]) -> float:
    """How far the ends of a range are from those of normalised pictures, in parts of the range."""
    black = min(-middle / spread for middle, spread in zip(mean, std, strict=True))
    brightest = max((white - middle) / spread for middle, spread in zip(mean, std, strict=True))
    return max(abs(ends[0] - black), abs(ends[1] - brightest)) / (ends[1] - ends[0])


def _proposed(ends: tuple[float, float], channels: int | None) -> dict[str, Any]:
    """The usual normalisation whose pictures fill the range; else black is its lower end, and white its upper one."""
    white, mean, std = min(_NORMALISATIONS, key=lambda one: _apart(ends, *one))
    if _apart(ends, white, mean, std) > _ALIKE:
        width = ends[1] - ends[0]
        white, mean, std = 1.0, [-ends[0] / width], [1 / width]
    if channels == 1:
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    times = 1 if channels == 1 or len(mean) == 3 else 3
    return {"white": white, "mean": mean * times, "std": std * times}


def _labels(path: Path) -> tuple[str, ...] | None:
    """The lines of the only list of labels in the archive that LiteRT's metadata put behind the graph."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            lists = [entry for entry in archive.infolist() if entry.filename.endswith(".txt")]
            if len(lists) != 1 or lists[0].file_size > _LONGEST:
                return None
            lines = archive.read(lists[0]).decode("utf-8").splitlines()
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, OSError, NotImplementedError, RuntimeError):
        return None
    return tuple(line.strip() for line in lines if line.strip()) or None


def _normalisation(model: Any, channels: int | None) -> dict[str, Any]:
    """Mean and std for pixels from 0 to 255, and the order of the colours, from LiteRT's metadata; empty without.

    Schema: metadata_schema.fbs of tflite-support. The places of its fields are written here, because the package that
    reads it is no longer released.
    """
    buffers = [entry.buffer for entry in model.metadata or () if entry.name == _METADATA]
    if not buffers or model.buffers[buffers[0]].data is None:
        return {}
    try:
        root = _Table.root(bytes(model.buffers[buffers[0]].data))
        image = root.tables(3)[0].tables(2)[0]
        options = next(unit.table(1) for unit in image.tables(4) if unit.number(0) == 1)
        mean, std = options.floats(0), options.floats(1)
        content = image.table(3) if image.has(3) else None
        rgb = content is not None and content.number(0) == 2 and content.table(1).number(0) == 1
    # A damaged note sends the reader anywhere; what it says is left out then.
    except Exception:
        return {}
    found = normalisation(mean, std, channels) if mean else {}
    return found | ({"channels": "rgb"} if found and rgb and channels != 1 else {})


class _Table:
    """A table of a flat buffer; fields have the numbers of their places in the schema."""

    def __init__(self, table: Any) -> None:
        self._table = table

    @classmethod
    def root(cls, content: bytes) -> "_Table":
        from flatbuffers import Table, encode, number_types

        return cls(Table(content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0)))

    def has(self, field: int) -> bool:
        return bool(self._place(field))

    def tables(self, field: int) -> list["_Table"]:
        where = self._place(field)
        if not where:
            return []
        start = self._table.Vector(where)
        inner = [self._table.Indirect(start + 4 * at) for at in range(self._table.VectorLen(where))]
        return [_Table(type(self._table)(self._table.Bytes, place)) for place in inner]

    def table(self, field: int) -> "_Table":
        place = self._table.Indirect(self._place(field) + self._table.Pos)
        return _Table(type(self._table)(self._table.Bytes, place))

    def number(self, field: int) -> int:
        """One byte, 0 where it is not there."""
        where = self._place(field)
        return self._table.Bytes[where + self._table.Pos] if where else 0

    def floats(self, field: int) -> list[float]:
        from flatbuffers import number_types

        where = self._place(field)
        return self._table.GetVectorAsNumpy(number_types.Float32Flags, where).tolist() if where else []

    def _place(self, field: int) -> int:
        return self._table.Offset(4 + 2 * field)


def _learned(model: Any, graph: Any) -> tuple[int, int]:
    """How many numbers it has learned, and their bytes, floats as float32: its constants of floats, and the whole
    numbers that a quantised file keeps in their place, which have a scale."""
    numbers = size = 0
    for tensor in graph.tensors:
        data = model.buffers[tensor.buffer].data
        shape = [int(side) for side in tensor.shape] if tensor.shape is not None else []
        if data is None or not len(data) or math.prod(shape) < 2:
            continue
        scaled = tensor.quantization is not None and tensor.quantization.scale is not None
        count = math.prod(shape)
        if tensor.type in (_FLOAT32, _FLOAT16):
            size += 4 * count
        elif scaled and tensor.type in (_INT8, _UINT8, _INT4, _INT32):
            size += count * (4 if tensor.type == _INT32 else 1)
        else:
            continue
        numbers += count
    return numbers, size
