"""The cost of variants of live teachers, as a Markdown table.

    OMP_NUM_THREADS=2 python benchmarks/live.py [--rounds 9] [--compile]

Three resnet18 teachers at 64 px, 48 rows of which each teacher is needed on two thirds, as on a batch of
three data sets. Rounds are interleaved; figures are medians of process CPU time as a ratio to "each
teacher on the rows that need it, fp32". torch.compile runs with --compile only, because it takes minutes to start.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from step_cost import interleaved, saved_teacher

from distill_mtl.data.batch import Batch
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student import FAMILIES, Student
from distill_mtl.students.student_folder import save_student
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.shared_trunks import share_trunks
from distill_mtl.teachers.teacher import Teacher

ROWS, SIZE, TASKS = 48, 64, ("a", "b", "c")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = make_ways(Path(folder), compiled=arguments.compile)
    medians = interleaved(ways, arguments.rounds)
    basis = next(iter(medians.values()))
    print("| way | time | ms |\n|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median / basis:.2f} | {1000 * median:.0f} |")


def make_ways(folder: Path, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """Functions that ask three teachers about one batch, the ordinary way first."""
    images = torch.rand(ROWS, 3, SIZE, SIZE)
    source = torch.arange(ROWS) % len(TASKS)
    labelled = {task: source == place for place, task in enumerate(TASKS)}
    batch = Batch(images, {}, labelled, [str(row) for row in range(ROWS)], source)
    for task in TASKS:
        saved_teacher(folder, task)
    apart = load({task: folder / task for task in TASKS})
    ways: dict[str, Callable[[], object]] = {
        "each teacher on the rows that need it, fp32": lambda: LiveTeachers(apart)(batch)
    }
    everything = LiveTeachers(apart, "all")
    ways["each teacher on every row"] = lambda: everything(batch)
    for precision in ("bf16", "fp16"):
        low = LiveTeachers(apart, precisions=dict.fromkeys(TASKS, precision))
        ways[precision] = lambda low=low: low(batch)
    contiguous = load({task: folder / task for task in TASKS})
    for teacher in contiguous.values():
        teacher.to(memory_format=torch.contiguous_format)
    rows_first = LiveTeachers(contiguous)
    ways["weights not channels-last"] = lambda: rows_first(batch)
    shared = load(dict.fromkeys(TASKS, three_heads(folder / "shared")))
    share_trunks(shared.values())
    together = LiveTeachers(shared)
    ways["three heads of one file, its trunk run once"] = lambda: together(batch)
    if compiled:
        fast = LiveTeachers(apart, compiled=frozenset(TASKS))
        ways["torch.compile"] = lambda: fast(batch)
    return ways


def load(folders: dict[str, Path]) -> dict[str, Teacher]:
    return {
        task: load_teacher(TeacherSection(path=str(path)), task=task, layers=[None])
        for task, path in folders.items()
    }


def three_heads(folder: Path) -> Path:
    """A student folder with a head for every task."""
    trunk = FAMILIES["timm"].create("resnet18", {}, (SIZE, SIZE), pretrained=False)
    kind = build_kind("classification", [str(number) for number in range(10)])
    student = Student(trunk, dict.fromkeys(TASKS, kind))
    save_student(student, folder)
    return folder


if __name__ == "__main__":
    main()
