"""Attributes and numbers beside each other: taught, cached, checked, drafted, measured, as any other kind."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world
import toys
from rich.console import Console
from safetensors import safe_open

from distill_mtl import distill, evaluate, load_recipe, load_student
from distill_mtl.cli import main
from distill_mtl.errors import RecipeError, TeacherError
from distill_mtl.jobs.cache import write_cache
from distill_mtl.jobs.new_recipe import draft_recipe
from distill_mtl.jobs.one_teacher import check_teacher
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.training.parts import build

QUIET = Console(quiet=True)
LOOKS = ("red", "green", "blue")
OPTIONS = {"scale": 40, "offset": 12345}


def looks() -> TaskKind:
    return build_kind("multilabel", LOOKS)


def light() -> TaskKind:
    return build_kind("regression", ("mean", "spread"), **OPTIONS)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    generator = np.random.default_rng(0)
    for source in ("looks", "light"):
        for split in ("train", "validation", "test"):
            _write(folder / f"{source}-{split}.tar", generator, source)
    toys.toy_teacher_folder(folder / "teachers" / "looks", "looks", looks(), seed=1)
    toys.toy_teacher_folder(folder / "teachers" / "light", "light", light(), seed=2)
    path = folder / "vectors.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(folder)))
    return path


RECIPE = """
student: {model: "toy:net", init: random}
tasks:
  looks:
    kind: multilabel
    teacher: {path: FOLDER/teachers/looks, expect: 0, precision: fp32}
    data:
      shards: FOLDER/looks-train.tar
      split: {validation: FOLDER/looks-validation.tar, test: FOLDER/looks-test.tar}
  light:
    kind: regression
    options: {scale: 40, offset: 12345, bounded: 0.1}
    metric: mae
    teacher: {path: FOLDER/teachers/light, expect: 1000, precision: fp32}
    data:
      shards: FOLDER/light-train.tar
      split: {validation: FOLDER/light-validation.tar, test: FOLDER/light-test.tar}
