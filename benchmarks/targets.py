"""What targets cost: live teachers, a cache of them, and labels alone, side by side; and writing the cache.

    OMP_NUM_THREADS=1 python benchmarks/targets.py

timm's resnet18 at 64 px, batch 64, three teachers of the same architecture, three data sets of 64 px JPEGs that
are each labelled for one task. All three ways train the same rows in the same two views with the same
student and rule, reading included. Rounds are interleaved, so that other work on the machine affects all of
them; figures are medians of process CPU time on one thread. A last table shows the error of each way to
store logits.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from loader import SIDE, SOURCES, write_shards
from step_cost import interleaved, saved_teacher
from torch import Tensor

from distill_mtl import load_recipe
from distill_mtl.distillation.objective import Objective
from distill_mtl.targets.encoding import AnswerCodec, Half, Int8, TopK
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.plan import SidecarFolders, Unit
from distill_mtl.targets.write import CacheWriter
from distill_mtl.tasks.losses import soft_divergence
from distill_mtl.training.parts import Parts, build
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer
from distill_mtl.training.target_providers import live_twin, plan_targets

ROWS, VIEWS, AT_ONCE, STEPS = 64, 2, 128, 1000
MANY = 10_450  # ImageNet-21k without its rare classes
WAYS = {
    "labels only": ("targets.from=live", "training.teachers_on=none"),
    "cached": ("targets.from=cached",),
    "live": ("targets.from=live",),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_world(Path(folder))
        written, bare = write_and_forward(recipe)
        steps = {way: step_of(build(load_recipe(recipe, WAYS[way]))) for way in WAYS}
        seconds = interleaved(steps, arguments.rounds)
        codecs, _ = planned(build(live_twin(load_recipe(recipe))))
    print(f"| training | ms per step (median of {arguments.rounds}) | rows/s | ratio to labels only |")
    print("|---|---:|---:|---:|")
    for way, value in seconds.items():
        beside = value / seconds["labels only"]
        print(f"| {way} | {1000 * value:.0f} | {ROWS / value:.0f} | {beside:.3f} |")
    print(
        f"\nwriting: {written:.1f} rows/s, the teachers' bare forward {bare:.1f} rows/s, share {written / bare:.3f}"
    )
    print(f"bytes a row, view and teacher: {bytes_per_row(next(iter(codecs.values())))}")
    print_accuracy()


def print_accuracy() -> None:
    """What each form of keeping logits costs in divergence from the whole, for many classes.

    Random logits of the usual kind: a wide bulk, twenty classes above it, one far above.
    """
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(64, MANY, generator=random)
    for row in logits:
        row[torch.randperm(MANY, generator=random)[:20]] += 6 * torch.rand(20, generator=random)
        row[torch.randint(MANY, (1,), generator=random)] += 14
    shape = (MANY,)
    forms = {"fp16": Half("x", shape), "int8": Int8("x", shape)}
    forms |= {f"top {k}": TopK("x", shape, k) for k in (64, 256, 1024)}
    print(f"\n| {MANY:,} logits | bytes per row | KL at temperature 1 | at 4 |\n|---|---:|---:|---:|")
    for name, codec in forms.items():
        decoded = codec.decode(codec.encode(logits), torch.device("cpu"))
        size = sum(slot.size for slot in codec.slots.values())
        print(f"| {name} | {size:,} | {cost(decoded, logits, 1.0)} | {cost(decoded, logits, 4.0)} |")
    alike = torch.zeros_like(logits)
    print(f"| none, all alike | 0 | {cost(alike, logits, 1.0)} | {cost(alike, logits, 4.0)} |")


def cost(kept: Tensor, whole: Tensor, temperature: float) -> str:
    """Mean divergence; what lies below float32's own rounding is told as that."""
    divergence = float(soft_divergence(kept, whole, temperature).mean()) / temperature**2
    return f"{divergence:.1e}" if divergence > 1e-6 else "below 1e-6"


def write_world(folder: Path) -> Path:
    """Shards, teachers and a recipe over them."""
    write_shards(folder)
    for source in SOURCES:
        saved_teacher(folder, source)
    text = {
        "student": {"model": "resnet18", "input_size": SIDE, "init": "random"},
        "tasks": {
            source: {
                "teacher": str(folder / source),
                "data": {
                    "shards": str(folder / f"{source}-train.tar"),
                    "split": {
                        split: str(folder / f"{source}-{split}.tar") for split in ("validation", "test")
                    },
                },
            }
            for source in SOURCES
        },
        "balance": "uniform",
        "targets": {"views": VIEWS},
        "training": {"batch_size": ROWS, "steps": STEPS},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(text))
    return folder / "recipe.yaml"


def step_of(parts: Parts) -> Callable[[], object]:
    """One whole step of a run, its batch read from the shards."""
    objective = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule)
    providers = parts.providers(parts.targets(), parts.student)
    trainer = Trainer(
        start_accelerator(parts.recipe.training), objective, providers, parts.recipe, schedule=parts.schedule
    )
    trainer.module.train()
    stream = enumerate(parts.sources.stream(steps=STEPS))

    def step() -> None:
        number, batch = next(stream)
        trainer.step(number, [batch])

    return step


def planned(parts: Parts) -> tuple[dict[str, AnswerCodec], list[Unit]]:
    """The cache of a recipe."""
    facts = {task: parts.teachers.facts(task) for task in parts.teachers}
    return plan_targets(parts.recipe, parts.loss_configs, facts, parts.sources)


def write_and_forward(recipe: Path) -> tuple[float, float]:
    """Rows per second (each under its views, through all teachers) of writing and of bare forwards, in turns."""
    parts = build(live_twin(load_recipe(recipe)))
    _, units = planned(parts)
    writer = CacheWriter(
        parts.sources.picture_reader,
        LiveTeachers(parts.teachers),
        SidecarFolders().to_write,
        rows_at_once=AT_ONCE // VIEWS,
        workers=0,
        device=torch.device("cpu"),
        made={},
    )
    images = torch.rand(AT_ONCE, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    rows = AT_ONCE // VIEWS
    written: list[float] = []
    bare: list[float] = []
    for unit in units:
        for _ in timed(writer.write([unit]), written):
            start = time.process_time()
            for teacher in parts.teachers.values():
                teacher(images)
            bare.append(time.process_time() - start)
    return rows / statistics.median(written), rows / statistics.median(bare)


def timed(blocks: Iterator[int], taken: list[float]) -> Iterator[int]:
    """The blocks, and how long each of them took."""
    while True:
        start = time.process_time()
        try:
            rows = next(blocks)
        except StopIteration:
            return
        taken.append(time.process_time() - start)
        yield rows


def bytes_per_row(codec: AnswerCodec) -> str:
    """Of one teacher: its slots, and box and flip of the view."""
    each = ", ".join(f"{name} {slot.size}" for name, slot in codec.slots.items())
    return f"{sum(slot.size for slot in codec.slots.values()) + 17} ({each}, box and flip 17)"


if __name__ == "__main__":
    main()
