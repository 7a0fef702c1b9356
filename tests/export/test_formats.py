"""Every format, family and kind of task in its real runtime, beside `load_student`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from export_toys import every_kind, note_of, run_file, student
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.errors import ExportError
from distill_mtl.export.deployable import Pixels
from distill_mtl.jobs.export import export_student
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.students.student_folder import save_student

FORMATS = ("onnx", "pt2", "torchscript")
QUIET = Console(quiet=True)


def images(rows: int, height: int, width: int) -> torch.Tensor:
    """In steps of 1/255, as bytes hold them."""
    return torch.randint(256, (rows, 3, height, width)).float() / 255


# A transformer as .pt2 would show nothing more: its ONNX file is made of the same recorded program.
@pytest.mark.parametrize(
    ("to", "model"),
    [
        ("onnx", "test_resnet"),
        ("onnx", "test_vit"),
        ("pt2", "test_resnet"),
        ("torchscript", "test_resnet"),
        ("torchscript", "test_vit"),
    ],
)
def test_every_kind_is_answered_and_decoded_as_the_student_does(
    exported: Callable[..., Path], to: str, model: str
) -> None:
    file = exported(to, model, preprocess="float", decode=True)
    loaded = load_student(file.parent / "student")
    for batch in (images(1, 21, 40), images(5, 40, 33), images(3, *loaded.student.trunk.inputs.size)):
        given = run_file(file, batch)
        with torch.no_grad():
            answers = loaded(batch)
        names = {task: answer.pop("logits") for task, answer in answers.items()}
        wanted = names | {
            f"{task}.{name}": v for task, answer in answers.items() for name, v in answer.items()
        }
        assert set(given) == set(wanted) == set(note_of(file)["outputs"])
        for name, value in wanted.items():
            assert given[name].shape == value.shape, name
            assert given[name].dtype == value.dtype, name
            if value.is_floating_point():
                assert torch.allclose(given[name], value, atol=1e-4, rtol=1e-4), name
            else:
                assert (given[name] == value).float().mean() > 0.999, name


@pytest.mark.parametrize("pixels", ["normalised", "uint8"])
@pytest.mark.parametrize("to", FORMATS)
def test_the_note_says_what_to_feed(exported: Callable[..., Path], to: str, pixels: Pixels) -> None:
    file = exported(to) if pixels == "normalised" else exported(to, preprocess=pixels, decode=True)
    note = note_of(file)
    assert note["preprocess"] == (pixels == "uint8")
    batch = images(4, 8, 8)
    given = run_file(file, Preprocess(InputContract.from_dict(note["inputs"]))(batch))
    with torch.no_grad():
        wanted = load_student(file.parent / "student")(batch)
    for task in ("hue", "shape"):
        assert torch.allclose(given[task], wanted[task]["logits"], atol=1e-5)


def test_bytes_of_any_size_go_into_a_graph_that_preprocesses(exported: Callable[..., Path]) -> None:
    file = exported("onnx", preprocess="uint8", decode=True)
    batch = torch.randint(256, (3, 3, 30, 17), dtype=torch.uint8)
    given, wanted = run_file(file, batch), load_student(file.parent / "student")(batch.float() / 255)
    assert torch.allclose(given["hue"], wanted["hue"]["logits"].detach(), atol=1e-5)
    assert given["shape.label"].shape == (3, 30, 17)


def test_an_onnx_file_names_its_axes_and_holds_its_weights(exported: Callable[..., Path]) -> None:
    import onnx

    file = exported("onnx", preprocess="uint8", decode=True)
    graph = onnx.load(file, load_external_data=False).graph
    sides = [side.dim_param or side.dim_value for side in graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", 3, "height", "width"]
    label = next(output for output in graph.output if output.name == "shape.label")
    assert [side.dim_param for side in label.type.tensor_type.shape.dim] == ["batch", "height", "width"]
    assert {path.name for path in file.parent.glob(f"{file.name}*")} == {
        file.name,
        f"{file.name}.certificate.json",
        f"{file.name}.certificate.npz",
    }


def test_weights_that_no_onnx_file_can_hold_lie_beside_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_mtl.export.formats.onnx.LARGEST", 10)
    file = export_student(run, "onnx", out=tmp_path / "large" / "s.onnx", rows=8, console=QUIET)
    assert {path.name for path in file.parent.iterdir()} == {
        "s.onnx",
        "s.onnx.data",
        "s.onnx.certificate.json",
        "s.onnx.certificate.npz",
    }
    moved = tmp_path / "elsewhere"
    file.parent.rename(moved)
    assert run_file(moved / "s.onnx", torch.rand(2, 3, 8, 8))["hue"].shape == (2, 3)


@pytest.mark.parametrize("name", ["linear", "conv2d", "val_0"])
def test_a_task_may_be_called_as_the_exporter_calls_something(tmp_path: Path, world: Path, name: str) -> None:
    save_student(student(kinds={name: every_kind()["breed"]}), tmp_path / "s")
    file = export_student(tmp_path / "s", "onnx", rows=4, data=[str(world / "pool-test.tar")], console=QUIET)
    assert list(run_file(file, torch.rand(2, 3, 8, 8))) == [name]


def test_a_task_that_is_called_as_the_input_is_refused(tmp_path: Path, world: Path) -> None:
    save_student(student(kinds={"images": every_kind()["breed"]}), tmp_path / "s")
    with pytest.raises(ExportError, match="a task is called 'images'"):
        export_student(tmp_path / "s", "onnx", rows=4, data=[str(world / "pool-test.tar")], console=QUIET)
