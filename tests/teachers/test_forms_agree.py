"""The same trained network in every form is the same teacher."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from teacher_folders import timm_folder
from torch import nn

from distill_mtl.errors import TeacherError
from distill_mtl.networks.weights import sha256
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.losses import soft_divergence
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.shared_trunks import share_trunks
from distill_mtl.teachers.teacher import Teacher

FORMS = ("module", "pt2", "pt2 of one batch size", "ts", "onnx")
SIZE = 64


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Recipe sections of one network: a timm folder, and everything that it can be exported to."""
    folder = tmp_path_factory.mktemp("forms")
    network = timm_folder(folder / "timm")
    image = torch.rand(2, 3, SIZE, SIZE)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(network, (image,), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "network.pt2")
    torch.export.save(torch.export.export(network, (image,)), folder / "two.pt2")
    torch.jit.trace(network, image).save(folder / "network.ts")
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "their_code.py").write_text(
        "import timm\n\n\ndef breeds(classes):\n    return timm.create_model('test_resnet', num_classes=classes)\n"
    )
    sys.path.insert(0, str(folder))
    cfg = network.pretrained_cfg
    statistics = {"mean": list(cfg["mean"]), "std": list(cfg["std"]), "interpolation": cfg["interpolation"]}
    said = {"input": {"size": SIZE, **statistics}, "trust": True}
    sections = {
        "folder": {"path": str(folder / "timm")},
        "module": {
            "module": "their_code:breeds",
            "args": {"classes": 4},
            "weights": str(folder / "weights.safetensors"),
            **said,
        },
        "pt2": {"path": str(folder / "network.pt2"), **said},
        "pt2 of one batch size": {"path": str(folder / "two.pt2"), **said},
        "ts": {"path": str(folder / "network.ts"), **said},
    }
    if _has_onnx():
        torch.onnx.export(
            network,
            (image,),
            folder / "network.onnx",
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
        sections["onnx"] = {"path": str(folder / "network.onnx"), **said}
    return sections


def _has_onnx() -> bool:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        return False
    return True


def load(forms: dict[str, dict[str, Any]], form: str, **options: Any) -> Teacher:
    if form not in forms:
        pytest.skip("the extra [onnx] is not installed")
    return load_teacher(TeacherSection(**forms[form]), task="breed", **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 5])
def test_every_form_gives_the_same_soft_targets(
    forms: dict[str, dict[str, Any]], form: str, rows: int
) -> None:
    images = torch.rand(rows, 3, 80, 70)
    expected, found = load(forms, "folder")(images).logits, load(forms, form)(images).logits
    assert torch.allclose(found.softmax(1), expected.softmax(1), atol=1e-4)
    assert torch.allclose(found, expected, atol=1e-3)
    student = torch.randn(rows, 4)
    losses = (soft_divergence(student, target, 4.0) for target in (expected, found))
    assert torch.allclose(*losses, atol=1e-4)


# Names of the last map by form: what comes out of the last residual block.
@pytest.mark.parametrize("form", ["module", "pt2", "pt2 of one batch size", "onnx"])
def test_the_default_hint_of_every_form_is_the_last_map(forms: dict[str, dict[str, Any]], form: str) -> None:
    images = torch.rand(3, 3, SIZE, SIZE)
    folder, other = load(forms, "folder", layers=[None]), load(forms, form, layers=[None])
    expected, found = folder(images).hidden["layer4"], other(images).hidden[str(other.card.last_map)]
    assert other.card.shapes[str(other.card.last_map)].size == expected.shape[2:]
    assert torch.allclose(found, expected, atol=1e-3)


def test_layers_of_a_module_have_their_dotted_names(forms: dict[str, dict[str, Any]]) -> None:
    images = torch.rand(3, 3, SIZE, SIZE)
    folder, other = (load(forms, form, layers=["layer2.0.bn1", "layer3"]) for form in ("folder", "module"))
    for layer, feature in folder(images).hidden.items():
        assert torch.allclose(other(images).hidden[layer], feature, atol=1e-3)


def test_torchscript_gives_no_hint_and_says_so_when_asked(forms: dict[str, dict[str, Any]]) -> None:
    assert load(forms, "ts", layers=[None]).card.layers == ()
    with pytest.raises(TeacherError, match="'layer4'.*TorchScript"):
        load(forms, "ts", layers=["layer4"])


@pytest.mark.parametrize("form", ["module", "pt2", "ts"])
def test_a_program_runs_only_when_it_is_trusted(forms: dict[str, dict[str, Any]], form: str) -> None:
    with pytest.raises(TeacherError, match=r"code.*`trust: true`"):
        load_teacher(TeacherSection(**{**forms[form], "trust": False}), task="breed")


def test_onnx_is_data_and_needs_no_trust(forms: dict[str, dict[str, Any]]) -> None:
    assert load({"onnx": {**forms["onnx"], "trust": False}} if "onnx" in forms else {}, "onnx").card.kind


def test_a_pinned_file_is_the_only_one(forms: dict[str, dict[str, Any]]) -> None:
    digest = sha256(Path(forms["pt2"]["path"]))
    load_teacher(TeacherSection(**forms["pt2"], sha256=digest), task="breed")
    with pytest.raises(TeacherError, match=f"{digest}.*{'0' * 64}"):
        load_teacher(TeacherSection(**forms["pt2"], sha256="0" * 64), task="breed")


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_answers_alike(forms: dict[str, dict[str, Any]], form: str) -> None:
    if form == "ts":
        pytest.skip("PyTorch cannot copy TorchScript")
    subject, images = load(forms, form, layers=[None]), torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(copy.deepcopy(subject)(images).logits, subject(images).logits)


