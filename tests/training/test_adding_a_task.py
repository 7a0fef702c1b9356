"""A student begins as an older one, which teaches its own tasks while a new one joins."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import toy_world
from rich.console import Console

from distill_mtl import distill, load_recipe
from distill_mtl.distillation.objective import Objective
from distill_mtl.errors import RecipeError, StudentError, UserError
from distill_mtl.evaluation import Evaluation
from distill_mtl.jobs.cache import write_cache
from distill_mtl.networks.weights import read_weights
from distill_mtl.training.parts import Parts, build
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer

QUIET = Console(quiet=True)

FIRST = """
student: {model: "toy:net", init: random, args: {width: 5}, input_size: 12}
tasks:
  hue:
    teacher: {path: FOLDER/teachers/hue, expect: 0, precision: fp32}
    head: {depth: 2, width: 7}
    data: {shards: FOLDER/hue-train.tar, split: {validation: FOLDER/hue-validation.tar, test: FOLDER/hue-test.tar}}
  tone:
    teacher: {path: FOLDER/teachers/hue, task: hue, expect: 0, precision: fp32}
    data: {shards: FOLDER/hue-train.tar, split: {validation: FOLDER/hue-validation.tar, test: FOLDER/hue-test.tar}}
training: {steps: 4, batch_size: 12}
evaluation: {bootstrap: 100}
acceptance: 100
"""

SECOND = """
student: {init: FOLDER/first}
tasks:
  hue:
    teacher: {path: FOLDER/first, precision: fp32, expect: 0}
    data: {split: {test: FOLDER/hue-test.tar}}
  tone:
    teacher: {path: FOLDER/first/student, precision: fp32, expect: 0}
    data: {split: {test: FOLDER/hue-test.tar}}
  shape:
    kind: segmentation
    teacher: {path: FOLDER/teachers/shape, expect: 0, precision: fp32}
    data:
      shards: FOLDER/shape-train.tar
      split: {validation: FOLDER/shape-validation.tar, test: FOLDER/shape-test.tar}
