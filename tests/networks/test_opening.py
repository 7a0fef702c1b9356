"""A trained network answers alike whatever form it lies in and whoever opens it."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import timm
import torch
import toy_world
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from toys import classification, toy_student

from distill_mtl.checks.inspection import print_inspection
from distill_mtl.errors import UserError
from distill_mtl.export.deployable import Deployable, file_note
from distill_mtl.export.export_format import FORMATS
from distill_mtl.jobs.evaluate import evaluate
from distill_mtl.jobs.predict import predict
from distill_mtl.networks.opening import as_section, exists, open_network
from distill_mtl.networks.runtime import RUNTIMES, DeclaredInput, Runtime
from distill_mtl.prediction.named_pictures import find_pictures
from distill_mtl.prediction.predictions import Prediction, answered_kinds, predictions
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import Asked, kind_of, load_teacher, teachers_of
from distill_mtl.teachers.shared_trunks import JoinedTeachers

KINDS = {"breed": classification(), "part": build_kind("segmentation", ["ground", "thing"])}
OF_A_STUDENT = ("run", "student", "onnx", "pt2", "ts")
OF_TIMM = ("timm folder", "module", "plain ts")
SIZES = {**dict.fromkeys(OF_A_STUDENT, 8), **dict.fromkeys(OF_TIMM, 160)}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Form -> where a network lies in it: one student of two tasks, and one classifier of timm's."""
    home = tmp_path_factory.mktemp("forms")
    save_student(toy_student(KINDS), home / "run" / "student")
    found = {"run": home / "run", "student": home / "run" / "student"}
    for form, to in (("onnx", "onnx"), ("pt2", "pt2"), ("ts", "torchscript")):
        found[form] = home / f"student.{form}"
        module = Deployable(load_student(home / "run" / "student").student, "normalised", decode=False)
        module.eval().requires_grad_(False)
        FORMATS[to]().write(module, file_note(module, None), found[form])  # type: ignore[attr-defined]
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=4).eval()
    found["timm folder"] = home / "classifier"
    timm.models.save_for_hf(network, str(home / "classifier"), safe_serialization=True)
    save_file(network.state_dict(), home / "weights.safetensors")
    (home / "opened_code.py").write_text(
        "import timm\n\n\ndef net():\n    return timm.create_model('test_resnet', num_classes=4)\n"
    )
    sys.path.insert(0, str(home))
    torch.jit.trace(network, torch.rand(2, 3, 160, 160)).save(home / "plain.ts")
    cfg = network.pretrained_cfg
    said = f"input: {{size: 160, mean: {list(cfg['mean'])}, std: {list(cfg['std'])}, interpolation: bicubic}}"
    return {
        **{form: str(place) for form, place in found.items()},
        "module": f"{{module: 'opened_code:net', weights: {home / 'weights.safetensors'}, {said}}}",
        "plain ts": f"{{path: {home / 'plain.ts'}, {said}}}",
    }


def pictures(form: str, number: int = 3) -> Tensor:
    """uint8 [B, 3, H, W], of the network's own size."""
    return torch.randint(
        256, (number, 3, SIZES[form], SIZES[form]), generator=torch.Generator().manual_seed(1)
    ).to(torch.uint8)


def as_a_teacher(place: str, images: Tensor, task: str) -> Tensor:
    return load_teacher(as_section(place, trust=True), task=task)(images / 255).logits


