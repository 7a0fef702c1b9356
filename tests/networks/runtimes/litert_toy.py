"""The small classifier of `deployed` as a .tflite file, written with LiteRT's own schema."""

from pathlib import Path
from typing import Any

import numpy as np
from deployed import SIZE, Classifier
from torch import nn

FLOAT, BYTES, SIGNED = 0, 3, 9
"""`TensorType` of the input."""


def save_litert(
    network: Classifier,
    path: Path,
    *,
    image: int = FLOAT,
    span: tuple[float, float] | None = (0.0, 1.0),
    batch: int | None = None,
    quantised_answer: bool = False,
    metadata: bytes | None = None,
) -> Path:
    """Images [batch, 16, 16, 3] -> `logits`, by way of `relu`.

    Args:
        network: in evaluation mode.
        image: type of the input.
        span: what the lowest and the highest whole number of the input stand for; None: the file does not say it, and
            the network does not run.
        batch: the only number of rows; None: any.
        quantised_answer: the logits are int8, in steps of 1/16.
        metadata: LiteRT's note, as `normalised` writes it.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    made = _Graph(schema)
    rows = -1 if batch is None else batch
    shape = [batch or 1, SIZE, SIZE, 3]
    scale = None
    if image != FLOAT and span is not None:
        step = (span[1] - span[0]) / 255
        scale = (step, round(-span[0] / step) - (0 if image == BYTES else 128))
    pixels = made.tensor("images", shape, image, open_rows=rows < 0, scale=scale)
    if image != FLOAT:
        pixels = made.run(6, [pixels], made.tensor("pixels", shape, open_rows=rows < 0))
    weight, bias = _folded(network.conv, network.bn)
    around = made.constant("around", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    padded = made.tensor("padded", [shape[0], SIZE + 2, SIZE + 2, 3], open_rows=rows < 0)
    made.run(34, [pixels, around], padded, schema.PadOptionsT())
    convolution = schema.Conv2DOptionsT()
    convolution.padding, convolution.strideW, convolution.strideH = 1, 2, 2
    convolution.fusedActivationFunction = 1
    relu = made.tensor("relu", [shape[0], SIZE // 2, SIZE // 2, 6], open_rows=rows < 0)
    made.run(3, [padded, made.constant("conv", weight), made.constant("bias", bias)], relu, convolution)
    mean = made.tensor("mean", [shape[0], 6], open_rows=rows < 0)
    made.run(40, [relu, made.constant("axes", np.array([1, 2], np.int32))], mean, schema.ReducerOptionsT())
    head = [
        made.constant("head", _numpy(network.head.weight)),
        made.constant("head.bias", _numpy(network.head.bias)),
    ]
    answer = made.tensor("logits", [shape[0], 4], open_rows=rows < 0)
    made.run(9, [mean, *head], answer, schema.FullyConnectedOptionsT())
    if quantised_answer:
        steps = made.tensor("steps", [shape[0], 4], SIGNED, open_rows=rows < 0, scale=(1 / 16, 3))
        answer = made.run(114, [answer], steps, schema.QuantizeOptionsT())
    if metadata is not None:
        made.note("TFLITE_METADATA", metadata)
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.model(pixels_first=0, answer=answer).Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def normalised(mean: list[float], std: list[float], *, rgb: bool) -> bytes:
    """LiteRT's metadata (metadata_schema.fbs) of an image with NormalizationOptions, and ImageProperties if `rgb`."""
    import flatbuffers

    builder = flatbuffers.Builder(256)

    def floats(values: list[float]) -> Any:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependFloat32(value)
        return builder.EndVector()

    def vector(table: Any) -> Any:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(table)
        return builder.EndVector()

    def table(*, numbers: dict[int, int] | None = None, **tables: Any) -> Any:
        builder.StartObject(8)
        for place, number in (numbers or {}).items():
            builder.PrependUint8Slot(place, number, 0)
        for place, inner in tables.items():
            builder.PrependUOffsetTRelativeSlot(int(place[1:]), inner, 0)
        return builder.EndObject()

    unit = table(numbers={0: 1}, _1=table(_0=floats(mean), _1=floats(std)))
    content = {"_3": table(numbers={0: 2}, _1=table(numbers={0: 1}))} if rgb else {}
    image = table(_4=vector(unit), **content)
    builder.Finish(table(_3=vector(table(_2=vector(image)))), b"M001")
    return bytes(builder.Output())


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Weights [out, h, w, in] and bias of a convolution with its normalisation."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = conv.weight * gain[:, None, None, None]
    return _numpy(weight.permute(0, 2, 3, 1)), _numpy(norm.bias - norm.running_mean * gain)


def _numpy(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy(), np.float32)


class _Graph:
    def __init__(self, schema: Any) -> None:
        self.schema, self.graph, self.result = schema, schema.SubGraphT(), schema.ModelT()
        self.graph.tensors, self.graph.operators = [], []
        self.result.operatorCodes, self.result.buffers = [], [schema.BufferT()]

    def tensor(
        self,
        name: str,
        shape: list[int],
        kind: int = FLOAT,
        *,
        open_rows: bool = False,
        scale: Any = None,
        buffer: int = 0,
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
        if open_rows:
            tensor.shapeSignature = [-1, *shape[1:]]
        if scale is not None:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale[0]], [scale[1]]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, values: np.ndarray) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.result.buffers.append(buffer)
        kind = FLOAT if values.dtype == np.float32 else 2
        return self.tensor(name, list(values.shape), kind, buffer=len(self.result.buffers) - 1)

    def run(self, operation: int, inputs: list[int], output: int, options: Any = None) -> int:
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = operation, min(operation, 127), 1
        self.result.operatorCodes.append(code)
        node = self.schema.OperatorT()
        node.opcodeIndex, node.inputs, node.outputs = len(self.result.operatorCodes) - 1, inputs, [output]
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            node.builtinOptionsType, node.builtinOptions = getattr(self.schema.BuiltinOptions, name), options
        self.graph.operators.append(node)
        return output

    def note(self, name: str, content: bytes) -> None:
        buffer, note = self.schema.BufferT(), self.schema.MetadataT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.result.buffers.append(buffer)
        note.name, note.buffer = name, len(self.result.buffers) - 1
        self.result.metadata = [note]

    def model(self, *, pixels_first: int, answer: int) -> Any:
        self.graph.inputs, self.graph.outputs = [pixels_first], [answer]
        self.result.version, self.result.subgraphs = 3, [self.graph]
        return self.result
