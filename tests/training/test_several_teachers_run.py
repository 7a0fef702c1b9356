"""Runs of a task with several teachers: one process as two, resumed as not, cached as live; and what is refused."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import forked
import pytest
import quickstart
import resuming
import teams_world
import torch
import yaml
from rich.console import Console

from distill_mtl import distill, evaluate, load_recipe
from distill_mtl.checks.teacher_check import check_teachers, show_teachers
from distill_mtl.errors import RecipeError, ShardError, TeacherError
from distill_mtl.evaluation import Evaluation
from distill_mtl.jobs.cache import write_cache
from distill_mtl.training.parts import Parts, build

QUIET = Console(quiet=True)
OVERLAP = {"a": ("red", "green"), "b": ("green", "blue")}
DISJOINT = {"a": ("red", "green"), "b": ("blue",)}
SAME = {"a": teams_world.COLORS, "b": teams_world.COLORS}
HEARD = ("training.teachers_on=missing", "training.log_every=1", "training.steps=6")
KINDS = {
    "classification": (OVERLAP, (*HEARD[1:], "training.teachers_on=all")),
    "segmentation": (DISJOINT, HEARD),
    "heatmap": (DISJOINT, HEARD),
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recipes of teams with different classes, by kind, and of an ensemble."""
    folder = tmp_path_factory.mktemp("teams")
    found = {kind: teams_world.build(folder / kind, kind, teams) for kind, (teams, _) in KINDS.items()}
    return found | {"ensemble": teams_world.build(folder / "ensemble", "classification", SAME, knows=False)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_compared_with_each_teacher_on_its_classes_and_rows(
    worlds: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    changes = KINDS[kind][1]
    console = Console(record=True, file=io.StringIO(), width=140)
    found = distill(load_recipe(worlds[kind], changes), out=tmp_path / "run", console=console)
    assert list(found.tasks) == ["paint", "paint/1", "paint/2"]
    assert found.tasks["paint"].teacher is None
    assert found.tasks["paint"].rows == 48
    assert all(found.tasks[f"paint/{number}"].rows == 24 for number in (1, 2))
    assert all(found.tasks[f"paint/{number}"].verdict is not None for number in (1, 2))
    known = {each.name: each.known_by for each in found.tasks["paint"].classes or ()}
    assert known["red"] == ("paint/1",)
    assert known["blue"] == ("paint/2",)
    assert list(found.cost.each) == ["paint/1", "paint/2"]
    assert found.cost.teachers is not None
    flops = [one.flops or 0 for one in found.cost.each.values()]
    assert found.cost.teachers.flops == sum(flops)
    said = console.export_text()
    assert "paint/1: a, for " in said
    assert "2 teachers" in said
    page = (tmp_path / "run" / "report.md").read_text()
    assert "1 task · 48 test rows" in page
    assert "paint/1, paint/2" in page if kind != "heatmap" else "known by" in page
    assert Evaluation.read(tmp_path / "run" / "results.json").tasks == found.tasks
    again = evaluate(tmp_path / "run", console=QUIET)
    assert again.tasks == found.tasks
    if kind == "segmentation":
        resuming.resumed(tmp_path / "run", worlds[kind], changes, tmp_path / "cut")


def test_teachers_without_a_recorded_score_are_asked_about_one_by_one(worlds: dict[str, Path]) -> None:
    parts = build(load_recipe(worlds["classification"]))
    examined = check_teachers(parts.recipe, parts.teachers, parts.kinds, parts.sources, torch.device("cpu"))
    console = Console(record=True, file=io.StringIO(), width=140)
    show_teachers(
        console,
        {name: replace(each, expected=None, problem=None, doubt=None) for name, each in examined.items()},
        parts.kinds,
    )
    said = console.export_text()
    assert "paint/1: a has no recorded score" in said
    assert "paint/2: b has no recorded score" in said


def test_an_ensemble_is_compared_as_one_and_one_by_one(worlds: dict[str, Path], tmp_path: Path) -> None:
    changes = (
        *HEARD[1:],
        "training.teachers_on=all",
        "tasks.paint.combine=weighted",
        "tasks.paint.gate={entropy: 0.9}",
    )
    console = Console(record=True, file=io.StringIO(), width=140)
    found = distill(load_recipe(worlds["ensemble"], changes), out=tmp_path / "run", console=console)
    assert list(found.tasks) == ["paint", "paint/1", "paint/2"]
    assert found.tasks["paint"].against == "paint/1 and paint/2 together"
    assert all(result.rows == 48 and result.verdict for result in found.tasks.values())
    assert "combine of paint: paint/1" in console.export_text()
    resolved = load_recipe(tmp_path / "run" / "recipe.resolved.yaml").tasks["paint"].combine
    assert isinstance(resolved, list)
    assert max(resolved) == 1
    resuming.resumed(tmp_path / "run", worlds["ensemble"], changes, tmp_path / "cut")


def test_two_processes_equal_one(worlds: dict[str, Path], tmp_path: Path) -> None:
    """Of a task with an ensemble, and one whose teachers and labels know different classes."""
    both = tmp_path / "both.yaml"
    one, other = (yaml.safe_load(worlds[kind].read_text()) for kind in ("segmentation", "ensemble"))
    one["tasks"]["hue"] = other["tasks"]["paint"]
    for name, source in other["data"].items():
        one["data"][f"hue-{name}"] = source | {"labels": {"hue": source["labels"]["paint"]}}
    both.write_text(yaml.safe_dump(one))
    changes = ("training.teachers_on=all", "training.log_every=1", "tasks.hue.combine=weighted")
    distill(load_recipe(both, changes), out=tmp_path / "one", console=QUIET)
    options = [f"--set={change}" for change in changes]
    for ended in forked.run_two("distill", both, "--out", tmp_path / "two", *options):
        assert ended.status == 0, ended.text
    ours, theirs = quickstart.weights(tmp_path / "one"), quickstart.weights(tmp_path / "two")
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 1e-3 * max(1.0, float(weight.abs().max())), name


@pytest.mark.parametrize("how", ["mean", "surest", "[2, 1]"])
def test_an_ensemble_answers_for_each_row(worlds: dict[str, Path], how: str) -> None:
    parts = _built(worlds["ensemble"], "training.teachers_on=all", f"tasks.paint.combine={how}")
    batch = next(iter(parts.sources.stream(steps=1))).to("cpu")
    providers = parts.providers(parts.targets(), parts.student)
    targets = providers(batch, providers.rows(batch, ["paint"]), {"paint": 2.0})
    assert list(targets) == ["paint/1"]
    softened = (targets["paint/1"].output.logits / 2).softmax(1)
    members = [(parts.teachers[f"paint/{n}"](batch.images).logits / 2).softmax(1) for n in (1, 2)]
    if how == "surest":
        one, other = ((softened - member).abs().amax(1) < 1e-5 for member in members)
        assert bool((one | other).all())
    else:
        share = 0.5 if how == "mean" else 2 / 3
        assert torch.allclose(softened, share * members[0] + (1 - share) * members[1], atol=1e-6)
    # One adapter for each teacher.
    assert {name.partition(":")[0] for name in targets["paint/1"].output.hidden} == {"paint/1", "paint/2"}


def test_a_teacher_is_asked_about_what_a_label_leaves_open(worlds: dict[str, Path]) -> None:
    parts = _built(worlds["segmentation"], "training.teachers_on=missing")
    batch = next(iter(parts.sources.stream(steps=1))).to("cpu")
    providers = parts.providers(parts.targets(), parts.student)
    rows = providers.rows(batch, ["paint"])
    of_a, of_b = (set((batch.source == number).nonzero().flatten().tolist()) for number in (0, 1))
    assert of_b
    assert set(rows["paint/1"].tolist()) == of_b
    assert set(rows["paint/2"].tolist()) == of_a
    targets = providers(batch, rows, {"paint": 4.0})
    assert all(torch.equal(target.weights, torch.ones(len(target.rows))) for target in targets.values())
    # A label that is a class leaves nothing open where classes exclude each other.
    words = _built(worlds["classification"], "training.teachers_on=missing")
    batch = next(iter(words.sources.stream(steps=1))).to("cpu")
    assert not any(len(rows) for rows in words.targets().rows(batch).values())


def test_teachers_of_a_row_share_its_weight(worlds: dict[str, Path]) -> None:
    weights = "tasks.paint.teacher_weight=[{b: 0.5}, {a: 0}]"
    parts = _built(
        worlds["classification"], "training.teachers_on=all", weights, "tasks.paint.combine=[3, 1]"
    )
    batch = next(iter(parts.sources.stream(steps=1))).to("cpu")
    providers = parts.providers(parts.targets(), parts.student)
    targets = providers(batch, providers.rows(batch, ["paint"]))
    one, two = targets["paint/1"], targets["paint/2"]
    for row, weight in zip(one.rows.tolist(), one.weights.tolist(), strict=True):
        # Alone on a's rows; three quarters of b's, at half its weight.
        assert weight == pytest.approx(1.0 if batch.source[row] == 0 else 0.75 * 0.5)
    assert (batch.source[two.rows] == 1).all()
    assert torch.allclose(two.weights, torch.full((len(two.rows),), 0.25))


def test_cached_answers_are_those_of_live_teachers(worlds: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("segmentation", "ensemble"):
        folder = tmp_path / kind
        shutil.copytree(worlds[kind].parent, folder)
        recipe = folder / "teams.yaml"
        recipe.write_text(recipe.read_text().replace(str(worlds[kind].parent), str(folder)))
        changes = ("training.teachers_on=all", "targets.views=2", "tasks.paint.hints=[{form: map}]")
        write_cache(load_recipe(recipe, changes), console=QUIET)
        assert len(list(folder.glob("*.paint.*.safetensors"))) == 2 * 2, "one for each teacher and shard"
        live, cached = (_built(recipe, *changes, f"targets.from={origin}") for origin in ("live", "cached"))
        assert cached.kinds["paint"].classes == live.kinds["paint"].classes
        for ours, theirs in zip(*(one.sources.stream(steps=2) for one in (live, cached)), strict=True):
            ours, theirs = ours.to("cpu"), theirs.to("cpu")
            assert torch.equal(ours.images, theirs.images)
            found = []
            for parts, batch in ((live, ours), (cached, theirs)):
                providers = parts.providers(parts.targets(), parts.student)
                found.append(providers(batch, providers.rows(batch, ["paint"]), {"paint": 4.0}))
            assert list(found[0]) == list(found[1])
            for name, target in found[0].items():
                other = found[1][name]
                assert torch.allclose(target.output.logits, other.output.logits, rtol=1e-2, atol=2e-2)
                assert target.known == other.known
                for layer, feature in target.output.hidden.items():
                    assert torch.allclose(feature, other.output.hidden[layer], rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("teams", "change", "error", "said"),
    [
        (
            {"a": ("red", "green"), "b": ("Red", "blue")},
            None,
            TeacherError,
            "'red' of a and 'Red' of b are nearly",
        ),
        (
            OVERLAP,
            "tasks.paint.classes=[cat, dog]",
            TeacherError,
            "a knows none of the task's classes cat, dog",
        ),
        (
            OVERLAP,
            "data.a.labels.paint.knows=[red, gren]",
            RecipeError,
            "knows: there is no class 'gren'.*'green'",
        ),
        (OVERLAP, "tasks.paint.combine=surest", RecipeError, "no two teachers know the same classes"),
        (OVERLAP, "student.init=teacher:paint/3", RecipeError, "no such teacher of 'paint'.*teacher:paint/2"),
        (OVERLAP, "student.init=zip", RecipeError, "zip.*paint has several.*teacher:paint/1"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, teams: dict[str, tuple[str, ...]], change: str | None, error: type[Exception], said: str
) -> None:
    shown = {team: [one.lower() for one in classes] for team, classes in teams.items()}
    recipe = teams_world.build(tmp_path / "w", "classification", shown, knows=False)
    if shown != {team: list(classes) for team, classes in teams.items()}:
        teams_world.teacher(tmp_path / "w", "classification", "b", teams["b"], seed=2)
    with pytest.raises(error, match=said) as caught:
        build(load_recipe(recipe, [change] if change else []))
    assert "\n" not in str(caught.value).removeprefix("Recipe error in ").strip().partition("\n  ")[2]


def test_a_label_that_its_data_set_does_not_know_is_named(worlds: dict[str, Path]) -> None:
    changes = ("data.a.labels.paint.knows=[red]", "training.steps=1")
    with pytest.raises(ShardError, match=r"row a-\w+-001, .*shows 'green', and `knows`.* Add it there"):
        distill(load_recipe(worlds["classification"], changes), out=Path("nowhere"), console=QUIET)


def test_the_same_network_twice_is_refused(worlds: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(worlds["ensemble"].parent / "models" / "a", tmp_path / "copy")
    change = f"tasks.paint.teacher=[{worlds['ensemble'].parent}/models/a, {tmp_path}/copy]"
    with pytest.raises(TeacherError, match="paint/1 and paint/2 are the same network"):
        build(load_recipe(worlds["ensemble"], [change]))


def test_a_student_begins_as_one_of_several_teachers(worlds: dict[str, Path]) -> None:
    width = "student.args={width: 5}"
    for init, number in (("teacher:paint", 1), ("teacher:paint/2", 2)):
        parts = _built(worlds["ensemble"], width, f"student.init={init}")
        theirs = parts.teachers[f"paint/{number}"].network.state_dict()
        mine = parts.student.trunk.model.state_dict()
        assert any(torch.equal(value, mine["first.0.weight"]) for value in theirs.values())


def _built(recipe: Path, *changes: str) -> Parts:
    return build(load_recipe(recipe, list(changes)))