training: {steps: 4, batch_size: 12, log_every: 2}
evaluation: {bootstrap: 100}
acceptance: 100
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, and the run that left the old student."""
    folder = tmp_path_factory.mktemp("world")
    toy_world.build(folder)
    for name, text in (("first", FIRST), ("second", SECOND)):
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    distill(folder / "first.yaml", out=folder / "first", console=QUIET)
    return folder


class Grown(NamedTuple):
    """What the second run printed, found and left."""

    evaluation: Evaluation
    printed: str
    student: dict[str, torch.Tensor]
    old_before: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def grown(folder: Path) -> Grown:
    printed, before = io.StringIO(), read_weights(folder / "first" / "student")
    evaluation = distill(
        folder / "second.yaml", out=folder / "grown", console=Console(file=printed, width=200)
    )
    return Grown(evaluation, printed.getvalue(), read_weights(folder / "grown" / "student"), before)


def parts(folder: Path, *overrides: str) -> Parts:
    return build(load_recipe(folder / "second.yaml", overrides))


def test_trunk_and_heads_of_the_old_tasks_begin_with_its_weights(folder: Path) -> None:
    built = parts(folder)
    begun, old = built.student.state_dict(), read_weights(folder / "first" / "student")
    assert set(begun) - set(old) == {key for key in begun if key.startswith("heads.shape.")}
    assert all(torch.equal(begun[key], value) for key, value in old.items())
    assert built.student.trunk.inputs.size == (12, 12)
    assert built.student.trunk.args == {"width": 5}
    said = built.begins.removeprefix(f"begins as {folder}/first/student: ")
    assert said == "trunk; heads hue, tone; anew shape"


def test_the_recipe_may_let_an_old_head_begin_anew(folder: Path) -> None:
    built = parts(folder, "tasks.tone.head.init=random", "student.input_size=8")
    begun, old = built.student.state_dict(), read_weights(folder / "first" / "student")
    different = {key for key, value in old.items() if not torch.equal(begun[key], value)}
    assert different == {key for key in old if key.startswith("heads.tone.")}
    assert built.student.trunk.inputs.size == (8, 8)
    assert built.begins.endswith("trunk; heads hue; anew tone, shape; left behind tone")


def test_a_task_with_another_name_begins_as_the_head_that_teaches_it(folder: Path) -> None:
    text = (
        (folder / "second.yaml")
        .read_text()
        .replace("  hue:\n    teacher: {", "  colour:\n    teacher: {task: hue, ")
    )
    (folder / "renamed.yaml").write_text(text)
    built = build(load_recipe(folder / "renamed.yaml"))
    old = read_weights(folder / "first" / "student")
    head = built.student.heads["colour"].state_dict()
    assert head
    assert all(torch.equal(value, old[f"heads.hue.{key}"]) for key, value in head.items())
    assert "colour (was hue)" in built.begins


def test_the_old_student_runs_once_for_all_its_tasks(folder: Path) -> None:
    built = parts(folder)
    passes: list[int] = []
    built.teachers["hue"].network.trunk.register_forward_hook(lambda *_: passes.append(1))
    batch = next(iter(built.sources.preview(micro_batches=1, steps=1))).to(torch.device("cpu"))
    providers = built.providers(built.targets(), built.student)
    targets = providers(batch, providers.rows(batch, built.loss_configs))
    assert set(targets) == {"hue", "tone"}
    assert len(passes) == 1


def test_the_old_tasks_have_targets_on_every_image_of_the_new_one_and_none_of_theirs_is_trained_on(
    folder: Path,
) -> None:
    built = parts(folder)
    assert built.sources.rows() == {"hue": 0, "tone": 0, "shape": toy_world.ROWS}
    assert built.balance.startswith("balance: mgda_ub (auto: every row has a label or a teacher")
    for batch in built.sources.stream(steps=4):
        assert {key.partition("/")[0] for key in batch.keys} == {"shape"}


def test_taking_turns_leaves_out_what_is_only_tested_on(folder: Path) -> None:
    built = parts(folder, "training.stream=alternate")
    assert [len(batch) for batch in built.sources.stream(steps=3)] == [12, 12, 12]
    assert [source.share for source in built.sources.summary()] == [0, 0, 1]


def test_the_run_trains_all_three_and_leaves_the_old_student_as_it_was(folder: Path, grown: Grown) -> None:
    after = read_weights(folder / "first" / "student")
    assert all(torch.equal(value, after[key]) for key, value in grown.old_before.items())
    assert set(grown.evaluation.tasks) == {"hue", "tone", "shape"}
    for key in ("trunk.model.first.0.weight", "heads.hue.answer.weight", "heads.tone.linear.weight"):
        assert (key in after) == (key in grown.student)
        assert key not in after or not torch.equal(grown.student[key], after[key])


def test_training_moves_nothing_in_the_old_student(folder: Path) -> None:
    recipe = load_recipe(folder / "second.yaml")
    built = build(recipe)
    old = read_weights(folder / "first" / "student")
    trainer = Trainer(
        start_accelerator(recipe.training),
        Objective(built.student, built.loss_configs, built.terms, built.rule),
        built.providers(built.targets(), built.student),
        recipe,
        schedule=built.schedule,
    )
    for number, batch in enumerate(built.sources.stream(steps=3)):
        trainer.step(number, [batch])
    network = built.teachers["hue"].network
    held = {key.removeprefix("backbone."): value for key, value in network.state_dict().items()}
    common = [key for key in held if f"trunk.{key}" in old]
    assert common
    assert all(torch.equal(held[key], old[f"trunk.{key}"]) for key in common)
    assert not torch.equal(built.student.state_dict()[f"trunk.{common[0]}"], old[f"trunk.{common[0]}"])


def test_the_table_compares_with_the_old_student(folder: Path, grown: Grown) -> None:
    first = json.loads((folder / "first" / "results.json").read_text())["tasks"]
    for task in ("hue", "tone"):
        assert grown.evaluation.tasks[task].teacher == pytest.approx(first[task]["student"])
        assert grown.evaluation.tasks[task].rows == toy_world.ROWS


def test_the_check_finds_what_the_run_of_the_old_student_recorded(folder: Path) -> None:
    built = parts(folder)
    first = json.loads((folder / "first" / "results.json").read_text())["tasks"]
    for task in ("hue", "tone"):
        card = built.teachers.cards[task]
        assert card.name == "first/student"
        assert card.score is not None
        assert (card.score.metric, card.score.score) == ("accuracy", pytest.approx(first[task]["student"]))


def test_the_check_says_what_was_taken_and_measured_on_which_rows(grown: Grown) -> None:
    assert "trunk; heads hue, tone; anew shape" in grown.printed
    assert "hue, tone: on test rows, the only ones with labels" in grown.printed


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (
            ["student.model=test_resnet"],
            r"holds a toy:net, and student\.model says test_resnet\. Remove `model`",
        ),
        (["student.args={width: 6}"], r"student\.init: the weights of .* do not fit the network"),
        (["tasks.hue.head.width=9"], r"tasks\.hue\.head: the weights of the student's head .*init: random"),
        (
            ["tasks.hue.classes=[class0, class1, other]", "tasks.hue.teacher=FOLDER/teachers/hue"],
            "does not know the recipe's classes other",
        ),
        (["student.init=FOLDER/nowhere"], r"student\.init.*nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, overrides: list[str], error: str) -> None:
    with pytest.raises(UserError, match=f"(?s){error}"):
        parts(folder, *(override.replace("FOLDER", str(folder)) for override in overrides))


def test_a_head_for_other_classes_is_refused_with_the_way_on(folder: Path) -> None:
    text = (folder / "second.yaml").read_text()
    start = text.index("  hue:")
    end = text.index("  tone:")
    own = f"  hue: {{classes: [red, green], data: {folder}/hue-train.tar}}\n"
    (folder / "others.yaml").write_text(text[:start] + own + text[end:])
    with pytest.raises(StudentError, match=r"tasks\.hue\.head: .*'hue' .*`head: \{init: random\}`"):
        build(load_recipe(folder / "others.yaml"))


def test_a_task_that_the_old_student_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"first/student has no task 'shape'.*hue, tone"):
        parts(folder, f"tasks.shape.teacher={folder}/first")


def test_an_old_task_without_a_labelled_row_is_refused_with_what_to_write(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"no source .*test rows.*hue.*data: \{split: \{test:"):
        parts(folder, "tasks.hue.data=null")


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("tasks.hue.data.split.test=null", "found no `shards`, the training rows"),
        ("tasks.hue.data.limit=5", "is about training rows"),
        ("tasks.hue.data.weight=2", "is about training rows"),
        ("tasks.hue.teacher=null", "found neither a teacher nor a source with its labels"),
        ("training.teachers_on=none", "nothing trains the task"),
        ("training.select=best", "`best` is chosen on validation rows, and hue has none"),
        ("tasks.shape.data.shards=null", "no source has `shards`, so there is nothing to train on"),
        ("student.init=random", "found no `model`. Add it"),
    ],
)
def test_rows_for_testing_alone_teach_nothing(folder: Path, override: str, error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        load_recipe(folder / "second.yaml", [override])


def test_what_the_old_student_says_can_be_cached(folder: Path) -> None:
    overrides = ["targets=cached", "training.teachers_on=all", "training.steps=2"]
    write_cache(folder / "second.yaml", overrides)
    recipe = load_recipe(folder / "second.yaml", overrides)
    assert build(recipe).cached is not None
    distill(recipe, out=folder / "cached", console=QUIET)
