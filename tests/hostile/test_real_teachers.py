"""Networks trained on real pictures and read in a wrong way: the check asks, and names the reading that scores best."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import webdataset
from real_data import ROOT, real_data
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from toy_world import png

from distill_mtl.checks.teacher_check import TeacherCheck, check_teachers
from distill_mtl.recipe import load_recipe
from distill_mtl.training.parts import build

Plant = Callable[[Path], None]
PARTS = {"train": range(6000), "validation": range(6000, 8000), "test": range(8000, 10000)}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of handwritten digits, and a grey network that was trained on them with MNIST's mean and std."""
    folder, source = tmp_path_factory.mktemp("digits"), real_data("mnist")
    images = values(source / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = values(source / "train-labels-idx1-ubyte.gz", 8)
    for split, rows in PARTS.items():
        with webdataset.TarWriter(str(folder / f"{split}.tar"), encoder=False) as writer:
            for row in rows:
                label = str(labels[row]).encode()
                writer.write({"__key__": f"{row:05d}", "png": png(images[row]), "cls": label})
    rows = PARTS["train"]
    write_teacher(folder / "teacher", images[: len(rows)], labels[: len(rows)])
    return folder


def values(file: Path, header: int) -> np.ndarray:
    with gzip.open(file) as opened:
        return np.frombuffer(opened.read(), np.uint8)[header:].copy()


def write_teacher(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Four epochs of Adam."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    pixels = (torch.from_numpy(images)[:, None].float() / 255 - 0.1307) / 0.3081
    truth = torch.from_numpy(labels).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(4):
        for rows in torch.randperm(len(truth)).split(64):
            loss = F.cross_entropy(network(pixels[rows]), truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    config = json.loads((ROOT / "teachers" / "left" / "config.json").read_text())
    config["model_args"] = {"in_chans": 1}
    config["pretrained_cfg"] |= {"input_size": [1, 28, 28], "mean": [0.1307], "std": [0.3081]}
    (folder / "config.json").write_text(json.dumps(config))


def contract(**changes: object) -> Plant:
    def plant(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["pretrained_cfg"] |= changes
        (folder / "config.json").write_text(json.dumps(config))

    return plant


def swapped(folder: Path) -> None:
    """Output 3 says 8, and the other way round."""
    state = load_file(folder / "model.safetensors")
    order = [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]
    classifier = {name: value[order].clone() for name, value in state.items() if name.startswith("fc.")}
    save_file(state | classifier, folder / "model.safetensors")


def examine(teacher: Path, folder: Path, plant: Plant, size: int, shards: str) -> TeacherCheck:
    """The check of a copy with a mistake, and without a recorded score."""
    copy, recipe = folder / "copy", folder / "recipe.yaml"
    shutil.copytree(teacher, copy)
    (copy / "score.json").unlink(missing_ok=True)
    plant(copy)
    split = ", ".join(f"{name}: {shards.format(name)}" for name in ("validation", "test"))
    recipe.write_text(f"""
student: {{model: test_resnet, input_size: {size}, init: random}}
tasks: {{digit: {{teacher: {copy}, data: {{shards: "{shards.format("train")}", split: {{{split}}}}}}}}}
""")
    parts = build(load_recipe(recipe))
    return check_teachers(parts.recipe, parts.teachers, parts.kinds, parts.sources, torch.device("cpu"))[
        "digit"
    ]


MNIST = "MNIST's mean 0.1307 and std 0.3081"
ORDER = "order: 0, 1, 2, 8, 4, 5, 6, 7, 3, 9"
IMAGENET = contract(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        pytest.param(contract(mean=[0.449], std=[0.226]), MNIST, id="ImageNet's constants"),
        pytest.param(contract(mean=[0.5], std=[0.5]), MNIST, id="-1 to 1"),
        pytest.param(contract(mean=[0.0], std=[1.0]), MNIST, id="0 to 1"),
        pytest.param(contract(input_size=[1, 32, 32]), "28x28", id="size"),
        pytest.param(swapped, ORDER, id="two classes swapped"),
    ],
)
def test_a_grey_network_of_digits(digits: Path, tmp_path: Path, plant: Plant, named: str) -> None:
    asks(examine(digits / "teacher", tmp_path, plant, 28, f"{digits}/{{}}.tar"), named)


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        pytest.param(IMAGENET, "[-1, 1]", id="ImageNet's constants, which cost 5 points"),
        pytest.param(contract(mean=[0.0] * 3, std=[1.0] * 3), "[-1, 1]", id="0 to 1"),
        pytest.param(swapped, ORDER, id="two classes swapped"),
    ],
)
def test_a_teacher_of_the_repository(tmp_path: Path, plant: Plant, named: str) -> None:
    asks(examine(ROOT / "teachers" / "left", tmp_path, plant, 32, "multidigits:left-{}"), named)


def asks(found: TeacherCheck, named: str) -> None:
    """No tick; a cause, and how sure it is."""
    assert not found.passed
    question = str(found.problem or found.doubt)
    assert named in question
    assert "it then scores" in question


def test_read_as_they_were_trained_they_are_not_doubted(digits: Path, tmp_path: Path) -> None:
    for number, (teacher, size, shards) in enumerate(
        [
            (digits / "teacher", 28, f"{digits}/{{}}.tar"),
            (ROOT / "teachers" / "left", 32, "multidigits:left-{}"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert examine(teacher, folder, lambda copy: None, size, shards).passed
