"""`tasks.NAME.head.init: teacher`: a head begins with the weights of its teacher's own."""

from pathlib import Path

import pytest
import torch
from student_toys import kinds, student
from torch import nn

from distill_mtl.errors import StudentError
from distill_mtl.networks.weights import read_config, read_weights, write_network
from distill_mtl.recipe.schema import StudentSection, TeacherSection
from distill_mtl.students.initial_weights import InitialHead, build_student
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import save_student
from distill_mtl.students.timm_form import save_timm
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.teachers.label_map import LabelMap, match_classes
from distill_mtl.teachers.load_teacher import load_teacher

ABC = ("a", "b", "c")


def straight(classes: tuple[str, ...]) -> LabelMap:
    return match_classes(classes, len(classes), None, "it")


def begin(
    sources: dict[str, InitialHead],
    tasks: dict[str, TaskKind] | None = None,
    model: str = "test_resnet",
    **keys: object,
) -> Student:
    section = StudentSection(**{"model": model, "input_size": 64, "init": "random", **keys})
    return build_student(section, tasks or kinds(), seed=7, initial_heads=sources)


def equal(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_heads_of_a_student_folder_begin_those_of_the_same_tasks(tmp_path: Path) -> None:
    source = student(seed=1)
    save_student(source, tmp_path / "s")
    begun = begin({"part": InitialHead(tmp_path / "s", None, straight(("ground", "thing")))})
    assert equal(begun.heads["part"], source.heads["part"])
    assert not equal(begun.heads["left"], source.heads["left"])
    assert not equal(begun.trunk, source.trunk)


def test_the_head_may_have_another_name(tmp_path: Path) -> None:
    source = student(seed=1, tasks={"other": kinds()["part"], "left": kinds()["left"]})
    save_student(source, tmp_path / "s")
    begun = begin({"part": InitialHead(tmp_path / "s", "other", straight(("ground", "thing")))})
    assert equal(begun.heads["part"], source.heads["other"])
    with pytest.raises(StudentError, match=r"tasks\.part\.head\.init: .* has no task 'part'"):
        begin({"part": InitialHead(tmp_path / "s", None, straight(("ground", "thing")))})


def test_the_classifier_of_a_timm_folder_becomes_the_linear_layer(tmp_path: Path) -> None:
    source = student(seed=1)
    save_timm(source, "left", tmp_path / "t")
    begun = begin({"left": InitialHead(tmp_path / "t", None, straight(ABC))})
    assert equal(begun.heads["left"], source.heads["left"])


def test_another_architecture_of_the_same_width_will_do(tmp_path: Path) -> None:
    source = student("test_efficientnet", seed=1)
    save_timm(source, "left", tmp_path / "t")
    width = source.heads["left"].linear.in_features
    begun = begin(
        {"left": InitialHead(tmp_path / "t", None, straight(ABC))}, args={"channels": [16, 24, 32, width]}
    )
    assert equal(begun.heads["left"], source.heads["left"])


@pytest.mark.parametrize("form", ["timm", "ours"])
def test_trunk_and_head_of_a_teacher_give_its_answers_in_the_tasks_order(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "t"
    if form == "timm":
        save_timm(student(seed=1), "left", folder)
    else:
        save_student(student(seed=1), folder)
    wanted = ["c", "a"]
    teacher = load_teacher(TeacherSection(path=str(folder)), task="left", classes=wanted)
    section = StudentSection(model="test_resnet", input_size=64, init="teacher:left")
    begun = build_student(
        section,
        {"left": build_kind("classification", wanted)},
        seed=7,
        teacher_folders={"left": folder},
        initial_heads={"left": InitialHead(folder, None, teacher.card.labels)},
    ).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(begun(images)["left"], teacher(images).logits)


def test_the_outputs_of_a_decoder_are_put_in_order_too(tmp_path: Path) -> None:
    source = student(seed=1)
    save_student(source, tmp_path / "s")
    turned = {"part": build_kind("segmentation", ["thing", "ground"])}
    labels = match_classes(("ground", "thing"), 2, ["thing", "ground"], "it")
    begun = begin({"part": InitialHead(tmp_path / "s", None, labels)}, turned).heads["part"]
    theirs = source.heads["part"]
    assert torch.equal(begun.answer.weight, theirs.answer.weight.flip(0))
    assert torch.equal(begun.answer.bias, theirs.answer.bias.flip(0))
    assert equal(begun.laterals, theirs.laterals)


def test_a_class_that_the_teacher_does_not_know_stays_random(tmp_path: Path) -> None:
    source = student(seed=1)
    save_timm(source, "left", tmp_path / "t")
    more = {"left": build_kind("classification", ["x", "c", "b", "a"])}
    labels = match_classes(ABC, 3, ["x", "c", "b", "a"], "it")
    begun = begin({"left": InitialHead(tmp_path / "t", None, labels)}, more).heads["left"].linear
    alone = begin({}, more).heads["left"].linear
    assert torch.equal(begun.weight[1:], source.heads["left"].linear.weight.flip(0))
    assert torch.equal(begun.weight[0], alone.weight[0])
    assert torch.equal(begun.bias[0], alone.bias[0])


def test_further_outputs_stay_behind_the_classes(tmp_path: Path) -> None:
    """Two classes and one output that stands for none, as kinds with `outputs` beyond their classes have."""

    class More(type(kinds()["left"])):  # type: ignore[misc]
        @property
        def outputs(self) -> int:
            return len(self.classes) + 1

        def head(self, features):  # type: ignore[no-untyped-def]
            return type(kinds()["left"])(("a", "b", "rest")).head(features)

    source = student(seed=1)
    save_student(source, tmp_path / "s")
    labels = LabelMap(("b", "a"), (1, 0), None, 2, rest=1)
    begun = begin({"left": InitialHead(tmp_path / "s", None, labels)}, {"left": More(("b", "a"))})
    assert torch.equal(begun.heads["left"].linear.weight, source.heads["left"].linear.weight[[1, 0, 2]])


def test_another_width_is_refused_with_both_shapes_and_the_mend(tmp_path: Path) -> None:
    save_timm(student(seed=1), "left", tmp_path / "t")
    source = {"left": InitialHead(tmp_path / "t", None, straight(ABC))}
    with pytest.raises(StudentError, match=r"tasks\.left\.head\.init: ") as caught:
        begin(source, args={"channels": [32, 48, 48, 40]})
    assert "linear.weight is [3, 96] in the file, [3, 40] in the network" in str(caught.value)
    assert "Otherwise use `init: random`" in str(caught.value)
    deeper = {"left": build_kind("classification", ABC, head={"depth": 2})}
    with pytest.raises(StudentError, match=r"missing in the file: .*hidden\.0\.0\.weight"):
        begin(source, deeper)


def test_other_classes_of_another_width_are_refused_in_the_same_words(tmp_path: Path) -> None:
    save_timm(student(seed=1), "left", tmp_path / "t")
    labels = match_classes(ABC, 3, ["c", "a"], "it")
    with pytest.raises(StudentError, match=r"linear\.weight .*\[3, 96\].*\[2, 40\]"):
        begin(
            {"left": InitialHead(tmp_path / "t", None, labels)},
            {"left": build_kind("classification", ["c", "a"])},
            args={"channels": [32, 48, 48, 40]},
        )


def test_a_decoder_of_another_size_is_refused(tmp_path: Path) -> None:
    save_student(student(seed=1), tmp_path / "s")
    wide = {"part": build_kind("segmentation", ["ground", "thing"], head={"width": 8})}
    with pytest.raises(StudentError, match=r"laterals\.0\.weight is \[24, .*in the file, \[8,"):
        begin({"part": InitialHead(tmp_path / "s", None, straight(("ground", "thing")))}, wide)


@pytest.mark.parametrize(
    ("kind", "classes", "made", "option"),
    [
        ("regression", ["age"], {"scale": 12.0, "offset": 40.0}, "scale"),
        ("regression", ["age"], {"offset": 40.0}, "offset"),
        ("depth", [], {"typical": 3.0}, "typical"),
    ],
)
def test_a_head_that_computes_in_another_unit_is_refused(
    tmp_path: Path, kind: str, classes: list[str], made: dict[str, float], option: str
) -> None:
    taught = {"it": build_kind(kind, classes, **made)}
    source = student(seed=1, tasks=taught)
    save_student(source, tmp_path / "s")
    heads = {"it": InitialHead(tmp_path / "s", None, straight(taught["it"].classes))}
    assert equal(begin(heads, taught).heads["it"], source.heads["it"])
    with pytest.raises(StudentError, match=rf"`{option}: .*`options`"):
        begin(heads, {"it": build_kind(kind, classes)})


def test_a_program_says_nothing_about_its_head(tmp_path: Path) -> None:
    (tmp_path / "left.onnx").write_bytes(b"")
    with pytest.raises(StudentError, match=r"left\.onnx.*\n.*`init: random`"):
        begin({"left": InitialHead(tmp_path / "left.onnx", None, straight(ABC))})


def test_a_network_with_two_classifiers_is_refused(tmp_path: Path) -> None:
    save_timm(student(seed=1), "left", tmp_path / "t")
    config = read_config(tmp_path / "t")
    config["pretrained_cfg"]["classifier"] = ["fc", "fc_dist"]
    write_network(tmp_path / "u", config, read_weights(tmp_path / "t"), "")
    with pytest.raises(StudentError, match="no single linear classifier"):
        begin({"left": InitialHead(tmp_path / "u", None, straight(ABC))})


def test_half_precision_weights_are_taken(tmp_path: Path) -> None:
    source = student(seed=1)
    save_student(source, tmp_path / "s")
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in source.state_dict().items()
    }
    write_network(tmp_path / "s", read_config(tmp_path / "s"), half, "")
    labels = match_classes(ABC, 3, ["c", "b", "a"], "it")
    begun = begin(
        {"left": InitialHead(tmp_path / "s", None, labels)},
        {"left": build_kind("classification", ["c", "b", "a"])},
    )
    assert begun.heads["left"].linear.weight.dtype == torch.float32
    torch.testing.assert_close(
        begun.heads["left"].linear.weight, source.heads["left"].linear.weight.flip(0), atol=1e-3, rtol=1e-2
    )
