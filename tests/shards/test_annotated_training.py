"""From annotations to a student: shards of COCO and VOC, the recipe's lines that were printed, a few steps."""

import json
from pathlib import Path

import pytest
import toys
from annotated_data import coco, voc

from distill_mtl import distill, load_recipe, shards_from_coco, shards_from_voc
from distill_mtl.tasks.base import build_kind

pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.mark.parametrize(
    ("form", "kind"), [("coco", "heatmap"), ("coco", "segmentation"), ("voc", "segmentation")]
)
def test_what_is_printed_trains_with_a_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, kind: str
) -> None:
    label = "boxes" if kind == "heatmap" else "masks"
    if form == "coco":
        for split in ("train", "val", "test"):
            coco(tmp_path / "data", split)
        written = shards_from_coco(tmp_path / "data", to=tmp_path / "s", label=label, workers=0)  # type: ignore[arg-type]
    else:
        names = ["2007_000027", "2007_000032", "2007_000039"]
        lists = {"train": names[:1], "val": names[1:2], "test": names[2:]}
        written = shards_from_voc(
            voc(tmp_path / "data", lists=lists), to=tmp_path / "s", label="masks", workers=0
        )
    lines = capsys.readouterr().out.partition("in a recipe:")[2]
    built = written["train"].labels[0]
    toys.toy_teacher_folder(
        tmp_path / "teacher", "s", build_kind(kind, built.kind.classes, **built.options), seed=1
    )
    teacher = f"    teacher: {{path: {tmp_path}/teacher, expect: 0}}\n    data:\n"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        'student: {model: "toy:net", init: random}\n'
        + lines.replace("    data:\n", teacher)
        + "training: {steps: 3, batch_size: 2, log_every: 1}\nevaluation: {bootstrap: 100}\nacceptance: 100\n"
    )
    distill(load_recipe(recipe), out=tmp_path / "run")
    result = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]["s"]
    assert result["student"] is not None
