"""What `init` proposes: names, grey pictures, a small student, views; and a draft that runs offline as it stands."""

from pathlib import Path

import init_nets
import numpy as np
import pytest
import timm
import torch
import toy_world
from rich.console import Console
from safetensors.torch import save_file

from distill_mtl import distill, load_recipe
from distill_mtl.checks.proposals import STUDENTS, initial_weights, smaller_student
from distill_mtl.errors import ShardError
from distill_mtl.jobs.new_recipe import draft_recipe
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher

QUIET = Console(quiet=True)
ROWS = 24


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection, and nothing in the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("distill_mtl.checks.proposals.try_to_load_from_cache", lambda *_: None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    save_file(init_nets.Grey().state_dict(), "grey.safetensors")
    return tmp_path


def write_letters(folder: Path, names: str = "abc", size: int = 16) -> str:
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        rows = []
        for row in range(ROWS):
            pixels = generator.integers(0, 255, (size, size, 3)).astype(np.uint8)
            label = names[row % len(names)].encode()
            rows.append({"__key__": f"{split}-{row:02d}", "png": toy_world.png(pixels), "cls": label})
        toy_world.write_rows(folder / f"letters-{split}.tar", rows)
    return f"{folder}/letters-*.tar"


def own(channels: str = "") -> str:
    return f'{{module: "init_nets:Grey", weights: grey.safetensors, input: {{size: 16{channels}}}}}'


def draft(teacher: str, data: str, folder: Path, *overrides: str) -> tuple[str, Recipe]:
    text = draft_recipe(teacher=[teacher], data=[[data]], trust=True, overrides=overrides, console=QUIET)
    (folder / "drafted.yaml").write_text(text)
    return text, load_recipe(folder / "drafted.yaml")


def test_a_grey_module_with_named_labels_becomes_a_recipe_that_trains_offline(
    folder: Path, short_runs: None
) -> None:
    # The teacher has random weights: no score is what it should be.
    overrides = ("tasks.grey.teacher.expect=0", "training.steps=3", "training.batch_size=8")
    text, recipe = draft(own(), write_letters(folder), folder, *overrides)
    (teacher,) = recipe.tasks["grey"].networks
    assert teacher is not None
    assert teacher.module == "init_nets:Grey"
    assert teacher.classes == ["a", "b", "c"]
    assert teacher.input.channels == "grey"
    assert teacher.input.mean is not None
    assert len(teacher.input.mean) == 1
    assert "channels: grey  # found on a trial" in text
    assert "# assumed: names of the labels, in alphabetical order" in text
    source = recipe.data["grey"]
    assert source.augment.flip is False
    assert recipe.student.init == "random"
    assert recipe.student.model == STUDENTS[-1]
    quick = ["acceptance=100", "evaluation.bootstrap=100"]
    found = distill(load_recipe(folder / "drafted.yaml", quick), out=folder / "run", console=QUIET)
    assert found.tasks["grey"].rows == ROWS


def test_what_is_assumed_and_a_last_map_of_one_pixel_are_said(folder: Path) -> None:
    console = Console(width=400)
    with console.capture() as captured:
        draft_recipe(teacher=[own()], data=[[write_letters(folder)]], trust=True, console=console)
    said = captured.get()
    assert "grey: grey.safetensors does not say its mean, std, white." in said
    assert "assumed to be the labels' in alphabetical order" in said
    assert f"the last map of {STUDENTS[-1]} at 16 x 16 pixels is a single pixel" in said


def test_labels_that_name_another_number_of_classes_are_refused(folder: Path) -> None:
    with pytest.raises(ShardError, match=r"name 4 classes \(a, b, c, d\), and .* has 3 outputs"):
        draft(own(), write_letters(folder, "abcd"), folder)


def test_numbered_labels_name_nothing(folder: Path) -> None:
    _, recipe = draft(own(), write_letters(folder, "012"), folder)
    (teacher,) = recipe.tasks["grey"].networks
    assert teacher.classes is None
    assert recipe.data["grey"].augment.flip == "auto"


def test_one_mean_says_grey_too(folder: Path) -> None:
    section = TeacherSection(
        module="init_nets:Grey",
        weights="grey.safetensors",
        trust=True,
        input={"size": 16, "mean": [0.5], "std": [0.5]},
    )
    assert load_teacher(section, task="grey").card.inputs.channels == "grey"


def test_the_student_has_no_more_parameters_than_the_teachers_together(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    teacher = load_teacher(TeacherSection(path=str(tmp_path)), task="a")
    total = sum(value.numel() for value in teacher.parameters())
    name, why = smaller_student([teacher])
    assert name == "test_resnet"
    assert f"{total:,}" in why
    sizes = [sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters()) for name in STUDENTS]
    assert sizes == sorted(sizes, reverse=True)


def test_without_a_connection_a_student_begins_at_random() -> None:
    init, why = initial_weights({"model": "resnet18", "args": {}})
    assert init == "random"
    assert "HF_HUB_OFFLINE is set" in why


def test_features_need_no_label_and_their_data_has_none(folder: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(model, folder / "feel", safe_serialization=True)
    pictures = [
        {"__key__": f"{row:02d}", "png": toy_world.png(np.full((16, 16, 3), 9 * row, np.uint8))}
        for row in range(ROWS)
    ]
    toy_world.write_rows(folder / "pool.tar", pictures)
    _, recipe = draft(str(folder / "feel"), str(folder / "pool.tar"), folder)
    assert recipe.tasks["feel"].kind == "embedding"
    (source,) = recipe.data.values()
    assert source.labels == {}
    assert recipe.student.init == "teacher:feel"
