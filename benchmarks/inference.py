"""The merged student against its teachers, as they are deployed: eager, exported, and int8, as a Markdown table.

    python benchmarks/inference.py [runs/multidigits] [--batch 128] [--rounds 15] [--threads N]

needs the run that `accelerate launch distill.py recipes/multidigits.yaml` leaves, and the extra [onnx]. Everything
takes the same real test images in [0, 1] and answers all tasks: the teachers one after another (heads of one file in
one pass) in PyTorch and in ONNX Runtime; the student in PyTorch, as a torch.export program, in ONNX Runtime, and
quantised there. The student's files are written by `distill-mtl export` into a folder of their own, through its checks.
Rounds are interleaved, so that other work on the machine affects all of them; figures are medians of wall-clock time.
"Difference" is the largest of any logit from the eager network's, beside its largest logit; "same
decisions" is the share of decisions that stay in the task with the fewest, on the rows of the large batch.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.export import Dim

from distill_mtl.export.deployable import INPUT, Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.jobs.export import export_student
from distill_mtl.networks.runtime import RUNTIMES
from distill_mtl.recipe import load_recipe
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import load_student
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.shared_trunks import by_trunk
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.parts import build_sources, build_teachers
from distill_mtl.training.run_folder import RunFolder

Answer = Callable[[Tensor], Mapping[str, Tensor]]
FILES = {
    "student, torch.export": ("pt2", False),
    "student, ONNX Runtime": ("onnx", False),
    "student, ONNX Runtime, int8": ("onnx", True),
}
_FEW = 0.05  # seconds that a measurement lasts at least, so that a clock's grain does not count


@dataclass(frozen=True)
class Way:
    """One way of having all tasks answered.

    Attributes:
        answer: images [B, 3, H, W] in [0, 1] -> logits by task.
        size: bytes of the files that it takes.
    """

    answer: Answer
    size: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/multidigits"))
    parser.add_argument("--batch", type=int, default=128, help="rows of the batch that saturates")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = RunFolder(arguments.run)
    if not run.results.exists():
        parser.error(f"{run.path} holds no finished run. Run `accelerate launch distill.py RECIPE` first.")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        images, ways, kinds = make(run, Path(folder), arguments.batch)
        seconds = {
            rows: interleaved(
                {name: way.answer for name, way in ways.items()}, images[:rows], arguments.rounds
            )
            for rows in (1, len(images))
        }
        show(ways, seconds, differences(ways, images, kinds), len(images))
    print(f"\n{run.path}, {arguments.rounds} rounds, {machine(arguments.threads)}")


def make(run: RunFolder, folder: Path, rows: int) -> tuple[Tensor, dict[str, Way], Mapping[str, TaskKind]]:
    """Test images of every task, and each way of answering, the eager networks as what the others are compared with."""
    recipe = load_recipe(run.recipe)
    teachers, kinds = build_teachers(recipe)
    student = load_student(run.student).student
    sources = build_sources(
        recipe, kinds, [student.trunk.inputs, *(card.inputs for card in teachers.cards.values())]
    )
    share = -(-rows // len(kinds))
    images = torch.cat(
        [next(iter(sources.labelled(task, "test", share))).to(torch.device("cpu")).images for task in kinds]
    )[:rows]
    files = {card.file for card in teachers.cards.values()}
    eager = Teachers(dict(teachers)).eval()
    exported = folder / "teachers.onnx"
    torch.onnx.export(
        eager,
        (images[:2],),
        exported,
        input_names=[INPUT],
        output_names=eager.tasks,
        dynamic_shapes=({0: Dim.DYNAMIC},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    ways = {
        f"{len(teachers)} teachers": Way(eager, sum(file.stat().st_size for file in files)),
        f"{len(teachers)} teachers, ONNX Runtime": Way(
            RUNTIMES[exported.suffix](exported), exported.stat().st_size
        ),
        "student": Way(student, (run.student / "model.safetensors").stat().st_size),
    }
    for name, (form, int8) in FILES.items():
        place = folder / f"{form}{'-int8' if int8 else ''}{FORMATS[form]().ending}"
        export_student(run.path, form, out=place, int8=int8, console=Console(quiet=True))
        ways[name] = Way(file_answer(place, student), place.stat().st_size)
    return images, ways, kinds


class Teachers(nn.Module):
    """Every teacher in turn, one pass for those that share a trunk, as a deployment without a student runs them."""

    def __init__(self, teachers: dict[str, Teacher]) -> None:
        super().__init__()
        self.groups = by_trunk(teachers)
        self.parts = nn.ModuleList(teachers.values())
        self.tasks = [task for group in self.groups for task in group]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = {}
        for group in self.groups:
            features = next(iter(group.values())).network.run(images)
            logits |= {task: teacher.network.read(features)["logits"] for task, teacher in group.items()}
        return logits


def file_answer(place: Path, student: Student) -> Answer:
    """What a file answers in its runtime; pictures are normalised before it, in PyTorch, as the eager student does."""
    run, taken = RUNTIMES[place.suffix](place), Deployable(student, "normalised", decode=False).taken
    return lambda images: run(taken(images))


def interleaved(ways: Mapping[str, Answer], images: Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of a call of each way, measured in turn; two rounds warm up."""
    calls = {name: max(1, round(_FEW / once(answer, images))) for name, answer in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, answer in ways.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                answer(images)
            if number >= 2:
                taken[name].append((time.perf_counter() - start) / calls[name])
    return {name: statistics.median(values) for name, values in taken.items()}


def once(answer: Answer, images: Tensor) -> float:
    """Seconds of the second call."""
    answer(images)
    start = time.perf_counter()
    answer(images)
    return time.perf_counter() - start


def differences(ways: Mapping[str, Way], images: Tensor, kinds: Mapping[str, TaskKind]) -> dict[str, str]:
    """What each file answers beside the eager network: largest difference of a logit, and decisions alike."""
    found: dict[str, str] = {}
    for name, way in ways.items():
        eager = name.partition(",")[0]
        if eager == name:
            continue
        expected, said = ways[eager].answer(images), way.answer(images)
        largest = max(float(logits.abs().max()) for logits in expected.values())
        difference = max(float((said[task] - expected[task]).abs().max()) for task in kinds)
        alike = [kind.agreement(said[task], expected[task]).mean().item() for task, kind in kinds.items()]
        found[name] = f"{difference:.1e} of {largest:.1f} | {100 * min(alike):.1f} %"
    return found


def show(
    ways: Mapping[str, Way],
    seconds: Mapping[int, Mapping[str, float]],
    different: Mapping[str, str],
    batch: int,
) -> None:
    first = next(iter(ways))
    print(
        f"| all tasks by | MB | 1 image, ms | ratio | {batch} images, rows/s | ratio | difference | same decisions |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, way in ways.items():
        one, many = seconds[1], seconds[batch]
        print(
            f"| {name} | {way.size / 1e6:.2f} | {1000 * one[name]:.2f} | {one[name] / one[first]:.2f}× "
            f"| {batch / many[name]:,.0f} | {many[first] / many[name]:.2f}× | {different.get(name, ' | ')} |"
        )


def machine(threads: int) -> str:
    """What the figures were taken on."""
    import onnxruntime

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return f"{threads} threads of {cpu}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
