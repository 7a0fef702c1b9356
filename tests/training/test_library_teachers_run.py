"""Networks of transformers and segmentation-models-pytorch teach a student, live and from the cache."""

from pathlib import Path

import pytest
import torch
import toy_world
from rich.console import Console

from distill_mtl import check, distill, evaluate, predict, verify_cache, write_cache

transformers = pytest.importorskip("transformers")
smp = pytest.importorskip("segmentation_models_pytorch")

QUIET = Console(quiet=True)
RECIPE = """
student: {model: "toy:net", init: random, input_size: 16}
tasks:
  hue:
    teacher: {transformers: FOLDER/colours, expect: 0, precision: fp32}
    data: {shards: FOLDER/hue-train.tar, split: {validation: FOLDER/hue-validation.tar, test: FOLDER/hue-test.tar}}
  shape:
    kind: segmentation
    teacher: {smp: FOLDER/unet, input: {size: 32}, expect: 0, precision: fp32}
    data:
      shards: FOLDER/shape-train.tar
      split: {validation: FOLDER/shape-validation.tar, test: FOLDER/shape-test.tar}
training: {steps: 4, batch_size: 12, log_every: 2, precision: fp32}
evaluation: {bootstrap: 100}
acceptance: 100
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and two teachers as their libraries save them."""
    folder = tmp_path_factory.mktemp("libraries")
    toy_world.build(folder)
    torch.manual_seed(3)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder / "colours")
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875)
    processor.save_pretrained(folder / "colours")
    unet = smp.Unet(
        "tu-test_resnet", encoder_weights=None, encoder_depth=4, decoder_channels=(8, 8, 8, 8), classes=2
    )
    unet.save_pretrained(folder / "unet")
    (folder / "recipe.yaml").write_text(RECIPE.replace("FOLDER", str(folder)))
    return folder


def test_the_check_passes_and_both_teach_live_and_cached(folder: Path) -> None:
    check(folder / "recipe.yaml", console=QUIET)
    live = distill(folder / "recipe.yaml", ["targets.from=live"], out=folder / "live", console=QUIET)
    write_cache(folder / "recipe.yaml", console=QUIET)
    verify_cache(folder / "recipe.yaml", console=QUIET)
    cached = distill(folder / "recipe.yaml", ["targets.from=cached"], out=folder / "cached", console=QUIET)
    for run in (live, cached):
        assert set(run.tasks) == {"hue", "shape"}
    recorded = (folder / "live" / "teachers.json").read_text()
    assert all(
        str(folder / place) in recorded for place in ("colours/preprocessor_config.json", "unet/config.json")
    )


def test_such_a_network_is_shown_pictures_and_compared(folder: Path, tmp_path: Path) -> None:
    network = f"{{transformers: {folder / 'colours'}}}"
    predict(network, [str(folder / "hue-test.tar")], json=tmp_path / "answers.jsonl", console=QUIET)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == toy_world.ROWS
    found = evaluate(
        student=str(folder / "colours"), against=[network], data=[str(folder / "hue-test.tar")], acceptance=["1"],
        console=QUIET,
    )  # fmt: skip
    (comparison,) = found.values()
    assert next(iter(comparison.tasks.values())).delta == 0
