"""`--to timm`: what timm opens is the student's trunk, by itself and where nothing of ours can be imported."""

import json
from pathlib import Path

import pytest
import timm
import torch
from export_toys import run_file, run_folder, student, toy_run, without_us
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.errors import ExportError, UserError
from distill_mtl.jobs.export import export_student
from distill_mtl.tasks.base import TaskKind, build_kind

QUIET = Console(quiet=True)
NAMED = ("cat", "dog", "bird")


def kinds() -> dict[str, TaskKind]:
    return {
        "breed": build_kind("classification", NAMED),
        "part": build_kind("segmentation", NAMED),
        "age": build_kind("regression", ["age"], scale=10, offset=40),
        "deep": build_kind("classification", NAMED, head={"depth": 2}),
    }


def run_of(folder: Path, world: Path, model: str = "test_resnet") -> Path:
    return run_folder(folder, student(model, kinds()), world)


def to_timm(run: Path, world: Path, **how: object) -> Path:
    return export_student(run, "timm", rows=9, data=[str(world / "pool-test.tar")], console=QUIET, **how)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_opens_the_trunk_with_equal_features(tmp_path: Path, world: Path, model: str) -> None:
    folder = to_timm(run_of(tmp_path / "r", world, model), world)
    assert folder == tmp_path / "r" / "export" / "r-timm"
    trunk = load_student(tmp_path / "r" / "student").student.trunk
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert opened.num_classes == 0
    pixels = trunk.preprocess(torch.rand(4, 3, 40, 50))
    with torch.no_grad():
        torch.testing.assert_close(opened(pixels), trunk.model(pixels), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            opened.forward_features(pixels), trunk.model.forward_features(pixels), atol=1e-5, rtol=1e-4
        )
    assert timm.data.resolve_model_data_config(opened)["mean"] == list(trunk.inputs.mean)


def test_it_is_opened_where_nothing_of_ours_can_be_imported(tmp_path: Path, world: Path) -> None:
    folder = to_timm(run_of(tmp_path / "r", world), world)
    trunk = load_student(tmp_path / "r" / "student").student.trunk
    pixels = trunk.preprocess(torch.rand(3, 3, 32, 32))
    torch.save(pixels, tmp_path / "pixels.pt")
    without_us(
        "import timm, torch; model = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval(); "
        "torch.save(model(torch.load('pixels.pt')).detach(), 'features.pt')",
        tmp_path,
        folder,
    )
    with torch.no_grad():
        torch.testing.assert_close(
            torch.load(tmp_path / "features.pt"), trunk.model(pixels), atol=1e-5, rtol=1e-4
        )


def test_the_readme_warns_of_timms_silent_random_weights(tmp_path: Path, world: Path) -> None:
    folder = to_timm(run_of(tmp_path / "r", world), world)
    assert "**`pretrained=True` must be there.**" in (folder / "README.md").read_text()
    trunk = load_student(tmp_path / "r" / "student").student.trunk
    without = timm.create_model(f"local-dir:{folder}")
    assert not torch.equal(next(without.parameters()), next(trunk.model.parameters()))


def test_a_single_classification_takes_its_classifier_along(tmp_path: Path, world: Path) -> None:
    folder = to_timm(run_of(tmp_path / "r", world), world, only=["breed"])
    assert folder.name == "r-breed-timm"
    assert json.loads((folder / "config.json").read_text())["label_names"] == list(NAMED)
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    whole, images = load_student(tmp_path / "r" / "student"), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        given = opened(whole.student.trunk.preprocess(images))
        torch.testing.assert_close(given, whole(images)["breed"]["logits"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", ["part", "age", "deep"])
def test_a_head_that_timm_has_no_form_for_leaves_the_trunk_alone(
    tmp_path: Path, world: Path, task: str
) -> None:
    folder = to_timm(run_of(tmp_path / "r", world), world, only=[task])
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 0


def test_parameters_that_no_task_reads_are_named(tmp_path: Path, world: Path) -> None:
    dense = run_folder(tmp_path / "r", student("test_vit", {"part": kinds()["part"]}), world)
    text = (to_timm(dense, world) / "README.md").read_text()
    assert "read by no task and were not trained" in text
    both = run_folder(tmp_path / "b", student("test_resnet", {"breed": kinds()["breed"]}), world)
    assert "read by no task" not in (to_timm(both, world) / "README.md").read_text()


def test_a_trunk_of_another_family_is_refused(tmp_path: Path, world: Path) -> None:
    run = toy_run(tmp_path / "toy", world)
    with pytest.raises(UserError, match="of the family toy, which timm does not have"):
        export_student(run, "timm", rows=4, console=QUIET)
    assert not (run / "export" / "toy-timm").exists()


def test_a_folder_that_answers_otherwise_is_not_kept(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a timm that reads our config in another way would."""
    run, create = run_of(tmp_path / "r", world), timm.create_model

    def without_weights(name: str, **how: object) -> object:
        return create(name, **how | ({"pretrained": False} if name.startswith("local-dir:") else {}))

    monkeypatch.setattr(timm, "create_model", without_weights)
    with pytest.raises(ExportError, match="does not answer as the student does: features"):
        to_timm(run, world)
    assert not (run / "export").exists()


def test_an_earlier_folder_is_replaced_on_request_and_other_folders_never(
    tmp_path: Path, world: Path
) -> None:
    run = run_of(tmp_path / "r", world)
    folder = to_timm(run, world)
    with pytest.raises(ExportError, match="--overwrite"):
        to_timm(run, world)
    to_timm(run, world, overwrite=True)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["r-timm"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("dear")
    with pytest.raises(ExportError, match="holds no network"):
        to_timm(run, world, out=other, overwrite=True)
    assert (other / "thesis.txt").exists()


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_a_classifier_of_timms_is_exported_as_it_answers(tmp_path: Path, world: Path, model: str) -> None:
    network = timm.create_model(model, num_classes=3).eval()
    timm.models.save_for_hf(network, str(tmp_path / "breeds"), safe_serialization=True)
    file = export_student(
        tmp_path / "breeds",
        "torchscript",
        out=tmp_path / "breeds.ts",
        rows=6,
        data=[str(world / "pool-test.tar")],
        console=QUIET,
    )
    pixels = torch.rand(2, *network.pretrained_cfg["input_size"])
    with torch.no_grad():
        torch.testing.assert_close(run_file(file, pixels)["breeds"], network(pixels), atol=1e-4, rtol=1e-4)
