"""An ONNX file in 8 bits: ONNX Runtime's static quantisation, with ranges that real rows have shown.

What quantisation loses: the int8 file against the fp32 one, in the table that students and teachers stand in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill_mtl.display import Display
from distill_mtl.errors import ExportError, brief
from distill_mtl.evaluation import Evaluation, EvaluationSet, compare_networks
from distill_mtl.export.deployable import INPUT, Deployable
from distill_mtl.export.export_format import Order
from distill_mtl.export.parity import RealRows
from distill_mtl.networks.runtimes.onnx_file import package
from distill_mtl.recipe import Recipe
from distill_mtl.teachers.teacher import TeacherOutput

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
            nodes_to_exclude=_last_layers(package("onnx").load(ready).graph, answers),
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


def _last_layers(graph: Any, answers: Iterable[str]) -> list[str]:
    """Names of the nodes nearest to the outputs that have weights, and of everything behind them."""
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, None] = {}
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


class Served(nn.Module):
    """A file in its runtime, as evaluation asks a student: images in [0, 1] -> logits by task.

    Args:
        run: the file.
        module: that was exported.
        size: bytes of the file.
    """

    def __init__(self, run: Callable[[Tensor], dict[str, Tensor]], module: Deployable, size: int) -> None:
        super().__init__()
        self._run, self._taken, self.size = run, module.taken, size

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        return self._run(self._taken(images))


class _Task(nn.Module):
    """One task of a file, as evaluation asks a teacher."""

    def __init__(self, network: Served, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: Tensor) -> TeacherOutput:
        return TeacherOutput(self.network(images)[self.task], {})


def compare_files(
    order: Order, rows: RealRows, recipe: Recipe, module: Deployable, int8: Served, fp32: Served
) -> Evaluation:
    """The int8 file in the student's column, the fp32 one in the teachers', on the test rows of the run's recipe."""
    size = module.trunk.inputs.size
    evaluation_set = EvaluationSet(rows.sources(size), "test", batch_size=recipe.evaluation.batch_size)
    total = sum(evaluation_set.rows(task) for task in module.kinds)
    with Display(order.console, "int8 against fp32", total, unit="row") as display:
        found = compare_networks(
            int8,
            {task: _Task(fp32, task) for task in module.kinds},
            module.kinds,
            evaluation_set,
            size=size,
            acceptance=recipe.acceptance.margin,
            rule=recipe.acceptance.rule,
            resamples=recipe.evaluation.bootstrap,
            seed=recipe.seed,
            progress=lambda done, total: display.update(done),
        )
    # All tasks of a file are answered in one pass, so a task's teacher costs as much as all of them.
    whole = next(iter(found.cost.each.values()))
    cost = replace(
        found.cost,
        student=replace(found.cost.student, bytes=int8.size),
        teachers=replace(whole, bytes=fp32.size),
        each={},
    )
    return found.changed(cost=cost, student="int8", against="fp32")
