"""A short recipe becomes a full one: short forms, defaults, paths."""

from pathlib import Path

import pytest
from recipe_texts import Load

from distill_mtl.errors import RecipeError
from distill_mtl.recipe import load_recipe
from distill_mtl.recipe.schema import AugmentSection, HintSection, LabelSection


def test_the_ten_line_recipe_resolves_to_full_defaults(load: Load, ten_lines: str, tmp_path: Path) -> None:
    recipe = load(ten_lines)
    assert recipe.name == "pets"
    assert recipe.student.model == "resnet18"
    assert recipe.student.init == "pretrained"
    breed, part = recipe.tasks["breed"], recipe.tasks["part"]
    assert (breed.kind, part.kind) == ("classification", "segmentation")
    assert breed.teacher is not None
    assert breed.teacher.path == str(tmp_path / "teachers/breed")
    assert breed.temperature == 4
    assert breed.weights == {"supervised": 1, "soft_targets": 1, "hint": 0.1}
    assert breed.hints == [HintSection(student=None, teacher=None)]
    assert list(recipe.data) == ["breed", "part"]
    assert recipe.data["breed"].shards == str(tmp_path / "shards/breed-{000..009}.tar")
    assert recipe.data["part"].labels == {"part": LabelSection(member=None)}
    assert recipe.balance.method == "auto"
    assert recipe.training.epochs == 30
    margin = {"breed": 1.0, "part": 1.0}
    assert recipe.acceptance.model_dump() == {
        "margin": margin,
        "rule": "interval",
        "gate": False,
        "slices": {},
    }


SHORT = """\
student: vit_tiny
balance: uniform
acceptance: 2
training: {stream: alternate}
tasks:
  a: {teacher: t/a, data: [x.tar, y.tar]}
  b: {classes: 3, data: {shards: z.tar, member: b.png, limit: 7, augment: null}}
data:
  pool: {shards: p.tar, labels: {a: a.cls}, limit: 100}
"""

LONG = """\
student: {model: vit_tiny}
balance: {method: uniform}
acceptance: {a: 2, b: 2}
training: {stream: {mode: alternate, phase: 1}}
tasks:
  a: {teacher: {path: t/a}}
  b: {classes: 3}
data:
  pool: {shards: p.tar, labels: {a: {member: a.cls}}, limit: {rows: 100}}
  a: {shards: [x.tar, y.tar], labels: {a: {}}}
  b:
    shards: z.tar
    labels: {b: {member: b.png}}
    limit: {rows: 7}
    augment: {crop: null, flip: false, color: 0}
"""


def test_every_short_form_means_its_long_form(load: Load) -> None:
    assert load(SHORT) == load(LONG)


def test_augment_null_is_no_augmentation_at_all(load: Load) -> None:
    assert load(SHORT).data["b"].augment == AugmentSection(crop=None, flip=False, color=0)


@pytest.mark.parametrize(
    ("said", "breed", "part", "rule"),
    [
        ("{part: 3}", 1, 3, "interval"),
        ("2.5", 2.5, 2.5, "interval"),
        ("point", 1, 1, "point"),
        ("{rule: point}", 1, 1, "point"),
        ("{margin: 0.5}", 0.5, 0.5, "interval"),
        ("{margin: 0.5, rule: point}", 0.5, 0.5, "point"),
        ("{margin: {part: 2}, rule: point}", 1, 2, "point"),
    ],
)
def test_acceptance_in_all_its_forms(
    load: Load, ten_lines: str, said: str, breed: float, part: float, rule: str
) -> None:
    acceptance = load(ten_lines + f"acceptance: {said}").acceptance
    assert (acceptance.margin, acceptance.rule) == ({"breed": breed, "part": part}, rule)


