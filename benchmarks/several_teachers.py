"""Two teams that know different classes of the scenes, and one student of all their networks.

    OMP_NUM_THREADS=1 python benchmarks/several_teachers.py
    python benchmarks/several_teachers.py --table

Each team has half of the training scenes of a task, labels its own classes there, and trains a network for them. A
student learns from both networks and both data sets, once with `knows`, so that what a team did not label is not known,
and once without: then a class that a team did not label is a negative. Both are measured against each team's network on
that team's classes, on test scenes that neither has seen. What is there in the work folder stays.
"""

import argparse
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
import yaml
from PIL import Image
from rich.console import Console

from distill_mtl import distill, evaluate
from distill_mtl.data.shard_files import find_shards
from distill_mtl.demos.scenes.scene_rows import ATTRIBUTES, CLASSES
from distill_mtl.evaluation import Evaluation
from distill_mtl.jobs.one_teacher import train_teacher

SPLITS = ("train", "validation", "test")
MARGINS = {"segment": 2.0, "attributes": 3.0, "objects": 2.0}


@dataclass(frozen=True)
class Task:
    """One task of the scenes, and which classes each team knows.

    Attributes:
        kind, member: of the task.
        classes: of both teams.
        teams: name -> its classes.
        settings: further keys of the task, for the student.
    """

    kind: str
    member: str
    classes: tuple[str, ...]
    teams: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, Any]


