"""A teacher with one logit, or one mask channel, is a teacher of two classes: their softmax is its sigmoid."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import Tensor, nn

from distill_mtl.checks.inspection import print_inspection
from distill_mtl.errors import UserError
from distill_mtl.recipe.schema import InputSection, OutputSection, StudentSection, TeacherSection
from distill_mtl.students.initial_weights import InitialHead, build_student
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher

SIZE = 16
KINDS = {False: "classification", True: "segmentation"}


class OneLogit(nn.Module):
    """One logit for each picture or each pixel; `end` is what the export adds."""

    def __init__(self, dense: bool, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dense, self.end = dense, end
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))
        nn.init.constant_(self.body[2].bias, 0.1)

    def logit(self, pixels: Tensor) -> Tensor:
        answer: Tensor = self.body(pixels)
        return answer * 9 if self.dense else answer.mean((2, 3)) * 9

    def forward(self, pixels: Tensor) -> Tensor:
        return self.end(self.logit(pixels))


def squeezed(answer: Tensor) -> Tensor:
    return answer.squeeze(1)


ENDS = {"logit": torch.clone, "sigmoid": torch.sigmoid, "squeezed": squeezed}


def load(path: Path, kind: str | None = None, **keys: object) -> Teacher:
    section = TeacherSection(path=str(path), trust=True, input=InputSection(size=SIZE), **keys)
    return load_teacher(section, task="t", kind=kind)


def saved(folder: Path, network: nn.Module, form: str) -> Path:
    path = folder / f"one.{form}"
    if form == "ts":
        torch.jit.trace(network, torch.rand(2, 3, SIZE, SIZE)).save(path)
        return path
    pytest.importorskip("onnxruntime")
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        network, (torch.rand(2, 3, SIZE, SIZE),), path, dynamo=True, verbose=False, dynamic_shapes=shapes
    )
    return path


def assert_is_the_sigmoid(teacher: Teacher, logit: Callable[[Tensor], Tensor]) -> None:
    """Decisions and score of the sigmoid above 0.5, and its Bernoulli distribution as the soft target."""
    seen = torch.rand(64, 3, SIZE, SIZE) * torch.rand(64, 3, 1, 1)
    with torch.no_grad():
        answer, one = teacher(seen).logits, logit(teacher.network.pixels(seen))
    share = one.sigmoid()
    torch.testing.assert_close(answer.softmax(1), torch.cat([1 - share, share], 1), atol=1e-5, rtol=1e-3)
    clear = (share[:, 0] - 0.5).abs() > 1e-5
    assert torch.equal(answer.argmax(1)[clear], (share[:, 0] > 0.5).long()[clear])
    assert 0 < answer.argmax(1).float().mean() < 1, "both classes are chosen"
    metric = "pixel_accuracy" if teacher.network.dense else "accuracy"
    kind = build_kind(teacher.card.kind, teacher.card.classes, metric)
    labels = torch.randint(2, share[:, 0].shape)
    right = (share[:, 0] > 0.5).long() == labels
    assert float(kind.score(kind.statistics(answer, labels))) == pytest.approx(
        100 * float(right.float().mean()), abs=0.1
    )
    student = torch.randn_like(answer)
    mine, theirs = student.softmax(1), torch.cat([1 - share, share], 1)
    expected = (theirs * (theirs.log() - mine.log())).sum(1)
    expected = expected.flatten(1).mean(1) if teacher.network.dense else expected
    torch.testing.assert_close(kind.soft_target_loss(student, answer, 1.0), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("dense", "end", "form"),
    [
        (False, "logit", "ts"),
        (False, "sigmoid", "onnx"),
        (False, "squeezed", "ts"),
        (True, "logit", "onnx"),
        (True, "sigmoid", "ts"),
        (True, "squeezed", "ts"),
    ],
)
def test_a_file_with_one_logit_answers_two_classes(tmp_path: Path, dense: bool, end: str, form: str) -> None:
    torch.manual_seed(3)
    network = OneLogit(dense, ENDS[end]).eval()
    teacher = load(saved(tmp_path, network, form))
    assert (teacher.card.kind, teacher.card.classes) == (KINDS[dense], ("0", "1"))
    assert teacher.network.gives == ("probabilities" if end == "sigmoid" else "logits")
    assert teacher.network.one_logit
    assert_is_the_sigmoid(teacher, network.logit)
    assert teacher(torch.rand(1, 3, SIZE, SIZE)).logits.shape[:2] == (1, 2), "a batch of one"
    other = teacher.with_inputs(teacher.card.inputs)(torch.rand(2, 3, SIZE, SIZE))
    assert other.logits.shape[1] == 2, "and so behind another input contract"


def test_a_logit_that_happens_to_lie_between_0_and_1_is_no_probability(tmp_path: Path) -> None:
    network = OneLogit(False, torch.clone).eval()
    nn.init.zeros_(network.body[0].bias)
    nn.init.constant_(network.body[0].weight, 0.1)
    nn.init.constant_(network.body[2].weight, 0.01)
    nn.init.constant_(network.body[2].bias, 0.04)
    path = saved(tmp_path, network, "ts")
    with torch.no_grad():
        noise = network(load(path).network.pixels(torch.rand(8, 3, SIZE, SIZE)))
    assert noise.min() > 0
    assert noise.max() < 1
    assert load(path).network.gives == "logits"
    assert load(path, output=OutputSection(gives="probabilities")).network.gives == "probabilities"


def test_one_attribute_stays_one_logit(tmp_path: Path) -> None:
    teacher = load(saved(tmp_path, OneLogit(False, torch.clone).eval(), "ts"), "multilabel")
    assert not teacher.network.one_logit
    assert teacher(torch.rand(2, 3, SIZE, SIZE)).logits.shape == (2, 1)


def timm_folder(folder: Path, **config: object) -> nn.Module:
    import timm

    network = timm.create_model("test_resnet", num_classes=1).eval()
    nn.init.normal_(network.get_classifier().weight)
    cfg = {key: network.pretrained_cfg[key] for key in ("mean", "std", "interpolation", "classifier")}
    cfg |= {"input_size": (3, SIZE, SIZE), "num_classes": 1}
    save_for_hf(network, str(folder), model_config={"pretrained_cfg": cfg, **config}, safe_serialization=True)
    return network


@pytest.mark.parametrize(
    ("names", "classes"), [(None, ("0", "1")), (["cat", "dog"], ("cat", "dog")), (["dog"], ("0", "1"))]
)
def test_a_timm_folder_with_one_class_answers_two(
    tmp_path: Path, names: list[str] | None, classes: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    network = timm_folder(tmp_path / "net", **({"label_names": names} if names else {}))
    teacher = load(tmp_path / "net")
    assert teacher.card.classes == classes
    bias = network.get_classifier().bias
    seen = torch.rand(64, 3, SIZE, SIZE) * torch.rand(64, 3, 1, 1)
    with torch.no_grad():
        middle = network(teacher.network.pixels(seen)).median()
    state = load_file(tmp_path / "net" / "model.safetensors")
    assert torch.equal(state["fc.bias"], bias)
    teacher.network.backbone.model.fc.bias.data -= middle  # so that both classes are chosen
    network.fc.bias.data -= middle
    assert_is_the_sigmoid(teacher, partial(network.__call__))


def test_the_names_of_the_recipe_are_those_of_0_and_1(tmp_path: Path) -> None:
    timm_folder(tmp_path / "net")
    assert load(tmp_path / "net", classes=["cat", "dog"]).card.classes == ("cat", "dog")
    with pytest.raises(UserError, match="2 outputs, and 3 classes"):
        load(tmp_path / "net", classes=["cat", "dog", "owl"])


def test_a_student_that_begins_as_its_teacher_answers_as_its_one_logit(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    timm_folder(folder)
    teacher = load(folder)
    student = build_student(
        StudentSection(model="test_resnet", input_size=SIZE, init="teacher:t"),
        {"t": build_kind("classification", teacher.card.classes)},
        seed=0,
        teacher_folders={"t": folder},
        initial_heads={"t": InitialHead(folder, None, teacher.card.labels)},
    ).eval()
    seen = torch.rand(4, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(student(seen)["t"], teacher(seen).logits)


def test_inspect_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path, OneLogit(True, torch.clone).eval(), "ts")
    section = TeacherSection(path=str(path), trust=True, input=InputSection(size=SIZE))
    console = Console(width=140, record=True, file=io.StringIO())
    print_inspection(section, "t", console, everything=False)
    assert "one logit: read as two classes" in console.export_text()
