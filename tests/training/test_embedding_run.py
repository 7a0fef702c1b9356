"""A task without labels: a run learns a teacher's features, beside a classifier and a segmenter."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import toy_world
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from distill_mtl import distill, evaluate, load_recipe, load_student
from distill_mtl.cli import main
from distill_mtl.errors import TeacherError
from distill_mtl.networks.opening import open_network
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.parts import build

QUIET = Console(quiet=True)
TASK = "  feel: {kind: embedding, teacher: {path: FOLDER/teachers/hue, output: {name: pooled}}}\n"
"""The pooled vector of the classifier's teacher."""


def with_features(recipe: Path, task: str = TASK, name: str = "feel.yaml") -> Path:
    found = recipe.parent / name
    text = recipe.read_text().replace("training:", f"{task}training:")
    found.write_text(text.replace("FOLDER", str(recipe.parent)))
    return found


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    """Of a classifier, a segmenter and features."""
    out = recipe.parent / "feel"
    distill(load_recipe(with_features(recipe), ["training.steps=12"]), out=out, console=QUIET)
    return out


def test_the_teachers_statistics_are_measured_once_and_stand_in_the_resolved_recipe(run: Path) -> None:
    options = load_recipe(run / "recipe.resolved.yaml").tasks["feel"].options
    assert len(options["mean"]) == 10
    assert options["std"] > 0
    student = load_student(run / "student")
    assert student.student.kinds["feel"].describe()["mean"] == options["mean"]


def test_the_student_is_compared_with_the_teachers_own_answers_on_all_test_rows(run: Path) -> None:
    found = evaluate(run, console=QUIET)
    result = found.tasks["feel"]
    assert result.rows == 2 * toy_world.ROWS
    assert result.teacher == pytest.approx(100)
    assert result.student < 100
    assert result.delta == pytest.approx(result.student - 100)
    assert found.cross_domain["feel"] == {}


def test_a_stopped_run_goes_on_to_the_same_weights(run: Path, recipe: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "checkpoints" / "step_00000012")
    (cut / "results.json").unlink()
    shutil.rmtree(cut / "student")
    again = load_recipe(with_features(recipe), ["training.steps=12"])
    distill(again, out=cut, resume=True, console=QUIET)
    ours, theirs = (load_file(place / "student" / "model.safetensors") for place in (cut, run))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_it_predicts_unit_vectors_and_is_exported(
    run: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = str(recipe.parent / "hue-test.tar")
    for arguments in (
        ["predict", str(run), shard, "--json", str(tmp_path / "out.jsonl")],
        [
            "export",
            str(run),
            "--to",
            "onnx",
            "--out",
            str(tmp_path / "it.onnx"),
            "--decode",
            "--only",
            "feel",
        ],
        ["report", str(run)],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, (arguments, capsys.readouterr().err)
    images = torch.rand(3, 3, 8, 8)
    student = load_student(run / "student")
    answers = student(images)["feel"]
    assert answers["embedding"].norm(dim=1).allclose(torch.ones(3))
    exported = open_network(tmp_path / "it.onnx").head("feel")(images)["logits"]
    assert torch.allclose(exported, answers["logits"], atol=1e-5)


def test_it_learns_from_cached_answers(recipe: Path) -> None:
    cached = with_features(recipe, name="cached.yaml")
    with pytest.raises(SystemExit) as ended:
        main(["cache", str(cached)])
    assert not ended.value.code
    found = distill(load_recipe(cached, ["targets=cached"]), out=recipe.parent / "cached", console=QUIET)
    assert found.tasks["feel"].teacher == pytest.approx(100)


def test_the_student_teaches_its_features_to_the_next(run: Path, recipe: Path) -> None:
    task = f"  feel: {{kind: embedding, metric: recall_at_1, teacher: {run}}}\n"
    out = recipe.parent / "next"
    found = distill(load_recipe(with_features(recipe, task, "next.yaml")), out=out, console=QUIET)
    assert found.tasks["feel"].metric == "recall_at_1"
    assert found.tasks["feel"].teacher == 100


def test_a_map_of_features_is_learned_from_a_named_layer(recipe: Path) -> None:
    teacher = "{path: FOLDER/teachers/hue, output: {name: first}}"
    task = f"  feel: {{kind: embedding, options: {{map: true}}, teacher: {teacher}}}\n"
    out = recipe.parent / "map"
    found = distill(load_recipe(with_features(recipe, task, "map.yaml")), out=out, console=QUIET)
    assert found.tasks["feel"].teacher == pytest.approx(100)
    answers = load_student(out / "student")(torch.rand(2, 3, 8, 8))["feel"]
    assert answers["embedding"].shape == (2, 5, 2, 2)
    wrong = task.replace("options: {map: true}, ", "")
    with pytest.raises(TeacherError, match=r"answers with a map.*`options: \{map: true\}`"):
        build(load_recipe(with_features(recipe, wrong, "wrong.yaml")))


def test_rows_to_test_on_are_cut_from_a_pool_where_nothing_else_is_learned(recipe: Path) -> None:
    world = recipe.parent
    alone = world / "alone.yaml"
    alone.write_text(
        'student: {model: "toy:net", init: random}\n'
        f"tasks:\n{TASK.replace('FOLDER', str(world))}"
        f"data: {{all: {{shards: ['{world}/hue-train.tar', '{world}/shape-train.tar', '{world}/pool-train.tar']}}}}\n"
        "training: {steps: 4, batch_size: 12}\nevaluation: {bootstrap: 100}\nacceptance: 100\n"
    )
    found = distill(load_recipe(alone), out=world / "alone", console=QUIET)
    assert 0 < found.tasks["feel"].rows < 40


class Embeds(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(2).mean(2).repeat(1, 2) + torch.arange(6.0)


def test_any_form_with_one_vector_teaches(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(model, tmp_path / "folder", safe_serialization=True)
    torch.onnx.export(
        Embeds(), (torch.rand(1, 3, 16, 16),), tmp_path / "net.onnx", dynamo=False, dynamic_axes=None
    )
    images = torch.rand(1, 3, 160, 160)
    found = load_teacher(TeacherSection(path=str(tmp_path / "folder")), task="feel", kind="embedding")
    assert torch.allclose(found(images).logits, model.eval()(found.network.pixels(images)), atol=1e-5)
    file = load_teacher(TeacherSection(path=str(tmp_path / "net.onnx")), task="feel", kind="embedding")
    assert file(images).logits.shape == (1, 6)
