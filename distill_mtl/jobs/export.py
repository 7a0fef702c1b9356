"""`distill-mtl export`: from a run's folder to a file that a serving stack reads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from distill_mtl.display import output
from distill_mtl.errors import ExportError
from distill_mtl.evaluation.cost import node_costs
from distill_mtl.export.export_format import FORMATS, ExportRequest, find_student, only_tasks
from distill_mtl.export.fit import as_milliseconds, best_fit
from distill_mtl.export.int8 import QuantisableFormat
from distill_mtl.files import refuse_full_disks, refuse_unwritable
from distill_mtl.geometry.views import Size
from distill_mtl.jobs.arguments import as_names, refuse_below
from distill_mtl.jobs.int8_finetuning import finetuned_for_int8
from distill_mtl.networks.inputs import LARGEST_SIDE
from distill_mtl.networks.weights import state_bytes
from distill_mtl.students.student import Student
from distill_mtl.training.run_bucket import run_at


def export_student(
    folder: Path | str,
    to: str,
    *,
    out: Path | None = None,
    only: str | Sequence[str] | None = None,
    preprocess: Literal["float", "uint8"] | None = None,
    decode: bool = False,
    int8: bool = False,
    finetune: int | None = None,
    fit: str | None = None,
    rows: int = 64,
    calibration: int = 256,
    data: Sequence[str] = (),
    on: str | Sequence[str] | None = None,
    batch: int | None = None,
    size: str | None = None,
    teachers: bool = False,
    repo: str | None = None,
    private: bool = False,
    license: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
    console: Console | None = None,
) -> Path:
    """Write a student as a file for a serving stack, and check it.

    Write the student of a run as a file that needs nothing of distill_mtl: one input `images`, one output of logits
    per task, under the task's name. Every file is run in its own runtime on real rows before it is kept, and in others
    on request (--on). The export fails if a decision changes that the student is sure of. FILE.certificate.json says
    what was measured, and `distill-mtl verify` measures it again. More: docs/export.md.

    Args:
        folder (RUN): run folder, such as runs/multidigits or s3://bucket/runs/multidigits, a student's folder, or a
            classifier in timm's form.
        to (--to FORMAT): onnx, openvino, triton, litert, executorch, coreml, pt2, torchscript, timm or hub.
        out (FILE): default RUN/export/NAME.ENDING.
        only (TASKS): left,right: leave out all other heads and what only they read.
        preprocess ([float]): put resize and normalisation inside: `images` are then RGB [B, 3, H, W] of any height and
            width, float32 in [0, 1], or bytes with `--preprocess uint8`.
        decode: add decoded answers to the logits, as TASK.label, TASK.probabilities, TASK.depth, TASK.boxes: what
            load_student returns; maps have the size of `images`.
        int8: quantise statically with ONNX Runtime, and show what that costs in score (--to onnx,
            openvino or triton).
        finetune (STEPS): with --int8, first train on for so many steps in 8 bits, taught by the teachers and the
            student in fp32: loses less, where quantisation alone loses points. At most 1,000, or as many as the run
            had.
        fit (TIME): 5ms: of fp32 and int8, at the student's own and smaller input sizes, export the one that loses
            least of those that answer a picture in that time on this machine (--to onnx, openvino or triton).
        rows (N): number of rows for the check.
        calibration (N): number of training rows on which --int8 measures ranges.
        data (SHARDS ...): rows for the check, in place of the run's own.
        on (RUNTIMES): onnxruntime,openvino: check the file in each of these runtimes; default its own.
        batch (N): the only number of rows that the file takes; default any, or 1 with --to litert, executorch and
            coreml.
        size (HEIGHTxWIDTH): with --preprocess: the only size of pictures that the file takes, such as 480x640; default
            any. litert, executorch and coreml need it.
        teachers: also write the run's teachers in this format, and put their latency in the same runtime into the
            certificate.
        repo (OWNER/NAME): push to this repository of the Hugging Face hub (--to hub).
        private: make it a private repository, if it is new.
        license (ID): license for the model card: apache-2.0 (--to hub).
        overwrite: replace an earlier export.
        trust: let the code of your own kinds of task run.
        console: where to say what is done; default standard output.

    Returns:
        What was written.

    Raises:
        UserError: something is missing, the student has no such form, or what was written does not answer as it does.
        Stopped: Ctrl-C or SIGTERM while --finetune trained; the same command continues.
        KeyboardInterrupt: interrupted: nothing was written.

    Examples:
        Without --preprocess `images` are pixels at the student's own size, resized and normalised by you, as the
        file's note `distill_mtl` says under `inputs` (for most trunks float32 [B, 3, H, W], (RGB / 255 - mean) / std).
    """
    refuse_below(1, rows=rows, calibration=calibration, batch=batch, finetune=finetune)
    if batch is not None and batch > LARGEST_SIDE:
        raise ExportError(f"--batch {batch}: expected at most {LARGEST_SIDE:,} rows.")
    view = None if size is None else _height_and_width(size)
    if finetune is not None and not (int8 or fit is not None):
        raise ExportError("--finetune trains the student for 8 bits. Add --int8, or leave it out.")
    if fit is not None and int8:
        raise ExportError("--fit tries fp32 and int8. Leave out --int8.")
    budget = None if fit is None else as_milliseconds(fit)
    tasks = as_names(only)
    chosen = FORMATS[to]()
    asked = {
        "preprocess": preprocess is not None,
        "decode": decode,
        "int8": int8,
        "fit": fit is not None,
        "data": bool(data),
        "on": on is not None,
        "batch": batch is not None,
        "size": size is not None,
        "teachers": teachers,
        "repo": repo is not None,
        "private": private,
        "license": license is not None,
    }
    _refuse_meaningless(to, [option for option, given in asked.items() if given])
    chosen.refuse_missing()
    with run_at(folder) as run:
        source = find_student(run, trust=trust)
        if finetune is not None:
            source = finetuned_for_int8(source, finetune, console or output())
        student = only_tasks(source.load(), tasks)
        if tasks is not None:
            _say_saved(source.load().student, student, console or output())
        request = ExportRequest(
            format=to,
            source=source,
            student=student,
            out=Path(),
            pixels=preprocess or "normalised",
            decode=decode,
            int8=int8,
            rows=rows,
            calibration=calibration,
            data=data,
            overwrite=overwrite,
            console=console or output(),
            repo=repo,
            private=private,
            license=license,
            on=as_names(on),
            batch=batch,
            view=view,
            teachers=teachers,
        )
        if budget is not None:
            assert isinstance(chosen, QuantisableFormat), "other formats have refused it"
            request = best_fit(chosen, request, budget)
        place = out or source.run / "export" / f"{_name(request, tasks)}{chosen.ending}"
        refuse_unwritable(
            place, "--out", folder=chosen.writes_folder or (place.suffix == ".mlpackage" and place.is_dir())
        )
        # int8 keeps the file in fp32 beside it until both are compared.
        refuse_full_disks({place: state_bytes(student) * (3 if request.int8 else 1)}, str(place))
        chosen.export(replace(request, out=place))
    return place


def _name(request: ExportRequest, only: Sequence[str] | None) -> str:
    """Of the file, without its ending."""
    size = request.source.size
    parts = [
        request.source.name,
        *(request.tasks if only is not None else ()),
        *(["int8"] if request.int8 else []),
        *([f"{size[0]}x{size[1]}"] if size is not None else []),
    ]
    return "-".join(parts)


def _height_and_width(said: str) -> Size:
    """`480x640` as numbers; one number for both.

    Raises:
        ExportError: it is neither.
    """
    sides = said.lower().split("x")
    if len(sides) not in (1, 2) or not all(
        side.isdecimal() and 1 <= int(side) <= LARGEST_SIDE for side in sides
    ):
        raise ExportError(
            f"--size {said}: expected height and width in pixels, such as 480x640, up to {LARGEST_SIDE:,}."
        )
    return int(sides[0]), int(sides[-1])


def _say_saved(whole: Student, part: Student, console: Console) -> None:
    """Of a trunk in parts, those that no exported task runs through are left out; of coupled columns none can be."""
    if part.trunk.parts.keys() == whole.trunk.parts.keys() and "columns" in whole.trunk.layout:
        tasks, verb = " and ".join(part.kinds), "reads" if len(part.kinds) == 1 else "read"
        console.print(
            f"all columns stay: {tasks} {verb} the others; only heads are left out", highlight=False
        )
        return
    nodes = node_costs(whole, whole.trunk.inputs.size)
    left = {name: node for name, node in nodes.items() if not part.kinds.keys() & set(node.tasks)}
    if left:
        total, saved = (sum(node.flops for node in some.values()) for some in (nodes, left))
        console.print(
            f"left out of the trunk: {', '.join(left)}; saves {saved / 1e6:.1f} of {total / 1e6:.1f} MFLOPs for an "
            "image, heads not counted",
            highlight=False,
            soft_wrap=True,
        )


def _refuse_meaningless(to: str, asked: Sequence[str]) -> None:
    """Refuse options that a format has no use for."""
    for option in asked:
        if option not in FORMATS[to].options:
            able = [name for name in FORMATS.names() if option in FORMATS[name].options]
            raise ExportError(
                f"--{option} has no meaning for --to {to}; it is for {', '.join(able)}. Remove it."
            )