training: {steps: 6, batch_size: 12, log_every: 2, checkpoint_every: 6, teachers_on: all}
evaluation: {bootstrap: 100}
acceptance: {looks: 100, light: 1000}
"""


def _write(path: Path, generator: np.random.Generator, source: str) -> None:
    rows = []
    for row in range(toy_world.ROWS):
        pixels = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        sample: dict[str, str | bytes] = {"__key__": f"{path.stem}-{row:03d}", "png": toy_world.png(pixels)}
        if source == "looks":
            bright = (pixels.mean((0, 1)) > 127).astype(int).tolist()
            named = dict(zip(LOOKS, bright, strict=True))
            named[LOOKS[row % 3]] = None if row % 4 == 0 else named[LOOKS[row % 3]]
            sample["attributes.json"] = json.dumps(named).encode()
        else:
            values = [12345 + float(pixels.mean()), None if row % 5 == 0 else 12345 + float(pixels.std())]
            sample["values.json"] = json.dumps(values).encode()
        rows.append(sample)
    toy_world.write_rows(path, rows)


def test_a_student_learns_both_from_labels_and_teachers(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluation = distill(load_recipe(recipe), out=out, console=QUIET)
    assert (evaluation.tasks["looks"].kind, evaluation.tasks["looks"].metric) == ("multilabel", "map")
    assert (evaluation.tasks["light"].kind, evaluation.tasks["light"].metric) == ("regression", "mae")
    for result in evaluation.tasks.values():
        assert result.teacher is not None
        assert result.ci95 is not None
        assert result.ci95[0] <= result.ci95[1]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for task in ("looks", "light"):
            assert set(line["tasks"][task]) >= {"supervised", "soft_targets", "hint"}
            assert np.isfinite(line["tasks"][task]["total"])
    answers = load_student(out / "student")(torch.rand(2, 3, 8, 8))
    assert answers["looks"]["label"].shape == (2, 3)
    assert answers["light"]["values"].mean() > 10_000
    assert evaluate(out, console=QUIET).tasks == evaluation.tasks


def test_a_cache_keeps_logits_of_attributes_in_half_and_values_whole(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["targets={from: cached, views: 1, top_k: 1}", "training.teachers_on=missing"]
    overrides.append("tasks.light.options={scale: 40, offset: 12345}")
    write_cache(recipe, overrides)
    types = {}
    for task in ("looks", "light"):
        for path in recipe.parent.rglob(f"*.{task}.*.safetensors"):
            with safe_open(path, "pt") as sidecar:
                types[task] = sidecar.get_tensor("logits").dtype
    assert types == {"looks": torch.float16, "light": torch.float32}
    evaluation = distill(load_recipe(recipe, overrides), out=tmp_path / "run", console=QUIET)
    assert set(evaluation.tasks) == {"looks", "light"}


def test_a_bound_by_labels_needs_teachers_on_labelled_rows(recipe: Path) -> None:
    for on in ("auto", "missing", "annealed"):
        with pytest.raises(
            RecipeError, match=r"tasks\.light\.options\.bounded .*`training\.teachers_on: all`"
        ):
            build(load_recipe(recipe, [f"training.teachers_on={on}"]))
    assert build(load_recipe(recipe)).kinds["light"].options_on_labelled_rows == ("bounded",)


def test_the_student_may_remember_itself(recipe: Path, tmp_path: Path) -> None:
    overrides = [
        "tasks.looks.teacher=self",
        "tasks.looks.classes=[red, green, blue]",
        "tasks.light.teacher=self",
        "tasks.light.classes=[mean, spread]",
    ]
    loaded = load_recipe(recipe, overrides)
    assert set(distill(loaded, out=tmp_path / "run", console=QUIET).tasks) == {"looks", "light"}


@pytest.mark.parametrize("task", ["looks", "light"])
def test_a_gate_needs_a_softmax(recipe: Path, tmp_path: Path, task: str) -> None:
    loaded = load_recipe(recipe, [f"tasks.{task}.gate={{confidence: 0.5}}"])
    with pytest.raises(RecipeError, match=rf"tasks\.{task}\.gate: kind \w+ has no softmax"):
        distill(loaded, out=tmp_path / "run", console=QUIET)


def test_rows_are_not_counted_by_class(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ["data.looks.limit={per_class: 2}"])
    with pytest.raises(RecipeError, match=r"needs labels of exactly one task with a class per picture"):
        distill(loaded, out=tmp_path / "run", console=QUIET)


def test_a_score_in_the_labels_unit_needs_a_word_on_what_may_be_lost(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"mae of light is measured in the unit of its labels"):
        load_recipe(recipe, ["acceptance={looks: 1}"])


def test_teachers_are_inspected_checked_and_drafted(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teachers = recipe.parent / "teachers"
    with pytest.raises(SystemExit) as done:
        main(["teacher", "inspect", str(teachers / "light")])
    assert not done.value.code
    assert "regression" in capsys.readouterr().out
    for task in ("looks", "light"):
        data = [str(recipe.parent / f"{task}-train.tar")]
        with pytest.raises(TeacherError, match="constant answer"):
            check_teacher(str(teachers / task), task=task, data=data)
        check_teacher(str(teachers / task), task=task, expect=-1e9, data=data)
        capsys.readouterr()
    drafted = tmp_path / "drafted.yaml"
    drafted.write_text(
        draft_recipe(
            teacher=[str(teachers / task) for task in ("looks", "light")],
            data=[[str(recipe.parent / f"{task}-*.tar")] for task in ("looks", "light")],
        )
    )
    assert "attributes.json" in drafted.read_text()
    assert "values.json" in drafted.read_text()
    tasks = load_recipe(drafted).tasks
    assert (tasks["looks"].kind, tasks["light"].kind) == ("multilabel", "regression")


def test_the_check_before_training_names_a_bad_teacher(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ["tasks.light.teacher.expect=0.5", "targets=live"])
    with pytest.raises(TeacherError, match=r"tasks\.light\.teacher: .*expected 0\.50 in mae"):
        distill(loaded, out=tmp_path / "run", console=Console(file=io.StringIO()))
