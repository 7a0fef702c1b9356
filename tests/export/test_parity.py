"""An export that does not answer as the student does is not kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from export_toys import every_kind
from rich.console import Console
from torch import Tensor

from distill_mtl.errors import ExportError
from distill_mtl.export.parity import Difference
from distill_mtl.jobs.export import export_student
from distill_mtl.networks.runtimes.torchscript_file import TorchScriptRuntime

QUIET = Console(quiet=True)


def spoiled(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor], output: str) -> None:
    """Let the runtime give something else for one output."""
    usual = TorchScriptRuntime.forward

    def spoil(self: TorchScriptRuntime, images: Tensor) -> dict[str, Tensor]:
        answers = usual(self, images)
        return {name: change(answer) if name == output else answer for name, answer in answers.items()}

    monkeypatch.setattr(TorchScriptRuntime, "forward", spoil)


def test_what_was_compared_is_shown_and_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = export_student(run, "torchscript", decode=True, rows=20, console=Console(width=120))
    shown = capsys.readouterr().out
    assert "20 rows in batches of 1, 3, 2, 14" in shown
    assert "hue.probabilities" in shown
    found = json.loads(Path(f"{file}.certificate.json").read_text())["runtimes"]["torch"]
    assert found["rows"] == 20
    assert found["outputs"]["hue"]["decisions"] == 20
    assert found["outputs"]["shape.label"]["decisions"] == 20 * 8 * 8
    assert all(output["changed"] == 0 for output in found["outputs"].values())


def test_a_changed_decision_fails_the_export_and_names_task_and_row(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, lambda logits: logits.roll(1, 1) * 1e-3 + logits * 0, "hue")
    with pytest.raises(ExportError, match=r"TorchScript in PyTorch does not answer .* hue: .*row hue/"):
        export_student(run, "torchscript", rows=8, console=QUIET)
    assert not (run / "export").exists()


def test_an_error_that_no_rounding_explains_fails_though_no_decision_changes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, lambda logits: logits * 1.1, "shape")
    with pytest.raises(ExportError, match=r"shape: the largest error is .* of answers up to"):
        export_student(run, "torchscript", rows=8, console=QUIET)


def test_a_wrong_decoding_fails(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, lambda label: 1 - label, "shape.label")
    with pytest.raises(ExportError, match=r"shape\.label: .* decisions changed"):
        export_student(run, "torchscript", decode=True, rows=8, console=QUIET)


def test_a_graph_that_knows_one_batch_size_fails(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, lambda logits: logits[:2], "hue")
    with pytest.raises(ExportError, match=r"gives 'hue' the shape \[2, 3\] for 3 rows"):
        export_student(run, "torchscript", rows=8, console=QUIET)


@pytest.mark.parametrize("task", ["breed", "tags", "part", "things"])
def test_only_close_decisions_may_change(task: str) -> None:
    kind = every_kind()[task]
    logits = torch.randn(64, kind.outputs, *((6, 6) if kind.dense else ()))
    decided, margin = kind.decisions(logits)
    assert decided.shape == margin.shape
    noise = 0.1 * (2 * torch.rand_like(logits) - 1)
    moved, _ = kind.decisions(logits + noise)
    assert bool((moved == decided)[margin > 0.2].all())
    assert bool((moved != decided).any()), "the noise is large enough to show something"
    found = Difference()
    found.decide(moved != decided, margin > 0.2, [str(row) for row in range(64)])
    assert found.changed == 0
    assert found.close > 0


def test_what_is_no_number_on_one_side_alone_is_an_error() -> None:
    found = Difference()
    found.add(torch.tensor([[1.0, torch.nan]]), torch.tensor([[1.0, torch.nan]]), ["a"])
    assert found.largest == 0
    found.add(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, torch.nan]]), ["b"])
    assert found.excessive
    assert found.where == "b"
