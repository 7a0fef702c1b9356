"""Deployed networks that answer with attributes or numbers: the recipe says what their vector is."""

from functools import partial
from pathlib import Path

import pytest
import torch
from deployed import SIZE, Classifier, save_onnx, save_torchscript, trained
from torch import nn

from distill_mtl.errors import TeacherError
from distill_mtl.recipe.schema import InputSection, OutputSection, TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher

NAMES = ["hat", "beard", "smile", "glasses"]


def load(path: Path, kind: str, classes: list[str] | None = None, **output: str) -> Teacher:
    section = TeacherSection(
        path=str(path),
        trust=True,
        classes=NAMES,
        input=InputSection(size=SIZE),
        output=OutputSection(**output),
    )
    return load_teacher(section, task="looks", kind=kind, classes=classes or NAMES)


@pytest.fixture(params=["onnx", "ts"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[nn.Module, Path, Path]:
    """A network, its file, and the file of the same with a sigmoid at its end."""
    network = trained(Classifier())
    save = save_onnx if request.param == "onnx" else partial(save_torchscript, how="trace")
    with_sigmoid = nn.Sequential(network, nn.Sigmoid()).eval()
    return (
        network,
        save(network, tmp_path / f"logits.{request.param}"),
        save(with_sigmoid, tmp_path / f"probabilities.{request.param}"),
    )


def test_attributes_are_logits_whether_or_not_the_file_ends_in_a_sigmoid(
    saved: tuple[nn.Module, Path, Path],
) -> None:
    _, logits, probabilities = saved
    plain, told = load(logits, "multilabel", gives="logits"), load(probabilities, "multilabel")
    assert (plain.card.kind, told.network.gives) == ("multilabel", "probabilities")
    seen = torch.rand(3, 3, SIZE, SIZE)
    torch.testing.assert_close(plain(seen).logits, told(seen).logits, atol=1e-4, rtol=1e-4)


def test_attributes_are_matched_by_name_and_some_may_be_unknown(
    saved: tuple[nn.Module, Path, Path],
) -> None:
    teacher = load(saved[1], "multilabel", [*reversed(NAMES), "scarf"], gives="logits")
    assert teacher.card.known == (0, 1, 2, 3)
    seen = torch.rand(3, 3, SIZE, SIZE)
    own = load(saved[1], "multilabel", gives="logits")(seen).logits
    torch.testing.assert_close(teacher(seen).logits[:, :4], own.flip(1))


def test_numbers_are_taken_as_they_are_and_a_teacher_must_know_all(
    saved: tuple[nn.Module, Path, Path],
) -> None:
    network, logits, probabilities = saved
    teacher = load(logits, "regression")
    assert (teacher.card.kind, teacher.network.gives) == ("regression", "logits")
    normalised = teacher.network.preprocess(seen := torch.rand(3, 3, SIZE, SIZE))
    torch.testing.assert_close(teacher(seen).logits, network(normalised), atol=1e-5, rtol=1e-4)
    assert load(probabilities, "regression").network.gives == "logits"
    with pytest.raises(TeacherError, match="kind regression.*probabilities"):
        load(probabilities, "regression", gives="probabilities")
    with pytest.raises(TeacherError, match="kind regression.* all"):
        load(logits, "regression", [*NAMES, "scarf"])
