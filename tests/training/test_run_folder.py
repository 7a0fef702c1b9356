import json
from pathlib import Path

import pytest

from distill_mtl.errors import UserError
from distill_mtl.recipe import Recipe, dump_recipe
from distill_mtl.recipe.schema import AugmentSection
from distill_mtl.training.run_folder import RunFolder


def test_a_filled_folder_is_refused_and_both_ways_on_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin("seed: 0\n", resume=False)
    with pytest.raises(UserError, match=r"(?s)--resume.*--overwrite"):
        folder.refuse("seed: 0\n", resume=False, overwrite=False)
    folder.refuse("seed: 0\n", resume=True, overwrite=False)
    folder.refuse("seed: 1\n", resume=False, overwrite=True)


def test_a_folder_of_somebody_elses_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder(tmp_path).refuse("seed: 0\n", resume=False, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_resuming_another_recipe_shows_the_difference(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin("seed: 0\nname: a\n", resume=False)
    with pytest.raises(UserError, match=r"(?s)-seed: 0.*\+seed: 1") as error:
        folder.refuse("seed: 1\nname: a\n", resume=True, overwrite=False)
    assert "name: a" not in str(error.value)


def test_resuming_with_another_teacher_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin("", resume=False)
    folder.teachers.write_text(json.dumps({"left": {"sha256": "aa", "score": 95.0}}))
    folder.same_teachers({"left": {"sha256": "aa"}})
    with pytest.raises(UserError, match=r'(?s)-.*"aa".*\+.*"bb"'):
        folder.same_teachers({"left": {"sha256": "bb"}})


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"ste')
    folder.cut_metrics(20)
    assert folder.metrics.read_text() == '{"step": 10}\n{"step": 20}\n'


def test_what_a_killed_run_left_half_written_is_nothing_and_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for place in (folder.path, folder.checkpoints):
        (place / ".student.7-0123abcd.part").mkdir(parents=True)
    (folder.checkpoints / ".student.7-0123abcd.part").rmdir()
    folder.checkpoints.rmdir()
    folder.refuse("seed: 0\n", resume=False, overwrite=False)
    (folder.checkpoints / ".step_00000003.7-0123abcd.part").mkdir(parents=True)
    folder.begin("seed: 0\n", resume=True)
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def test_a_resumed_run_keeps_what_auto_decided(tmp_path: Path) -> None:
    said = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {"a": {"teacher_weight": "auto"}},
            "data": {"a": {"shards": "a.tar", "augment": {"crop": "auto"}}, "b": {"shards": "b.tar"}},
        }
    )
    folder = RunFolder(tmp_path)
    assert folder.decided(said) == said
    data = {**said.data, "a": said.data["a"].model_copy(update={"augment": AugmentSection(crop=0.125)})}
    tasks = {"a": said.tasks["a"].model_copy(update={"teacher_weight": {"b": 0.3}})}
    resolved = said.model_copy(update={"data": data, "tasks": tasks, "seed": 3})
    folder.begin(dump_recipe(resolved), resume=False)
    # What is not `auto` is compared, and not taken over.
    assert dump_recipe(folder.decided(said)) == dump_recipe(resolved.model_copy(update={"seed": 0}))
