import sys
from pathlib import Path

import children
import pytest

from distill_mtl.cli import main

ROOT = Path(__file__).parents[1]


def test_the_committed_schema_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["schema"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "recipe.schema.json").read_text()


def test_a_mistake_in_a_recipe_is_a_message_and_status_2(tmp_path: Path) -> None:
    recipe = tmp_path / "pets.yaml"
    recipe.write_text("student: resnet18\ntasks:\n  breed: {techer: teachers/breed}\ntraining: {stpes: 5}\n")
    done = children.run("check", recipe, script=["-m", "distill_mtl.cli"])
    assert done.returncode == 2
    assert f"{recipe}, line 3, tasks.breed.techer" in done.stderr
    assert "Did you mean 'teacher'?" in done.stderr
    assert f"{recipe}, line 4, training.stpes" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_rule_or_kind_is_reported_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "pets.yaml"
    recipe.write_text(
        "student: resnet18\nbalance: mgda_up\ntasks:\n  breed: {teacher: t, data: a.tar, kind: segmentatoin}\n"
    )
    told = _refused("check", str(recipe), capsys=capsys)
    assert "line 2, balance" in told
    assert "line 4, tasks.breed.kind" in told
    assert "mgda_ub" in told
    assert "segmentation" in told


def test_evaluating_a_folder_without_a_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no finished run" in _refused("evaluate", str(tmp_path), capsys=capsys)


def _refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that a user got wrong says, in this process, which has loaded everything."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_process_without_standard_output_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `distill-mtl ... >&-` and some services start it."""
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["schema"])
    assert ended.value.code == 0
