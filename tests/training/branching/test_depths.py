"""What the stages of a trunk cost, where `branch` weighs trees against each other."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distill_mtl.networks.flops import flops_of
from distill_mtl.recipe.schema import StudentSection, TeacherSection
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import FAMILIES
from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.branching.depths import depths_of, layers_at
from distill_mtl.training.branching.teacher_features import TeacherLayers


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_the_stages_cost_together_what_the_trunk_costs(model: str) -> None:
    trunk = FAMILIES["timm"].create(model, {}, (32, 32), pretrained=False)
    _, depths = depths_of(trunk)
    whole = flops_of(trunk, torch.zeros(1, 3, *trunk.inputs.size))
    assert sum(depth.size for depth in depths) == pytest.approx(whole, rel=0.01)


def test_a_stage_of_several_maps_is_compared_by_the_first() -> None:
    trunk = FAMILIES["timm"].create("hrnet_w18_small", {}, (32, 32), pretrained=False)
    _, depths = depths_of(trunk)
    assert [depth.layer for depth in depths][-2:] == ["stage3[0]", "stage4[0]"]
    trunk.tap([depth.layer for depth in depths])
    assert all(depth.shape == trunk.shapes[depth.layer] for depth in depths)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"branch": {"left": "layer3"}},
        {"private": {"norms": ["layer3"]}},
        {"columns": {"kind": "cross_stitch"}},
    ],
    ids=str,
)
def test_a_student_as_teacher_with_its_own_features_in_their_place_answers_as_it_does(
    tmp_path: Path, shape: dict[str, Any]
) -> None:
    """Also one in parts, whose layers other tasks' layers may flow into."""
    section = StudentSection(model="test_resnet", input_size=32, init="random", **shape)
    kinds = {task: build_kind("classification", ["a", "b"]) for task in ("left", "right")}
    student = build_student(section, kinds, seed=0)
    save_student(student, tmp_path)
    teacher = load_teacher(TeacherSection(path=str(tmp_path)), task="left")
    _, depths = depths_of(FAMILIES["timm"].create("test_resnet", {}, (32, 32), pretrained=False))
    names = layers_at(teacher, depths)
    assert names is not None
    layers = TeacherLayers(teacher, names, [depth.shape for depth in depths])
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with layers.tapped(), torch.no_grad():
        own = layers.answered(images)
        for depth in range(1, len(depths)):
            again = layers.answers_with(images, depth, own.maps[depth], own)
            torch.testing.assert_close(again, own.logits, rtol=1e-4, atol=1e-5)


def test_a_teacher_whose_stages_are_no_layers_is_not_compared(tmp_path: Path) -> None:
    section = StudentSection(model="test_vit", input_size=32, init="random", order="soft")
    kinds = {task: build_kind("classification", ["a", "b"]) for task in ("left", "right")}
    save_student(build_student(section, kinds, seed=0), tmp_path)
    teacher = load_teacher(TeacherSection(path=str(tmp_path)), task="left")
    _, depths = depths_of(FAMILIES["timm"].create("test_vit", {}, (32, 32), pretrained=False))
    assert layers_at(teacher, depths) is None
