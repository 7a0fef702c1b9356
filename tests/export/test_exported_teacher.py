"""An exported file is a teacher like any other: what its note says is all that a recipe needs."""

from pathlib import Path

import pytest
import torch
from export_toys import every_kind, run_folder, student
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.assembly.contender import Asked, open_contender, tasks_of
from distill_mtl.errors import TeacherError, UserError
from distill_mtl.export.command import export
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import KINDS
from distill_mtl.teachers.load import load_teacher

QUIET = Console(quiet=True)


@pytest.mark.parametrize("preprocess", [False, True])
@pytest.mark.parametrize("to", ["onnx", "pt2", "torchscript"])
def test_every_task_of_a_file_teaches_as_the_student_does(
    tmp_path: Path, world: Path, to: str, preprocess: bool
) -> None:
    run = run_folder(tmp_path / "r", student(), world)
    file = export(
        run,
        to,
        pixels="float" if preprocess else "normalised",
        decode=True,
        rows=6,
        data=[str(world / "pool-test.tar")],
        console=QUIET,
    )
    batch, loaded = torch.rand(3, 3, 20, 20), load_student(run / "student")
    for task, kind in every_kind().items():
        section = TeacherSection(path=str(file), trust=to != "onnx")
        teacher = load_teacher(
            section, task=task, kind=kind.name, options=loaded.student.kinds[task].describe()
        )
        assert teacher.card.classes == kind.classes
        assert teacher.card.assumed == ()
        assert type(loaded.student.kinds[task]) is KINDS[teacher.card.kind].told(teacher.card.options)
        with torch.no_grad():
            assert torch.allclose(teacher(batch).logits, loaded(batch)[task]["logits"], atol=1e-4), task


def test_a_task_is_chosen_by_its_name(run: Path) -> None:
    file = str(export(run, "onnx", rows=6, console=QUIET))
    teacher = load_teacher(TeacherSection(path=file, task="shape"), task="road")
    assert teacher.card.kind == "segmentation"
    with pytest.raises(TeacherError, match="answers no task 'road'. Its tasks: hue, shape. Choose one"):
        load_teacher(TeacherSection(path=file), task="road")


def test_the_only_task_needs_no_name(run: Path) -> None:
    file = str(export(run, "onnx", tasks=["shape"], rows=6, console=QUIET))
    assert load_teacher(TeacherSection(path=file), task="road").card.kind == "segmentation"


def test_a_file_is_compared_by_the_names_of_its_tasks(run: Path) -> None:
    both = str(export(run, "onnx", rows=6, console=QUIET))
    assert tasks_of(both) == ["hue", "shape"]
    found = open_contender(both, {"hue": Asked(), "shape": Asked()})
    batch = torch.rand(2, 3, 8, 8)
    mine, theirs = found.network(batch), load_student(run / "student")(batch)
    for task in ("hue", "shape"):
        assert torch.allclose(mine[task], theirs[task]["logits"], atol=1e-4)
    with pytest.raises(UserError, match=r"has no task 'heu'. Did you mean 'hue'\?"):
        open_contender(both, {"heu": Asked()})
    alone = str(export(run, "onnx", tasks=["shape"], rows=6, console=QUIET))
    assert open_contender(alone, {"road": Asked()}).teachers["road"].card.kind == "segmentation"


def test_the_other_tasks_answers_are_no_hints(run: Path) -> None:
    file = str(export(run, "torchscript", rows=6, console=QUIET))
    teacher = load_teacher(TeacherSection(path=file, trust=True), task="hue", layers=[None])
    assert teacher.card.layers == ()


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_the_default_hint_of_a_task_is_nothing_of_another_tasks_head(run: Path, to: str) -> None:
    file = str(export(run, to, rows=6, console=QUIET))
    alone = str(export(run, to, tasks=["hue"], rows=6, console=QUIET))
    batch = torch.rand(2, 3, 8, 8)
    hidden = []
    for path in (file, alone):
        teacher = load_teacher(TeacherSection(path=path, trust=to == "pt2"), task="hue", layers=[None])
        (layer,) = teacher.card.layers
        hidden.append(teacher(batch).hidden[layer])
    assert hidden[0].shape == (2, 12, 2, 2), "the trunk's last stage"
    assert torch.allclose(*hidden, atol=1e-6)
