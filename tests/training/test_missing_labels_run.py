import io
import json
import re
from pathlib import Path

import pytest
import quickstart
import yaml
from rich.console import Console

from distill_mtl import distill, evaluate, load_recipe
from distill_mtl.errors import RecipeError, UserError
from distill_mtl.training.parts import build

TURNS = "training.stream={mode: alternate, phase: 2}"
HUE = ("tasks.hue.teacher=self", "tasks.hue.classes=3")


def test_a_self_teacher_has_targets_from_the_second_phase_on_beside_real_teachers(
    recipe: Path, tmp_path: Path
) -> None:
    out, console = tmp_path / "run", Console(record=True, file=io.StringIO(), width=200)
    loaded = load_recipe(recipe, [*HUE, TURNS, "training.log_every=1"])
    evaluation = distill(loaded, out=out, console=console)
    said = console.export_text()
    assert re.search(r"uniform \(auto: .*for hue; the self-teacher of hue", said)
    assert re.search("self-teacher, .* each phase: hue", said)
    lines = quickstart.metrics(out)
    # hue's rows come in steps 1, 2, 5, 6, those of shape between them.
    taught = [{"soft_targets", "supervised"} & set(line["tasks"].get("hue", {})) for line in lines]
    assert taught == [{"supervised"}] * 2 + [{"soft_targets"}] * 2 + [{"supervised"}] * 2
    assert all("soft_targets" in line["tasks"]["shape"] for line in (*lines[:2], *lines[4:]))
    # Just frozen it agrees with the student; a step later the student has moved.
    assert lines[2]["tasks"]["hue"]["soft_targets"] < lines[3]["tasks"]["hue"]["soft_targets"]
    assert evaluation.tasks["hue"].teacher is None
    assert evaluation.tasks["shape"].teacher is not None
    teachers = json.loads((out / "teachers.json").read_text())
    assert teachers["hue"] == {"self": "frozen"}
    assert evaluate(out, console=Console(quiet=True)).tasks == evaluation.tasks
    with pytest.raises(UserError, match="mgda_ub .*self-teacher of hue"):
        distill(load_recipe(recipe, [*HUE, "balance=mgda_ub"]), out=tmp_path / "other", console=console)


def test_phases_of_one_step_freeze_it_ten_times_in_the_run(recipe: Path, tmp_path: Path) -> None:
    console = Console(record=True, file=io.StringIO(), width=200)
    loaded = load_recipe(recipe, [*HUE, "training.stream=alternate", "training.steps=20"])
    distill(loaded, out=tmp_path / "run", console=console)
    assert "self-teacher, frozen every 2 steps: hue" in console.export_text()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("tasks.hue.teacher={student: frozen, every: 6}", "tasks.hue.teacher.every"),
        ("training.stream={mode: alternate, phase: 6}", "training.stream.phase"),
    ],
)
def test_a_self_teacher_that_would_never_teach_is_refused(recipe: Path, override: str, key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: .*step 6.* 6 steps"):
        build(load_recipe(recipe, [*HUE, override]))


@pytest.mark.parametrize(
    "overrides",
    [
        ("tasks.hue.teacher={student: ema, every: 2}", "tasks.hue.classes=3", "training.teachers_on=all"),
        (*HUE, "training.teachers_on=none"),
        ("schedule=fitnets", "schedule.0.until=3", "balance=mgda_ub", "training.teachers_on=all"),
        (
            "training.asynchronous={trunk: 20, heads: 10}",
            "training.teachers_on=none",
            "training.accumulate=2",
        ),
        ("training.asynchronous={trunk: 20, heads: 10}", "balance=uncertainty", "training.ema=0.5"),
    ],
)
def test_every_provider_runs_to_a_table(recipe: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    evaluation = distill(load_recipe(recipe, overrides), out=tmp_path / "run", console=Console(quiet=True))
    assert set(evaluation.tasks) == {"hue", "shape"}


def test_the_share_of_masked_rows_is_logged(recipe: Path, tmp_path: Path) -> None:
    gates = ("tasks.hue.gate={confidence: 1.0}", "tasks.shape.gate={entropy: 1.0}")
    distill(load_recipe(recipe, gates), out=tmp_path / "run", console=Console(quiet=True))
    for line in quickstart.metrics(tmp_path / "run"):
        assert line["tasks"]["hue"]["gated"] == 1
        assert line["tasks"]["hue"]["soft_targets"] == line["tasks"]["hue"]["hint"] == 0
        assert line["tasks"]["shape"]["gated"] == 0


def test_a_task_about_which_no_row_says_anything_is_refused(recipe: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(recipe.read_text())
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump({**content, "tasks": {"hue": content["tasks"]["hue"]}, "data": {}}))
    unlabelled = "tasks.hue.weights.supervised=0"
    for on in ("auto", "missing", "annealed"):
        with pytest.raises(RecipeError, match=r"tasks\.hue\.weights: .*teachers_on: all"):
            build(load_recipe(alone, [unlabelled, f"training.teachers_on={on}"]))
    build(load_recipe(alone, [unlabelled, "training.teachers_on=all"]))
