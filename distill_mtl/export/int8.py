"""An ONNX file in 8 bits, and what that loses.

ONNX Runtime quantises statically, with ranges that real rows have shown. The loss is the comparison of the int8 file
with the fp32 one, in the table in which students stand beside teachers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from distill_mtl.errors import ExportError, brief
from distill_mtl.evaluation import Comparison, Evaluation, EvaluationSet
from distill_mtl.evaluation.comparison import ComparisonSettings, compare_with_progress
from distill_mtl.export.deployable import INPUT, Deployable
from distill_mtl.export.export_format import ExportRequest
from distill_mtl.export.parity import RealRows
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtimes.onnx_file import package
from distill_mtl.teachers.load_teacher import Asked, teachers_of
from distill_mtl.teachers.shared_trunks import JoinedTeachers

QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Relu")
"""Operators that work in 8 bits. Left in floating point: what resizes and normalises pictures, attention, normalisation
inside the network, and what decodes."""
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantise(file: Path, batches: Iterable[Tensor], answers: Iterable[str]) -> None:
    """Write a file's weights in 8 bits (a scale per channel) and let it compute in 8 bits.

    Activations reach from the smallest to the largest value that the rows show (MinMax), without a sign: ONNX
    Runtime's kernels for x86 processors are made for unsigned activations with signed weights. (ResNet-18 at 224
    pixels, one thread of an EPYC with VNNI: fp32 51 ms, so 18 ms, with a sign 79 ms.) The last linear layer of every
    head stays in floating point: it is small, and its rounding would be the answer's.

    Args:
        file: without external data; replaced.
        batches: images as the file takes them.
        answers: names of the outputs that are logits.

    Raises:
        ExportError: ONNX Runtime cannot quantise it.
    """
    quantization = package("onnxruntime.quantization")
    shape_inference = package("onnxruntime.quantization.shape_inference")
    ready = file.with_name(f"{file.stem}-ready{file.suffix}")
    try:
        shape_inference.quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready),
            str(file),
            _reader(quantization.CalibrationDataReader, iter(batches)),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=_left_in_float(package("onnx").load(ready).graph, answers),
            extra_options={"MatMulConstBOnly": True},
        )
    # Its errors have no common type of their own.
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot quantise the student: {brief(error)}.") from error
    finally:
        ready.unlink(missing_ok=True)


def _reader(base: Any, batches: Iterator[Tensor]) -> Any:
    """The batches as ONNX Runtime asks for them."""

    class Batches(base):
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Batches()


def _left_in_float(graph: Any, answers: Iterable[str]) -> list[str]:
    """Names of the nodes nearest to the outputs that have weights, and of everything behind them; and of what stands
    before the first convolution, which resizes and normalises the pictures."""
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, None] = {}
    first = next((node for node in graph.node if node.op_type == "Conv"), None)
    waiting = [] if first is None else [first.input[0]]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found:
            found[node.name] = None
            waiting.extend(node.input)
    for answer in answers:
        waiting = [answer]
        while waiting:
            node = makers.get(waiting.pop())
            if node is None or node.name in found:
                continue
            found[node.name] = None
            if node.op_type not in _LINEAR:
                waiting.extend(node.input)
    return list(found)


def compare_files(
    request: ExportRequest, rows: RealRows, module: Deployable, int8: Path, fp32: Path
) -> Evaluation:
    """The int8 file in the student's column, the fp32 one in the teachers', on the test rows of the run's recipe."""
    recipe, size = rows.recipe, module.trunk.inputs.size
    quantised, whole = (
        teachers_of(open_network(file, trust=request.source.trust), dict.fromkeys(module.kinds, Asked()))
        for file in (int8, fp32)
    )
    test = EvaluationSet(rows.sources(size), "test", batch_size=recipe.evaluation.batch_size)
    found = compare_with_progress(
        Comparison(JoinedTeachers(quantised), whole, module.kinds, test),
        ComparisonSettings.of(recipe),
        request.console,
        name="int8 against fp32",
    )
    # All tasks of a file are answered in one pass, so no task has a cost of its own.
    assert found.cost.teachers is not None
    cost = replace(
        found.cost,
        student=replace(found.cost.student, bytes=int8.stat().st_size),
        teachers=replace(found.cost.teachers, bytes=fp32.stat().st_size),
        each={},
    )
    return found.changed(cost=cost, student="int8", against="fp32")
