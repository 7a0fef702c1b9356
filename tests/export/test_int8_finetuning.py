"""`--int8 --finetune STEPS`: the rounding of training is the file's, and what it leaves is exported and kept."""

import json
import os
import shutil
import signal
from pathlib import Path

import export_toys
import pytest
import torch
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.balance import make_rule
from distill_mtl.cli import main
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.term import LossConfig, build_terms
from distill_mtl.errors import ExportError
from distill_mtl.export.deployable import Deployable, file_note
from distill_mtl.export.export_format import find_student
from distill_mtl.export.formats.onnx import Onnx
from distill_mtl.export.int8 import quantise
from distill_mtl.jobs.export import export_student
from distill_mtl.jobs.int8_finetuning import finetuned_for_int8
from distill_mtl.jobs.verify import verify_export
from distill_mtl.students.student_folder import save_student
from distill_mtl.training.checkpoint import Session
from distill_mtl.training.fake_quantisation import (
    FakeQuantisation,
    QuantisedObjective,
    rounded_input,
    rounded_weight,
)

QUIET = Console(quiet=True)


def exported(run: Path, steps: int = 4, **options: object) -> Path:
    return export_student(
        run, "onnx", int8=True, finetune=steps, calibration=8, rows=6, console=QUIET, **options
    )


def finetuned(run: Path, steps: int = 4) -> None:
    """What an export with these steps begins with."""
    finetuned_for_int8(find_student(run), steps, QUIET)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_student(folder).student.state_dict()


def test_the_rounding_of_training_is_that_of_the_file(tmp_path: Path) -> None:
    made = export_toys.toy_student("test_resnet")
    images = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    module = Deployable(made, "float", decode=False).eval().requires_grad_(False)
    file = tmp_path / "student.onnx"
    Onnx().write(module, file_note(module, None), file)
    quantise(file, [images], module.kinds)
    int8 = export_toys.run_file(file, images)
    rounding = FakeQuantisation(made)
    rounding.observe([images])
    assert not any(name.startswith("heads.hue") for name in rounding.layers), "its only layer is its last"
    with torch.no_grad():
        fp32 = made(images)
        with rounding:
            fake = made(images)
    away = {task: (fp32[task] - int8[task]).abs().mean() for task in made.kinds}
    apart = {task: (fake[task] - int8[task]).abs().mean() for task in made.kinds}
    assert apart["hue"] < 0.6 * away["hue"]
    assert apart["shape"] < away["shape"], "the input of a GroupNorm is rounded in the file alone"


def test_gradients_pass_the_rounding_and_not_what_is_cut() -> None:
    values = torch.tensor([-3.0, -0.4, 0.0, 0.7, 9.0], requires_grad=True)
    rounded = rounded_input(values, torch.tensor(-1.0), torch.tensor(2.0))
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0]
    assert rounded[2] == 0
    weight = torch.randn(4, 3, 2, 2, requires_grad=True)
    near = rounded_weight(weight, 0)
    largest = weight.detach().abs().amax((1, 2, 3))
    assert ((near - weight).abs().amax((1, 2, 3)) <= largest / 127 / 2 + 1e-7).all()


