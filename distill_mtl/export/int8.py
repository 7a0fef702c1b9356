"""A student in 8 bits, and what that loses.

ONNX Runtime quantises statically, with ranges that real rows have shown. The loss is the comparison of the int8 file
with the fp32 one, in the table in which students stand beside teachers.
"""

import shutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from distill_mtl.errors import ExportError, brief
from distill_mtl.evaluation import Comparison, Evaluation, EvaluationSet
from distill_mtl.evaluation.comparison import ComparisonSettings, compare_with_progress
from distill_mtl.export.deployable import INPUT, Deployable, remove_unread
from distill_mtl.export.export_format import ExportRequest, only_tasks
from distill_mtl.export.file_runtimes import FILE_RUNTIMES
from distill_mtl.export.graph_format import GraphFormat, telling
from distill_mtl.export.parity import RealRows, check_parity
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtimes.onnx_file import package
from distill_mtl.report.console import console_table
from distill_mtl.teachers.load_teacher import Asked, teachers_of
from distill_mtl.teachers.shared_trunks import JoinedTeachers

QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Relu")
"""Operators that work in 8 bits. Left in floating point: what resizes and normalises pictures, attention, normalisation
inside the network, and what decodes."""
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


_BATCH = 32  # rows of a pass of the calibration


class QuantisableFormat(GraphFormat):
    """A format that takes `--int8`: its file, checked in fp32, gives way to one in 8 bits, compared with it."""

    options = GraphFormat.options | {"int8", "fit"}

    @abstractmethod
    def write_int8(
        self, module: Deployable, note: dict[str, Any], path: Path, batches: Iterable[Tensor]
    ) -> None:
        """Write the student in 8 bits in place of the file in fp32, with the note in it.

        Args:
            module: as it was written in fp32.
            note: of the file in 8 bits.
            path: of the file.
            batches: images as the file takes them, of training rows.
        """

    def finish(
        self, request: ExportRequest, module: Deployable, note: dict[str, Any], rows: RealRows, file: Path
    ) -> None:
        if not request.int8:
            return
        whole = file.with_name(f"{file.stem}-fp32{file.suffix}")
        self._write_fp32(request, note, file, whole)
        with telling(request, f"quantising on {request.calibration} training rows"):
            self.write_int8(
                module, note | {"precision": "int8"}, file, calibration_batches(request, module, rows)
            )
        small, large = (sum(part.stat().st_size for part in parts_of(path)) / 1e6 for path in (file, whole))
        request.console.print(f"int8: {small:.2f} MB, fp32 {large:.2f} MB")
        if request.data:
            runtime = FILE_RUNTIMES[self.runtimes[0]]
            found = check_parity(
                module,
                request.source.original.load(),
                runtime.open(file, self.ending),
                rows.for_check(module),
            )
            request.console.print(found.table("int8"))
            data = " ".join(f"{task}=SHARDS" for task in request.tasks)
            request.console.print(
                "What int8 loses in points is measured on rows with labels: leave out --data for those of the run, or "
                f"distill-mtl evaluate --student {request.out} --against {request.source.run} --data {data}",
                soft_wrap=True,
                highlight=False,
            )
        else:
            evaluation = compare_files(request, rows, module, file, whole)
            request.console.print(console_table(evaluation))
            evaluation.write(file.with_name(f"{file.name}.results.json"))
        for part in parts_of(whole):
            part.unlink()

    def _write_fp32(self, request: ExportRequest, note: dict[str, Any], file: Path, whole: Path) -> None:
        """The run's own student as a file, which the int8 one is compared with; `file` is the one in fp32 so far."""
        if request.source.trained is None:
            for part in parts_of(file):
                shutil.copyfile(part, whole.with_suffix(part.suffix))
            return
        student = only_tasks(request.source.original.load(), list(request.tasks))
        remove_unread(student.trunk)
        self.write_file(self.module(replace(request, student=student)), note, whole)


def calibration_batches(request: ExportRequest, module: Deployable, rows: RealRows) -> Iterator[Tensor]:
    """Images of training rows as a graph takes them.

    Raises:
        ExportError: there are fewer rows than the graph takes at once.
    """
    images, _ = rows.take("train", request.calibration, module.view or module.trunk.inputs.size)
    parts = [part for part in images.split(module.batch or _BATCH) if module.batch in (None, len(part))]
    if not parts:
        raise ExportError(
            f"--int8: {len(images)} training rows are no whole batch of --batch {module.batch}. Raise --calibration."
        )
    return (module.taken(part.float() / 255) for part in parts)


def parts_of(file: Path) -> list[Path]:
    """The file, and those with its weights."""
    return [path for path in file.parent.iterdir() if path.stem == file.stem]


def quantise(file: Path, batches: Iterable[Tensor], answers: Iterable[str]) -> None:
    """Write a file's weights in 8 bits (a scale per channel) and let it compute in 8 bits.

    Activations reach from the smallest to the largest value that the rows show (MinMax), without a sign: ONNX
    Runtime's kernels for x86 processors are made for unsigned activations with signed weights. (ResNet-18 at 224
    pixels, one thread of an EPYC with VNNI: fp32 51 ms, so 18 ms, with a sign 79 ms.) The last linear layer of every
    head stays in floating point: it is small, and its rounding would be the answer's. So do the sums of a
    transformer: its residual stream has a few channels far larger than the others, so that one scale for all leaves
    little of those. (A ViT of 4 x 4 patches: 3.7 % of its decisions changed, 1.4 % without sums in 8 bits, at the same
    speed. A ResNet-18 keeps its sums in 8 bits, which are 10 % of its time.) And what adds a constant, as GroupNorm.

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
    """Names of the nodes that are not quantised: those nearest to the outputs that have weights, and everything behind
    them; what stands before the first convolution, which resizes and normalises the pictures; and sums with a constant,
    of a transformer all."""
    transformer = any(node.op_type == "LayerNormalization" for node in graph.node)
    constants = {value.name for value in graph.initializer}
    sums = (node for node in graph.node if node.op_type == "Add")
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
    found |= {node.name: None for node in sums if transformer or constants.intersection(node.input)}
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
        student=replace(found.cost.student, bytes=sum(part.stat().st_size for part in parts_of(int8))),
        teachers=replace(found.cost.teachers, bytes=sum(part.stat().st_size for part in parts_of(fp32))),
        each={},
    )
    return found.changed(cost=cost, student="int8", against="fp32")