class Probabilities(nn.Module):
    """A network that ends in a softmax and gives its feature too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.network.forward_features(images)
        return features, self.network.forward_head(features).softmax(1)


@pytest.mark.parametrize(
    "save", [lambda program, path: torch.jit.trace(program, torch.rand(2, 3, 64, 64)).save(path)]
)
def test_probabilities_become_logits_and_an_answer_is_chosen_by_number(
    tmp_path: Path, save: Callable[[nn.Module, Path], None]
) -> None:
    network = timm.create_model("test_resnet", num_classes=4).eval()
    save(Probabilities(network), tmp_path / "p.ts")
    section = TeacherSection(path=str(tmp_path / "p.ts"), trust=True, input={"size": 64}, output={"name": 1})
    teacher, images = load_teacher(section, task="breed", layers=[None]), torch.rand(2, 3, 64, 64)
    answer = teacher(images)
    with torch.no_grad():
        expected = network(teacher.network.preprocess(images))
    assert torch.allclose(answer.logits.softmax(1), expected.softmax(1), atol=1e-5)
    assert torch.allclose((answer.logits / 4).softmax(1), (expected / 4).softmax(1), atol=1e-4)
    assert answer.hidden["output0"].shape == (2, 96, 2, 2)


def test_a_file_that_does_not_say_its_size_is_asked_for_it(forms: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(TeacherError, match=r"tasks\.breed\.teacher: .*`input: {size: ...}`"):
        load_teacher(TeacherSection(path=forms["ts"]["path"], trust=True), task="breed")


def test_what_nobody_says_is_marked_as_assumed(forms: dict[str, dict[str, Any]]) -> None:
    bare = TeacherSection(path=forms["pt2"]["path"], trust=True)
    assert load_teacher(bare, task="breed").card.assumed[:2] == ("mean", "std")
    assert load(forms, "folder").card.assumed == ()


def test_an_output_that_is_not_there_is_answered_with_those_that_are(
    forms: dict[str, dict[str, Any]],
) -> None:
    with pytest.raises(TeacherError, match=r"no output 'logit'\. .*Outputs: output\."):
        load_teacher(TeacherSection(**forms["ts"], output={"name": "logit"}), task="breed")


def test_a_vector_is_no_map(forms: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(TeacherError, match="a vector .*segmentation"):
        load(forms, "pt2", kind="segmentation")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("w.safetensors", "weights without their network"), ("w.bin", r"w\.bin .*form.*\.onnx")],
)
def test_files_that_are_no_teacher_say_what_would_be(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(TeacherError, match=complaint):
        load_teacher(TeacherSection(path=str(tmp_path / name)), task="breed")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_knows_how_much_was_learned(forms: dict[str, dict[str, Any]], form: str) -> None:
    """ONNX folds normalisation into weights, so that its number is near, not the same."""
    network = timm.create_model("test_resnet", num_classes=4)
    learned = sum(parameter.numel() for parameter in network.parameters())
    assert load(forms, form).parameter_count == pytest.approx(learned, rel=0.05)


CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, head="a"):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)
        self.head = head

    def forward(self, images):
        return getattr(self, self.head)(self.body(images).mean((2, 3)))


class All(Net):
    def forward(self, images):
        features = self.body(images).mean((2, 3))
        return self.a(features), self.b(features), self.c(features)
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's, and weights for it."""
    (tmp_path / "many_heads").mkdir()
    (tmp_path / "many_heads" / "__init__.py").write_text("from many_heads.impl import All, Net\n")
    (tmp_path / "many_heads" / "impl.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("many_heads")]:
        monkeypatch.delitem(sys.modules, name)
    from many_heads import Net

    torch.manual_seed(3)
    save_file(Net().state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def of_code(folder: Path, name: str, **keys: Any) -> TeacherSection:
    section = {"module": f"many_heads:{name}", "weights": str(folder / "w.safetensors"), "trust": True}
    return TeacherSection(**section, input={"size": 8}, **keys)


def test_the_same_weights_in_other_code_are_another_trunk(own_code: Path) -> None:
    sections = {head: of_code(own_code, "Net", args={"head": head}) for head in ("a", "b")}
    teachers = {task: load_teacher(section, task=task) for task, section in sections.items()}
    images = torch.rand(2, 3, 8, 8)
    before = {task: teacher(images).logits for task, teacher in teachers.items()}
    share_trunks(teachers.values())
    for task, teacher in teachers.items():
        assert torch.equal(teacher(images).logits, before[task])


def test_three_tasks_of_one_file_keep_their_own_layers(own_code: Path) -> None:
    layers = ("body", "body.0", "body.1")
    teachers = {
        str(number): load_teacher(
            of_code(own_code, "All", output={"name": number}), task=str(number), layers=[layer]
        )
        for number, layer in enumerate(layers)
    }
    share_trunks(teachers.values())
    trunks = {id(teacher.network.trunk) for teacher in teachers.values()}
    assert len(trunks) == 1
    answers = LiveTeachers(teachers).everything(torch.rand(2, 3, 8, 8), teachers)
    assert [list(answers[task].hidden) for task in teachers] == [[layer] for layer in layers]


def test_a_change_anywhere_in_the_package_is_another_teacher(own_code: Path) -> None:
    before = load_teacher(of_code(own_code, "Net"), task="a").card
    with (own_code / "many_heads" / "impl.py").open("a") as code:
        code.write("# changed\n")
    after = load_teacher(of_code(own_code, "Net"), task="a").card
    assert before.fingerprint != after.fingerprint
    assert before.describe() != after.describe()