def test_a_task_may_have_the_name_of_a_key_of_acceptance(load: Load, ten_lines: str) -> None:
    named = ten_lines.replace("breed:", "margin:")
    assert load(named).acceptance.margin == {"margin": 1, "part": 1}
    assert load(named + "acceptance: 2").acceptance.margin == {"margin": 2, "part": 2}
    assert load(named + "acceptance: {margin: {margin: 3}}").acceptance.margin == {"margin": 3, "part": 1}


def test_steps_take_the_place_of_the_default_epochs(load: Load, ten_lines: str) -> None:
    training = load(ten_lines, "training.steps=7").training
    assert (training.steps, training.epochs) == (7, None)


@pytest.mark.parametrize(
    ("file", "name"),
    [("pets.v2.yaml", "pets-v2"), ("2024 pets.yaml", "run-2024-pets"), ("a_b-c.yml", "a_b-c")],
)
def test_the_run_is_named_after_the_file(tmp_path: Path, ten_lines: str, file: str, name: str) -> None:
    path = tmp_path / file
    path.write_text(ten_lines)
    assert load_recipe(path).name == name


def test_relative_paths_start_at_the_working_directory(load: Load, ten_lines: str, tmp_path: Path) -> None:
    recipe = load(
        ten_lines.replace("resnet18", "{model: resnet18, init: weights/a.safetensors}"),
        "data.breed.split.test=[t.tar, /abs/u.tar]",
        "data.part.split.validation=s3://bucket/v-{0..3}.tar",
        "data.part.shards=multidigits:segment?rows=100",
    )
    assert recipe.student.init == str(tmp_path / "weights/a.safetensors")
    assert recipe.data["breed"].split.test == [str(tmp_path / "t.tar"), "/abs/u.tar"]
    assert recipe.data["part"].split.validation == "s3://bucket/v-{0..3}.tar"
    assert recipe.data["part"].shards == "multidigits:segment?rows=100"


@pytest.mark.parametrize("init", ["pretrained", "random", "teacher:breed"])
def test_an_init_that_is_no_path_stays_a_word(load: Load, ten_lines: str, init: str) -> None:
    assert load(ten_lines, f"student.init={init}").student.init == init


def test_anchors_and_merges_are_written_out(load: Load, ten_lines: str) -> None:
    recipe = load(
        ten_lines.replace("part:  {", "part: {<<: *common, temperature: 2, ").replace(
            "breed: {", "breed: &common {weights: {hint: 3}, temperature: 5, "
        )
    )
    assert recipe.tasks["part"].weights["hint"] == 3
    assert recipe.tasks["part"].temperature == 2
    assert recipe.tasks["part"].teacher != recipe.tasks["breed"].teacher


def test_plain_values_are_read_as_editors_read_them(load: Load, ten_lines: str) -> None:
    recipe = load(ten_lines, "tasks.breed.classes=[no, on, 2020-01-01, 1:30, 1_000]", "optimizer.lr=1e-4")
    assert recipe.tasks["breed"].classes == ["no", "on", "2020-01-01", "1:30", "1_000"]
    assert recipe.optimizer.lr == 1e-4
    assert load(ten_lines, "student.args={a: 0x10, b: 0o17, c: 010, d: .5}").student.args == {
        "a": 16,
        "b": 15,
        "c": 10,
        "d": 0.5,
    }


def test_a_file_that_cannot_be_read_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("student: é".encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        load_recipe(latin)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("tasks.breed.kind=clasification", "clasification.*Did you mean 'classification'"),
        ("balance=mgda_ubb", "mgda_ubb.*Did you mean 'mgda_ub'"),
        ("training.trackers=[tensorbord]", "tensorbord.*Did you mean 'tensorboard'"),
    ],
)
def test_who_loads_a_recipe_from_python_is_told_of_unknown_names(
    ten_lines: str, tmp_path: Path, override: str, found: str
) -> None:
    (tmp_path / "pets.yaml").write_text(ten_lines)
    with pytest.raises(RecipeError, match=f"{override.partition('=')[0]}.*\n.*{found}"):
        load_recipe(tmp_path / "pets.yaml", [override])