TASKS = {
    "segment": Task(
        "segmentation",
        "seg.png",
        CLASSES,
        {"round": ("background", "sphere", "cone"), "straight": ("background", "box", "cylinder")},
        {"temperature": 2},
    ),
    "attributes": Task(
        "multilabel",
        "attributes.json",
        ATTRIBUTES,
        {"things": ATTRIBUTES[:9], "places": ATTRIBUTES[5:]},
        {"temperature": 1, "metric": "error"},
    ),
    "objects": Task(
        "heatmap",
        "boxes.json",
        CLASSES[1:],
        {"round": ("sphere", "cone"), "straight": ("box", "cylinder")},
        {"temperature": 1},
    ),
}


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/several_teachers"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--size", type=int, default=64, help="of the networks' input")
    parser.add_argument("--rows", type=int, default=64, help="of a batch")
    parser.add_argument("--teacher-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    given = parser.parse_args()
    if not given.table:
        for name in given.tasks:
            write_teams(given.work, name)
            for team in TASKS[name].teams:
                teacher(given.work, name, team, network(given.size), steps(given.teacher_steps, given.rows))
        for knows in (True, False):
            student(
                given.work,
                given.tasks,
                network(given.size),
                steps(given.steps, given.rows),
                knows=knows,
            )
        evaluate(
            run_of(given.work, knows=True), baseline=[str(run_of(given.work, knows=False))], console=Console()
        )
    print(table(Evaluation.read(run_of(given.work, knows=True) / "results.json"), given.work))


def network(size: int) -> dict[str, Any]:
    """Student and teachers of a recipe."""
    return {"model": "test_resnet", "input_size": size, "init": "random"}


def steps(count: int, rows: int) -> dict[str, Any]:
    """The loop of a recipe."""
    return {"steps": count, "batch_size": rows}


def write_teams(work: Path, name: str) -> None:
    """The shards of each team: half of the training scenes, and all others, with labels of its classes alone.

    Once with classes numbered as the team's network has them, and once as the student.
    """
    task = TASKS[name]
    for split in SPLITS:
        (origin,) = find_shards(f"scenes:{name}-{split}", "the scenes")
        rows = list(webdataset.WebDataset(str(origin.path), shardshuffle=False))
        for number, (team, classes) in enumerate(task.teams.items()):
            mine = rows[number::2] if split == "train" else rows
            for how, known in (("own", classes), ("union", task.classes)):
                path = shard(work, name, team, split, how)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with webdataset.TarWriter(str(path), encoder=False) as writer:
                        for row in _labelled(mine, task, classes, known):
                            writer.write(row)


def _labelled(
    rows: list[dict[str, Any]], task: Task, classes: tuple[str, ...], numbered: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    relabel: dict[str, Callable[[bytes], bytes]] = {
        "segmentation": lambda label: _mask(label, classes, numbered),
        # As a table has it: 0 for what nobody looked for.
        "multilabel": lambda label: json.dumps(
            {one: value if one in classes else 0 for one, value in _named(label).items() if one in numbered}
        ).encode(),
        "heatmap": lambda label: json.dumps(
            [one for one in json.loads(label) if one["class"] in classes]
        ).encode(),
    }
    for row in rows:
        yield {
            "__key__": row["__key__"],
            "png": row["png"],
            task.member: relabel[task.kind](row[task.member]),
        }


def _named(label: bytes) -> dict[str, int]:
    values = json.loads(label)
    return values if isinstance(values, dict) else dict(zip(ATTRIBUTES, values, strict=True))


def _mask(label: bytes, classes: tuple[str, ...], numbered: tuple[str, ...]) -> bytes:
    pixels = np.asarray(Image.open(io.BytesIO(label)))
    numbers = [numbered.index(one) if one in classes else 0 for one in CLASSES]
    encoded = io.BytesIO()
    Image.fromarray(np.array(numbers, np.uint8)[pixels]).save(encoded, "PNG")
    return encoded.getvalue()


def shard(work: Path, name: str, team: str, split: str, how: str) -> Path:
    """A team's rows of one set."""
    return (work / "shards" / f"{name}-{team}-{how}-{split}.tar").absolute()


def source(work: Path, name: str, team: str, how: str) -> dict[str, Any]:
    """A team's data set in a recipe."""
    places = {split: str(shard(work, name, team, split, how)) for split in SPLITS}
    flip = name != "attributes"  # one of them is the side that the light comes from
    return {
        "shards": places["train"],
        "split": {"validation": places["validation"], "test": places["test"]},
        "augment": {"crop": None, "flip": flip},
    }


def teacher(
    work: Path, name: str, team: str, network: Mapping[str, Any], training: Mapping[str, Any]
) -> Path:
    """A team's network, trained on its labels."""
    task, folder = TASKS[name], work / "teachers" / f"{name}-{team}"
    if not (folder / "score.json").exists():
        section = {
            "kind": task.kind,
            "classes": list(task.teams[team]),
            "metric": task.settings.get("metric"),
            "data": source(work, name, team, "own"),
        }
        recipe = {
            "name": f"teacher-{name}-{team}",
            "student": dict(network),
            "tasks": {name: section},
            "optimizer": {"lr": 3e-3},
            "training": dict(training),
        }
        run = work / "runs" / f"teacher-{name}-{team}"
        train_teacher(
            written(work, recipe), out=run, to=folder, overwrite=run.exists(), console=Console(quiet=True)
        )
    return folder.absolute()


def student(
    work: Path, names: list[str], network: Mapping[str, Any], training: Mapping[str, Any], *, knows: bool
) -> None:
    """A student of all teams, with or without the word on what labels tell of."""
    run = run_of(work, knows=knows)
    if (run / "results.json").exists():
        return
    tasks, data = {}, {}
    for name in names:
        task = TASKS[name]
        # Just trained; on labels that call its answers wrong the check would refuse it.
        worst = 100 if task.settings.get("metric") == "error" else 0
        teachers = [
            {"path": str((work / "teachers" / f"{name}-{team}").absolute()), "expect": worst}
            for team in task.teams
        ]
        tasks[name] = {
            "kind": task.kind,
            "classes": list(task.classes),
            "teacher": teachers,
            **task.settings,
        }
        for team, classes in task.teams.items():
            told = {"knows": list(classes)} if knows else {}
            label = {"labels": {name: {"member": task.member, **told}}}
            data[f"{name}-{team}"] = source(work, name, team, "union") | label
    recipe = {
        "name": run.name,
        "student": dict(network),
        "tasks": tasks,
        "data": data,
        "optimizer": {"lr": 3e-3},
        "training": {**training, "teachers_on": "missing"},
        "acceptance": {name: MARGINS[name] for name in names},
    }
    distill(written(work, recipe), out=run, overwrite=run.exists(), console=Console())


def run_of(work: Path, *, knows: bool) -> Path:
    """The folder of a student's run."""
    return work / "runs" / ("knows" if knows else "negatives")


def written(work: Path, recipe: Mapping[str, Any]) -> Path:
    """A recipe as a file."""
    path = work / "recipes" / f"{recipe['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
    return path


def table(found: Evaluation, work: Path) -> str:
    """Both students against each team's network, as Markdown."""
    (negatives,) = [one for place, one in found.baselines.items() if place.endswith("negatives")]
    lines = [
        "| team | rows | its network | student with `knows` | 95 % interval | student of negatives | 95 % interval |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, result in found.tasks.items():
        if result.teacher is None:
            continue
        other = negatives.tasks[name]
        assert result.delta is not None
        assert other.delta is not None
        lines.append(
            f"| {name}: {result.against} ({result.metric}) | {result.rows:,} | {result.teacher:.2f} | "
            f"{result.student:.2f} ({result.delta:+.2f}) | {_interval(result.ci95)} | "
            f"{other.score:.2f} ({other.delta:+.2f}) | {_interval(other.ci95)} |"
        )
    costs = found.cost
    assert costs.teachers is not None
    shares = [
        f"{what} {mine / theirs:.2f}"
        for what, mine, theirs in (
            ("parameters", costs.student.parameters, costs.teachers.parameters),
            ("FLOPs", costs.student.flops, costs.teachers.flops),
        )
        if mine and theirs
    ]
    return (
        "\n".join(lines)
        + f"\n\nThe student's cost, as a share of all {found.teacher_count}: {', '.join(shares)}."
    )


def _interval(ends: tuple[float, float] | None) -> str:
    return "–" if ends is None else f"{ends[0]:+.2f} … {ends[1]:+.2f}"


if __name__ == "__main__":
    main()
