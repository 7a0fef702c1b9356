"""`distill-mtl report`."""

from pathlib import Path

import pytest
import report_world

from distill_mtl.cli import main


def _status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_one_run_gets_its_report_again_and_several_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (report_world.write_run(tmp_path / name) for name in ("a", "b"))
    assert _status(first) == 0
    assert capsys.readouterr().out == f"report: {first / 'report.html'}\n"
    assert (first / "report.md").exists()
    target = tmp_path / "both.html"
    assert _status(first, second, "--to", target) == 0
    assert target.read_text().startswith("<!doctype html>")


def test_a_folder_without_a_run_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status(tmp_path) == 2
    said = capsys.readouterr().err
    assert "recipe.resolved.yaml" in said
    assert said.count("\n") == 1


def test_a_page_goes_to_no_folder_and_nothing_is_left_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [report_world.write_run(tmp_path / name) for name in ("a", "b")]
    target = tmp_path / "folder"
    target.mkdir()
    monkeypatch.chdir(target)
    for folders in (runs[:1], runs):
        assert _status(*folders, "--to", ".") == 2
        assert capsys.readouterr().err == "--to . is a folder. Name a file, such as --to FILE.\n"
    assert not list(target.iterdir())
    assert not list(tmp_path.glob(".*.part"))