def test_the_student_in_fp32_teaches_every_row_and_what_it_says_already_costs_nothing() -> None:
    made, fp32 = export_toys.toy_student(), export_toys.toy_student()
    configs = dict.fromkeys(made.kinds, LossConfig())
    shapes = made.trunk.shapes
    terms = build_terms(configs, shapes, {}, named=set(), seed=0)
    objective = QuantisedObjective(
        made,
        configs,
        terms,
        make_rule("uniform", list(made.kinds)),
        fp32=fp32,
        quantisation=FakeQuantisation(made),
        rows=6,
    )
    batch = Batch(
        images=torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
        labels={"hue": torch.zeros(6, dtype=torch.int64), "shape": torch.zeros(6, 8, 8, dtype=torch.int64)},
        labelled={task: torch.zeros(6, dtype=torch.bool) for task in made.kinds},
        keys=list("abcdef"),
        source=torch.zeros(6, dtype=torch.int64),
    )
    counts = count_rows([batch], [{}], configs)
    _, _, named = objective(batch.images, batch, {}, counts)
    assert named == {}, "no task is present where nobody asked for one"
    batch.labelled["hue"][:] = True
    counts = count_rows([batch], [{}], configs)
    _, _, named = objective(batch.images, batch, {}, counts)
    assert float(named["hue"]["soft_targets"]) == pytest.approx(0, abs=1e-6)
    made.heads["hue"].load_state_dict(
        {k: v + 0.3 * torch.randn_like(v) for k, v in made.heads["hue"].state_dict().items()}
    )
    _, _, named = objective(batch.images, batch, {}, counts)
    assert float(named["hue"]["soft_targets"]) > 0
    assert isinstance(objective, Objective)
    assert not any("fp32" in name for name in objective.state_dict())


def test_what_training_leaves_is_exported_and_compared_with_the_runs_student(run: Path) -> None:
    before = weights(run / "student")
    file = exported(run)
    trained = weights(run / "for-int8" / "student")
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())
    assert all(torch.equal(value, before[name]) for name, value in weights(run / "student").items())
    assert export_toys.note_of(file)["precision"] == "int8"
    results = json.loads(Path(f"{file}.results.json").read_text())
    assert (results["student"], results["against"]) == ("int8", "fp32")
    assert verify_export(Path(f"{file}.certificate.json"), console=QUIET).accepted
    lines = (run / "for-int8" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4
    assert "hint" not in json.loads(lines[-1])["tasks"]["hue"]
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    given = export_toys.run_file(file, load_student(run / "student").student.trunk.preprocess(images))
    apart = {
        name: float((given["hue"] - load_student(folder)(images)["hue"]["logits"]).abs().mean())
        for name, folder in (("run", run / "student"), ("trained", run / "for-int8" / "student"))
    }
    assert apart["trained"] < apart["run"]


def test_a_later_export_takes_what_is_there_unless_it_is_of_other_steps_or_another_student(run: Path) -> None:
    finetuned(run)
    place = run / "for-int8" / "student" / "model.safetensors"
    first = place.stat().st_mtime_ns
    finetuned(run)
    assert place.stat().st_mtime_ns == first
    finetuned(run, steps=3)
    second = place.stat().st_mtime_ns
    assert second != first
    save_student(
        export_toys.student(kinds=load_student(run / "student").student.kinds, seed=5), run / "student"
    )
    finetuned(run, steps=3)
    assert place.stat().st_mtime_ns != second


def test_a_stopped_training_leaves_no_export_and_goes_on_to_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "whole")
    exported(tmp_path / "whole")
    usual = Session.after_step

    def stops(self: Session) -> None:
        usual(self)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Session, "after_step", stops)
    with pytest.raises(SystemExit) as ended:
        main(f"export {run} --to onnx --int8 --finetune 4 --calibration 8 --rows 6".split())
    assert ended.value.code not in (0, None)
    assert "stopped after step 2 of 4 of fine-tuning" in capsys.readouterr().err
    assert not (run / "export").exists()
    assert not (run / "for-int8" / "student").exists()
    monkeypatch.undo()
    exported(run)
    ours, theirs = (weights(folder / "for-int8" / "student") for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_steps_need_int8_and_a_run(run: Path, tmp_path: Path, world: Path) -> None:
    with pytest.raises(ExportError, match="Add --int8"):
        export_student(run, "onnx", finetune=5, console=QUIET)
    with pytest.raises(ExportError, match=r"--finetune 1000000: expected at most 1,000 steps"):
        exported(run, steps=10**6)
    save_student(export_toys.student(), tmp_path / "alone")
    with pytest.raises(ExportError, match="lies in no run"):
        exported(tmp_path / "alone", data=[str(world / "pool-test.tar")])
