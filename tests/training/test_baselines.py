"""Baselines of a run: trained by request, kept, gone on with, measured on the same rows."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import toy_world
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file

from distill_mtl import evaluate, load_recipe
from distill_mtl.errors import RecipeError, Stopped, UserError
from distill_mtl.jobs import trained_baselines as baselines
from distill_mtl.report.markdown import markdown_summary
from distill_mtl.training.run_folder import RunFolder

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def finished(toy_run: toy_world.Run) -> Path:
    return toy_run.out


@pytest.fixture(scope="module")
def measured(finished: Path) -> tuple[Path, str]:
    out = finished.parent / "measured"
    shutil.copytree(finished, out)
    told = io.StringIO()
    console = Console(file=told, width=100)
    evaluate(out, baseline=["labels_only", "single_task", str(finished)], console=console)
    return out, told.getvalue()


def test_trained_baselines_lie_beside_the_run_and_in_its_results(
    finished: Path, measured: tuple[Path, str]
) -> None:
    out, told = measured
    assert sorted(path.name for path in (out / "baselines").iterdir()) == ["hue", "labels-only", "shape"]
    results, before = (json.loads((path / "results.json").read_text()) for path in (out, finished))
    found = results["baselines"]
    assert {name: entry["kind"] for name, entry in found.items()} == {
        "labels_only": "labels_only",
        "single_task": "single_task",
        str(finished): "model",
    }
    for task, result in results["tasks"].items():
        same = found[str(finished)]["tasks"][task]
        assert same == {"score": result["student"], "delta": result["delta"], "ci95": result["ci95"]}
        for name, folder in (("labels_only", "labels-only"), ("single_task", task)):
            own = json.loads((out / "baselines" / folder / "results.json").read_text())["tasks"][task]
            assert found[name]["tasks"][task]["score"] == own["student"]
            assert found[name]["tasks"][task]["delta"] == own["delta"]
    assert (results["steps"], results["seconds"]) == (before["steps"], before["seconds"])
    assert "to train first" in told
    assert "labels-only, hue, shape" in told
    assert "· single task" in told


def test_baselines_learn_from_labels_alone_for_as_long(measured: tuple[Path, str]) -> None:
    out, _ = measured
    for name, tasks in (("labels-only", ["hue", "shape"]), ("hue", ["hue"])):
        recipe = yaml.safe_load((out / "baselines" / name / "recipe.resolved.yaml").read_text())
        assert recipe["training"]["teachers_on"] == "none"
        assert recipe["training"]["steps"] == 6
        assert list(recipe["tasks"]) == list(recipe["data"]) == tasks
        assert recipe["student"]["model"] == "toy:net"


def test_what_is_there_is_measured_and_not_trained_again(
    measured: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "distill", lambda *args, **options: pytest.fail("trained again"))
    out, _ = measured
    before = json.loads((out / "results.json").read_text())["baselines"]
    again = evaluate(out, baseline=["labels_only"], console=QUIET)
    assert again.model_dump(mode="json")["baselines"] == before, "those of earlier stay"


def test_evaluating_writes_only_where_it_is_asked_to(finished: Path, tmp_path: Path) -> None:
    before = (finished / "results.json").read_bytes()
    found = evaluate(finished, json=tmp_path / "results.json", console=QUIET)
    assert (finished / "results.json").read_bytes() == before
    assert json.loads((tmp_path / "results.json").read_text()) == found.model_dump(mode="json")
    assert found.steps == 6
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    again = evaluate(copy, acceptance={"hue": 0.5}, write=True, console=QUIET)
    after = json.loads((copy / "results.json").read_text())
    assert after["tasks"]["hue"]["margin"] == 0.5
    assert after["tasks"]["shape"]["margin"] == 100
    assert after["seconds"] == json.loads(before)["seconds"]
    for page in (copy / "report.html", copy / "report.md"):
        assert "hue 0.5 points, shape 100 points" in page.read_text()
    old, new = ((run / "student" / "README.md").read_text() for run in (finished, copy))
    assert markdown_summary(again).strip() in new
    assert (old.partition("\n## Student")[0], old.partition("\n## Origin")[2]) == (
        new.partition("\n## Student")[0],
        new.partition("\n## Origin")[2],
    )
    with pytest.raises(UserError, match="--acceptance: there is no task 'heu'. Did you mean 'hue'?"):
        evaluate(finished, acceptance={"heu": 1.0}, console=QUIET)


def test_a_stopped_baseline_goes_on_with_what_is_there(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    train = baselines.distill

    def stops(recipe: object, **options: object) -> None:
        train(recipe, **options)
        folder = RunFolder(Path(str(options["out"])))
        folder.results.unlink()
        shutil.rmtree(folder.checkpoints / "step_00000006")
        raise Stopped("stopped after step 3")

    monkeypatch.setattr(baselines, "distill", stops)
    with pytest.raises(Stopped, match="stopped in the baseline labels-only.*`distill-mtl evaluate`"):
        evaluate(out, baseline=["labels_only"], console=QUIET)
    resumed = []

    def goes_on(recipe: object, **options: object) -> object:
        resumed.append(options["resume"])
        return train(recipe, **options)

    monkeypatch.setattr(baselines, "distill", goes_on)
    found = evaluate(out, baseline=["labels_only"], console=QUIET)
    assert resumed == [True]
    assert set(found.baselines["labels_only"].tasks) == {"hue", "shape"}


def test_a_baseline_of_another_recipe_is_refused_with_what_differs(
    measured: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(measured[0], out)
    recipe = out / "recipe.resolved.yaml"
    recipe.write_text(re.sub(r"\blr: [\d.]+", "lr: 0.002", recipe.read_text()))
    with pytest.raises(UserError, match=r"(?s)lr: 0.00306.*lr: 0.002.*Delete .*baselines/labels-only"):
        evaluate(out, baseline=["labels_only"], console=QUIET)


def test_a_model_without_a_task_in_common_is_refused(finished: Path, tmp_path: Path) -> None:
    alone = finished.parent / "teachers" / "hue"
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    found = evaluate(copy, baseline=[str(alone)], console=QUIET)
    assert set(found.baselines[str(alone)].tasks) == {"hue"}
    assert found.baselines[str(alone)].tasks["hue"].delta == 0, "it is the teacher itself"
    renamed = finished.parent / "renamed"
    shutil.copytree(alone, renamed)
    config = json.loads((renamed / "config.json").read_text())
    config["tasks"] = {"colour": config["tasks"]["hue"]}
    (renamed / "config.json").write_text(json.dumps(config))
    weights = load_file(renamed / "model.safetensors")
    colour = {name.replace("heads.hue.", "heads.colour."): weight for name, weight in weights.items()}
    save_file(colour, renamed / "model.safetensors")
    with pytest.raises(UserError, match=r"no task in common.*\(hue, shape\).* colour"):
        evaluate(finished, baseline=[str(renamed)], console=QUIET)


def test_single_tasks_begin_where_the_student_began_and_need_labels(tmp_path: Path) -> None:
    path = toy_world.build(tmp_path)
    recipe = load_recipe(path, ["student.init=teacher:hue"])
    assert baselines.single_task(recipe, "hue", 5).student.init == "teacher:hue"
    assert baselines.single_task(recipe, "shape", 5).student.init == str(tmp_path / "teachers" / "hue")
    bare = recipe.model_copy(update={"data": {"hue": recipe.data["hue"]}})
    with pytest.raises(RecipeError, match="no source has labels of shape"):
        baselines.single_task(bare, "shape", 5)
