"""`distill-mtl teacher train` saves every network in a form that holds it."""

from pathlib import Path

import toy_world

from distill_mtl.jobs.one_teacher import train_teacher
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import load_student
from distill_mtl.teachers.load_teacher import load_teacher

RECIPE = """
student: {model: "toy:net", init: random}
tasks:
  hue:
    classes: 3
    head: {depth: 2, width: 7}
    data: {shards: FOLDER/hue-train.tar, split: {validation: FOLDER/hue-validation.tar, test: FOLDER/hue-test.tar}}
training: {steps: 2, batch_size: 12}
"""


def test_a_classifier_with_a_deeper_head_is_saved_as_a_student_folder(tmp_path: Path) -> None:
    """timm's form has one linear layer; that must not come out when the training is over."""
    toy_world.build(tmp_path)
    recipe = tmp_path / "hue.yaml"
    recipe.write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    folder = train_teacher(recipe, out=tmp_path / "run")
    assert load_student(folder).student.heads["hue"].linear.in_features == 7
    assert load_teacher(TeacherSection(path=str(folder)), task="hue").card.score is not None
    assert "load_student" in (folder / "README.md").read_text()
