"""What a user of `distill-mtl export` meets besides a good file."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest
import torch
from export_toys import run_file, student
from rich.console import Console

from distill_mtl.cli import main
from distill_mtl.errors import ExportError, UserError
from distill_mtl.jobs.export import export_student
from distill_mtl.networks.runtimes.torchscript_file import TorchScriptRuntime
from distill_mtl.students.student_folder import save_student

QUIET = Console(quiet=True)


def failed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one message of a command that ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, words)])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed


def test_the_command_writes_beside_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run), "--to", "torchscript", "--decode", "--preprocess", "--rows", "8"])
    assert ended.value.code == 0
    assert "toy.ts" in capsys.readouterr().out
    assert "hue.label" in run_file(run / "export" / "toy.ts", torch.rand(2, 3, 30, 20))


def test_an_export_is_not_replaced_unasked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_student(run, "torchscript", rows=6, console=QUIET)
    assert "toy.ts exists. Replace it with --overwrite" in failed(capsys, run, "--to", "torchscript")
    export_student(run, "torchscript", rows=6, overwrite=True, console=QUIET)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_export_and_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    monkeypatch.setattr(TorchScriptRuntime, "__init__", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run), "--to", "torchscript", "--rows", "6"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: nothing was written.\n"
    assert not (run / "export").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_export_that_ends_early_leaves_nothing_and_spoils_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    file = export_student(run, "torchscript", rows=6, console=QUIET)
    before = file.read_bytes()

    def ends(self: TorchScriptRuntime, path: Path) -> None:
        assert path.exists()
        raise error

    monkeypatch.setattr(TorchScriptRuntime, "__init__", ends)
    with pytest.raises(error):
        export_student(run, "torchscript", rows=6, overwrite=True, console=QUIET)
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {
        "toy.ts",
        "toy.ts.certificate.json",
        "toy.ts.certificate.npz",
    }


def test_mistakes_are_said_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown export format 'onxn'. Did you mean 'onnx'?" in failed(capsys, run, "--to", "onxn")
    assert "holds no student" in failed(capsys, tmp_path, "--to", "torchscript")
    refused = failed(capsys, run, "--to", "torchscript", "--int8")
    assert all(part in refused for part in ("--int8", "--to torchscript", "onnx"))
    (tmp_path / "folder.ts").mkdir()
    assert "is a folder" in failed(capsys, run, "--to", "torchscript", "--out", tmp_path / "folder.ts")


def test_a_package_that_is_missing_is_named_with_its_extra(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        "distill_mtl.export.export_format.find_spec",
        lambda name: None if name == "onnxscript" else usual(name),
    )
    with pytest.raises(ExportError, match=r"needs onnxscript: pip install 'distill_mtl\[onnx\]'"):
        export_student(run, "onnx", console=QUIET)


def test_a_student_without_a_run_asks_for_pictures(tmp_path: Path, world: Path) -> None:
    save_student(student(), tmp_path / "alone")
    with pytest.raises(ExportError, match="lies in no run.*--data"):
        export_student(tmp_path / "alone", "torchscript", console=QUIET)
    file = export_student(
        tmp_path / "alone", "torchscript", rows=6, data=[str(world / "pool-test.tar")], console=QUIET
    )
    assert file == tmp_path / "alone" / "export" / "alone.ts"


def test_a_run_whose_data_is_gone_asks_for_other_pictures(run: Path, world: Path) -> None:
    recipe = run / "recipe.resolved.yaml"
    recipe.write_text(recipe.read_text().replace("hue-test.tar", "moved-test.tar"))
    with pytest.raises(UserError, match="Name other shards with --data"):
        export_student(run, "torchscript", console=QUIET)
    export_student(run, "torchscript", rows=6, data=[str(world / "pool-*.tar")], console=QUIET)
