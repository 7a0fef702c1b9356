"""`--only`: heads and parts of the trunk that nothing reads are gone, and what stays answers as before."""

from collections.abc import Callable
from pathlib import Path

import export_toys
import pytest
import torch
from export_toys import every_kind, note_of, run_file, run_folder, student
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.errors import ExportError
from distill_mtl.export.deployable import remove_unread
from distill_mtl.export.export_format import only_tasks
from distill_mtl.jobs.export import export_student
from distill_mtl.students.student_folder import DeployedStudent
from distill_mtl.tasks.base import KINDS, build_kind, import_kind

QUIET = Console(quiet=True)


def numbers(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("to", ["onnx", "pt2", "torchscript"])
def test_the_file_holds_the_wanted_tasks_alone(exported: Callable[..., Path], to: str) -> None:
    whole, part = exported(to), exported(to, only=["hue"])
    assert part.stat().st_size < whole.stat().st_size
    batch = torch.rand(3, 3, 8, 8)
    assert list(run_file(part, batch)) == ["hue"]
    assert torch.allclose(run_file(part, batch)["hue"], run_file(whole, batch)["hue"], atol=1e-6)
    note = note_of(part)
    assert list(note["tasks"]) == note["outputs"] == ["hue"]
    assert (note["kind"], note["classes"]) == ("classification", ["class0", "class1", "class2"])


def test_tasks_keep_the_students_order(run: Path) -> None:
    file = export_student(run, "torchscript", only=["shape", "hue"], rows=6, console=QUIET)
    assert file.name == "toy-hue-shape.ts"


def test_a_part_of_the_trunk_that_only_other_heads_read_is_cut() -> None:
    # MobileNetV4 has a convolution between its last stage and the pooled vector, which maps do not read.
    kinds = {task: every_kind()[task] for task in ("breed", "part")}
    made = student("mobilenetv4_conv_small_035", kinds)
    batch = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = made(batch)["part"]
        part = only_tasks(DeployedStudent(made), ["part"])
        before = numbers(part)
        remove_unread(part.trunk)
        assert torch.equal(part(batch)["part"], wanted)
        assert torch.equal(part(batch)["part"], wanted), "a second pass ends at the same place"
    assert numbers(part) < before - 100_000


def test_nothing_is_cut_where_everything_is_read() -> None:
    made = student("test_vit", {"breed": every_kind()["breed"]})
    before = numbers(made)
    remove_unread(made.trunk)
    assert numbers(made) == before


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_stages_behind_the_last_one_that_is_read_are_cut(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    (tmp_path / "early_kind.py").write_text(export_toys.OWN_KIND)
    KINDS.names()
    monkeypatch.setattr(KINDS, "_entries", dict(KINDS._entries))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import_kind("early_kind:FirstStage", trust=True, say="")
    kinds = {"early": build_kind("early_kind:FirstStage", ("a", "b")), "late": every_kind()["breed"]}
    run = run_folder(tmp_path / "r", student(model, kinds), world)
    data = [str(world / "pool-test.tar")]
    whole = export_student(run, "torchscript", trust=True, rows=6, data=data, console=QUIET)
    early = export_student(run, "torchscript", only=["early"], trust=True, rows=6, data=data, console=QUIET)
    sizes = [file.stat().st_size for file in (whole, early)]
    assert sizes[1] < sizes[0] / 2
    batch = torch.rand(3, 3, 32, 32)
    assert torch.allclose(run_file(early, batch)["early"], run_file(whole, batch)["early"], atol=1e-6)


def test_a_task_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(ExportError, match=r"no such task\. Did you mean 'hue'\? Tasks: hue, shape"):
        export_student(run, "pt2", only=["hues"], console=QUIET)


def test_the_student_on_disk_is_left_alone(run: Path) -> None:
    before = (run / "student" / "model.safetensors").read_bytes()
    export_student(run, "torchscript", only=["shape"], rows=6, console=QUIET)
    assert (run / "student" / "model.safetensors").read_bytes() == before
    assert set(load_student(run / "student").classes) == {"hue", "shape"}
