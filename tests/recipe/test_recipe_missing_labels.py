"""Keys about rows without a label: who teaches there, when, and which parts learn."""

from pathlib import Path

import pytest
from recipe_texts import Load, Refuse

from distill_mtl.recipe import dump_recipe, load_recipe
from distill_mtl.recipe.schema import SelfTeacherSection

SELF = """\
student: resnet18
tasks:
  breed: {teacher: self, classes: 3, data: b.tar}
  part: {teacher: teachers/part, data: p.tar, kind: segmentation}
"""


def test_self_is_short_for_a_frozen_student_without_hints(load: Load) -> None:
    recipe = load(SELF)
    teacher = recipe.tasks["breed"].teacher
    assert isinstance(teacher, SelfTeacherSection)
    assert (teacher.student, teacher.every, teacher.decay) == ("frozen", None, None)
    assert recipe.tasks["breed"].hints == []
    assert len(recipe.tasks["part"].hints) == 1


def test_fitnets_is_short_for_two_stages(load: Load, ten_lines: str) -> None:
    first, second = load(ten_lines + "schedule: fitnets").schedule
    assert first.until == 0.3
    assert first.weights == {"supervised": 0.0, "soft_targets": 0.0}
    assert first.train == ["guided", "adapters"]
    assert second.until is None
    assert second.train is None
    assert load(ten_lines + "schedule: fitnets", "schedule.0.until=500").schedule[0].until == 500


def test_whole_numbers_are_steps_and_others_shares(load: Load, ten_lines: str) -> None:
    stages = load(ten_lines + "schedule: [{until: 1}, {until: 0.5}, {until: 1.0}]").schedule
    assert [type(stage.until) for stage in stages] == [int, float, float]


@pytest.mark.parametrize(
    "tail",
    [
        "schedule: fitnets",
        "training: {asynchronous: {trunk: 10, heads: {breed: 5, part: 6}}}",
        "schedule: [{until: 1.0, tasks: {part: {temperature: 2}}, train: ['trunk:layer3', 'heads:part']}]",
    ],
)
def test_a_resolved_recipe_loads_again(load: Load, tmp_path: Path, tail: str) -> None:
    recipe = load(SELF.replace("data: p.tar", "data: p.tar, gate: {entropy: 0.7}") + tail)
    (tmp_path / "resolved.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


@pytest.mark.parametrize(
    ("task", "finding"),
    [
        ("{teacher: self, classes: 3}", "tasks.a:\n  its teacher is the student itself, and no source has its labels"),
        ("{teacher: self, data: a.tar}", "tasks.a.classes:\n  found no `classes`, and a self-teacher has none"),
        ("{teacher: self, classes: 3, data: a.tar, hints: [{student: x}]}", "tasks.a.hints:\n  a self-teacher gives"),
        (
            "{teacher: {student: frozen, path: t}, classes: 3, data: a.tar}",
            "tasks.a.teacher.path:\n  `path` belongs to a trained network, and `student`",
        ),
        (
            "{teacher: {student: frozen, decay: 0.9}, classes: 3, data: a.tar}",
            "tasks.a.teacher.decay:\n  a frozen self-teacher has no average.",
        ),
        (
            "{teacher: {student: ema, trust: true}, classes: 3, data: a.tar}",
            "tasks.a.teacher.trust:\n  `trust` belongs to a trained network, and `student`",
        ),
        ("{teacher: {path: t, every: 5}}", "tasks.a.teacher.every:\n  `every` belongs to a self-teacher."),
        ("{teacher: {student: melted}, classes: 3, data: a.tar}", 'tasks.a.teacher.student:\n  found "melted",'),
        ("{teacher: t, gate: {}}", "tasks.a.gate:\n  found neither of the two. Give one: `entropy`"),
        ("{teacher: t, gate: {entropy: 0.5, confidence: 0.5}}", "tasks.a.gate:\n  found both. Give one"),
        ("{classes: 3, data: a.tar, gate: {entropy: 0.5}}", "tasks.a.gate:\n  the task has no teacher whose answers"),
    ],
)  # fmt: skip
def test_a_self_teacher_or_gate_that_makes_no_sense_is_refused(
    refuse: Refuse, task: str, finding: str
) -> None:
    paragraphs = refuse(f"student: r\ndata: {{pool: {{shards: p.tar}}}}\ntasks:\n  a: {task}\n")
    assert [paragraph.startswith(f"pets.yaml, line 4, {finding}") for paragraph in paragraphs] == [True]


@pytest.mark.parametrize(
    ("tail", "finding"),
    [
        ("schedule: fitnet", 'line 5, schedule:\n  found "fitnet", expected fitnets or a list of mappings. Did you'),
        ("schedule: [{}, {}]", "line 5, schedule.0.until:\n  only the last stage has no `until`."),
        ("schedule: [{until: 1.5}]", "line 5, schedule.0.until:\n  found 1.5, expected a whole number greater than 0,"),
        ("schedule: [{train: []}]", "line 5, schedule.0.train:\n  found [], expected"),
        ("schedule: [{train: [trunks]}]", 'line 5, schedule.0.train.0:\n  found "trunks", expected trunk, trunk:LAYER'),
        ("schedule: [{tasks: {bred: {}}}]", "line 5, schedule.0.tasks.bred:\n  there is no task 'bred'. Did you mean"),
        (
            "training: {asynchronous: {trunk: 9, heads: {breed: 5, prt: 1}}}",
            "line 5, training.asynchronous.heads.prt:\n  there is no task 'prt'. Did you mean 'part'?",
        ),
        (
            "training: {asynchronous: {trunk: 9, heads: {breed: 5}}}",
            "line 5, training.asynchronous.heads:\n  found no number for part.",
        ),
        (
            "training: {asynchronous: {trunk: 9, heads: 5}, precision: fp16}",
            "line 5, training.precision:\n  fp16 scales each step's gradients anew",
        ),
        (
            "training: {asynchronous: {trunk: 9, heads: 5}}\nschedule: [{train: [heads]}]",
            "line 6, schedule.0.train:\n  `training.asynchronous` keeps gradients for later steps",
        ),
        ("student: {model: r, init: 'teacher:breed'}", "student.init:\n  task 'breed' has no teacher to start from."),
    ],
)  # fmt: skip
def test_a_schedule_or_thresholds_that_contradict_the_rest_are_refused(
    refuse: Refuse, tail: str, finding: str
) -> None:
    text = SELF + tail if not tail.startswith("student") else SELF.replace("student: resnet18", tail)
    assert any(finding in paragraph for paragraph in refuse(text))