def as_a_prediction(place: str, images: Tensor, task: str, folder: Path) -> Tensor:
    paths = [str(folder / f"{row}.png") for row in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    network = open_network(place, trust=True)
    found = list(predictions(network, answered_kinds(network), find_pictures(paths).pictures))
    assert all(isinstance(each, Prediction) for each in found)
    return torch.stack([each.logits[task] for each in found if isinstance(each, Prediction)])


def in_a_comparison(place: str, images: Tensor, tasks: list[str]) -> dict[str, Tensor]:
    asked = dict.fromkeys(tasks, Asked())
    return JoinedTeachers(teachers_of(open_network(place, trust=True), asked))(images / 255)


@pytest.mark.parametrize("form", [*OF_A_STUDENT, *OF_TIMM])
def test_teacher_prediction_and_comparison_give_the_same_logits(
    places: dict[str, str], form: str, tmp_path: Path
) -> None:
    images, tasks = pictures(form), list(open_network(places[form], trust=True).tasks)
    assert tasks == (list(KINDS) if form in OF_A_STUDENT else tasks[:1])
    compared = in_a_comparison(places[form], images, tasks)
    for task in tasks:
        taught = as_a_teacher(places[form], images, task)
        assert torch.equal(compared[task], taught)
        assert torch.equal(as_a_prediction(places[form], images, task, tmp_path), taught)


@pytest.mark.parametrize("form", [*OF_A_STUDENT, *OF_TIMM])
def test_every_form_answers_as_the_first_one(places: dict[str, str], form: str) -> None:
    first, images = "student" if form in OF_A_STUDENT else "timm folder", pictures(form)
    tasks = list(KINDS) if form in OF_A_STUDENT else ["animal"]
    expected = in_a_comparison(places[first], images, tasks)
    for task, logits in in_a_comparison(places[form], images, tasks).items():
        torch.testing.assert_close(logits, expected[task], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", [*OF_A_STUDENT, *OF_TIMM])
def test_every_form_is_inspected(places: dict[str, str], form: str) -> None:
    printed = io.StringIO()
    section = as_section(places[form], trust=True)
    print_inspection(section, "breed", Console(file=printed, width=200), everything=False)
    assert f"{SIZES[form]} x {SIZES[form]}" in printed.getvalue()
    assert "classification" in printed.getvalue()


@pytest.mark.parametrize("form", OF_A_STUDENT)
def test_kinds_are_those_of_the_student(places: dict[str, str], form: str) -> None:
    network = open_network(places[form], trust=True)
    assert {task: kind.describe() for task, kind in answered_kinds(network).items()} == {
        task: kind.describe() for task, kind in KINDS.items()
    }
    teachers = teachers_of(network, dict.fromkeys(KINDS, Asked()))
    assert {task: kind_of(teacher).classes for task, teacher in teachers.items()} == {
        task: kind.classes for task, kind in KINDS.items()
    }


def test_heads_of_one_network_keep_their_own_layers(places: dict[str, str]) -> None:
    network, images = open_network(places["student"]), torch.rand(2, 3, 8, 8)
    for task, layer in (("breed", "first"), ("part", "second")):
        network.tap(task, [layer])
    features = network.head("breed").run(images)
    assert network.head("breed").trunk is network.head("part").trunk
    assert set(network.head("breed").read(features)) == {"logits", "first"}
    assert set(network.head("part").read(features)) == {"logits", "second"}


def test_pictures_of_several_sizes_are_answered_one_by_one(places: dict[str, str]) -> None:
    network = open_network(places["student"])
    mixed = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((8, 8), (20, 11), (8, 8))]
    together = network.logits(mixed, ["breed"])["breed"]
    for picture, logits in zip(mixed, together, strict=True):
        torch.testing.assert_close(network.logits([picture], ["breed"])["breed"][0], logits)


@pytest.mark.parametrize(
    ("where", "finding"),
    [
        ("{path: x.onnx, outptu: {name: 1}}", "outptu"),
        ("{path: [", "YAML"),
        ("nowhere", "nowhere"),
        ("nowhere.onnx", "nowhere.onnx does not exist"),
    ],
)
def test_a_slip_in_the_name_of_a_network_is_one_clear_error(where: str, finding: str) -> None:
    with pytest.raises(UserError, match=finding):
        open_network(where)


def test_what_lies_elsewhere_may_be_there() -> None:
    assert exists("hf_hub:timm/resnet18.a1_in1k")
    assert not exists("runs/nowhere")


def test_predict_answers_with_a_network_that_no_run_of_ours_left(
    places: dict[str, str], tmp_path: Path
) -> None:
    Image.new("RGB", (20, 12), "red").save(tmp_path / "red.png")
    for form in OF_TIMM:
        assert not predict(
            places[form],
            [str(tmp_path / "red.png")],
            json=tmp_path / f"{form}.jsonl",
            device="cpu",
            trust=True,
        )
        (answers,) = json.loads((tmp_path / f"{form}.jsonl").read_text())["tasks"].values()
        assert answers["label"] in {"0", "1", "2", "3"}


def test_one_file_is_compared_with_another(places: dict[str, str], tmp_path: Path) -> None:
    toy_world.build(tmp_path)
    found = evaluate(
        student=places["pt2"],
        against=[places["onnx"]],
        data=[f"breed={tmp_path}/hue-test.tar"],
        trust=True,
        console=Console(quiet=True),
    )
    result = found[places["onnx"]].tasks["breed"]
    assert result.delta == 0
    assert result.agreement == 1


class ToyRuntime(Runtime):
    """All that a new format of file needs."""

    words, is_program = "a toy file", False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.files, self.outputs, self.declared = (path,), ("colors",), DeclaredInput(size=(8, 8), channels=3)

    def names(self) -> list[str]:
        return ["colors"]

    def tap(self, names: Sequence[str]) -> None:
        assert not names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"colors": images.mean((2, 3))}


def test_a_new_format_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RUNTIMES.names()
    monkeypatch.setitem(RUNTIMES._entries, ".toy", ToyRuntime)
    (tmp_path / "colors.toy").write_bytes(b"")
    images, where = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8), str(tmp_path / "colors.toy")
    taught = as_a_teacher(where, images, "color")
    assert taught.shape == (2, 3)
    assert torch.equal(as_a_prediction(where, images, "colors", tmp_path), taught)
    assert torch.equal(in_a_comparison(where, images, ["color"])["color"], taught)
