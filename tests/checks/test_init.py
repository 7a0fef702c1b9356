"""`distill-mtl init`: what it writes loads, and passes the check."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import forked
import pytest
import yaml

from distill_mtl.errors import UserError
from distill_mtl.jobs.new_recipe import draft_recipe
from distill_mtl.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
NOT_TRAINED = ("tasks.hue.teacher.expect=0", "tasks.shape.teacher.expect=0")
"""The toy world's teachers have random weights."""


def draft(folder: Path, pairs: Sequence[tuple[Path, str]], **options: object) -> tuple[str, Recipe]:
    """The text of a draft, and the recipe that it is."""
    teachers, data = [str(teacher) for teacher, _ in pairs], [[data] for _, data in pairs]
    text = draft_recipe(teacher=teachers, data=data, **options)
    (folder / "drafted.yaml").write_text(text)
    return text, load_recipe(folder / "drafted.yaml")


def test_a_drafted_recipe_passes_the_check_as_it_stands(toy_data: Path, tmp_path: Path) -> None:
    """As a user does it, in processes of their own."""
    arguments = ["init", *(f"--set={override}" for override in NOT_TRAINED)]
    for task in ("hue", "shape"):
        arguments += [f"--teacher={toy_data}/teachers/{task}", "--data", f"{toy_data}/{task}-*.tar"]
    drafted = _process(*arguments)
    assert drafted.returncode == 0, drafted.stderr
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(drafted.stdout)
    checked = forked.run("check", recipe)
    assert checked.status == 0, checked.text
    assert "ready" in checked.text


def test_every_value_has_a_word_on_where_it_comes_from(toy_data: Path, tmp_path: Path) -> None:
    pairs = [(toy_data / "teachers" / task, f"{toy_data}/{task}-*.tar") for task in ("hue", "shape")]
    text, recipe = draft(tmp_path, pairs)
    without = ("tasks:", "data:", "split:", "training:", "student:", "width: 5")
    values = [line for line in text.splitlines() if line.strip() not in without and not line.startswith("#")]
    assert all("  # " in line for line in values), text
    assert recipe.student.model == "toy:net"
    assert recipe.student.init == "teacher:hue"
    assert recipe.student.input_size == 8
    assert recipe.tasks["shape"].kind == "segmentation"
    assert recipe.data["hue"].labels["hue"].member == "cls"
    assert recipe.data["shape"].labels["shape"].member == "seg.png"
    assert recipe.data["hue"].shards == f"{toy_data}/hue-train.tar"
    assert recipe.data["hue"].split.test == f"{toy_data}/hue-test.tar"


def test_what_a_file_does_not_say_is_written_out_as_assumed(
    toy_data: Path, exported: Path, tmp_path: Path
) -> None:
    text, recipe = draft(
        tmp_path,
        [(exported, f"{toy_data}/hue-*.tar")],
        trust=True,
        overrides=["tasks.hue.teacher.output.name=1", "student.init=random"],
    )
    teacher = recipe.tasks["hue"].teacher
    assert teacher is not None
    assert teacher.trust
    assert len(str(teacher.sha256)) == 64
    assert teacher.input.mean == [0.485, 0.456, 0.406]
    assert teacher.output.name == 1
    assumed = [line.split(":")[0].strip() for line in text.splitlines() if "# assumed" in line]
    assert assumed == ["mean", "std", "white", "channels"]
    assert "init: random  # --set" in text
    assert "model: test_efficientnet  # the smallest one proposed" in text


def test_sets_without_shards_are_cut_by_hash_and_it_says_so(toy_data: Path, tmp_path: Path) -> None:
    text, recipe = draft(tmp_path, [(toy_data / "teachers" / "hue", f"{toy_data}/hue-train.tar")])
    assert "validation: null  # none found" in text
    assert recipe.data["hue"].split.validation is None


def test_data_given_twice_becomes_one_source_with_both_labels(toy_data: Path, tmp_path: Path) -> None:
    twice = [(toy_data / "teachers" / "hue", f"{toy_data}/hue-*.tar")] * 2
    _, recipe = draft(tmp_path, twice)
    assert list(recipe.tasks) == ["hue", "hue-2"]
    (source,) = recipe.data.values()
    assert list(source.labels) == ["hue", "hue-2"]


def test_overrides_are_written_into_the_recipe(toy_data: Path, tmp_path: Path) -> None:
    text, recipe = draft(
        tmp_path,
        [(toy_data / "teachers" / "hue", f"{toy_data}/hue-*.tar")],
        student="resnet18",
        overrides=["training.steps=7", "balance=uniform", "tasks.hue.data.augment.flip=false"],
    )
    assert recipe.training.steps == 7
    assert recipe.training.epochs is None
    assert recipe.balance.method == "uniform"
    assert recipe.data["hue"].augment.flip is False
    assert recipe.student.init in ("pretrained", "random")  # as there is a connection or not
    assert "steps: 7  # --set" in text
    assert yaml.safe_load(text)["student"]["model"] == "resnet18"


@pytest.mark.parametrize(
    ("teacher", "data", "overrides", "said"),
    [
        (
            "shape",
            ["hue-*.tar"],
            [],
            r"shape \(segmentation, 2 classes\).*cls \(",
        ),
        (
            "hue",
            ["pool-*.tar"],
            [],
            r"hue \(classification, 3 classes\).*png\.",
        ),
        ("hue", ["hue-test.tar"], [], r"hue-test\.tar.*training"),
        ("hue", ["hue-{a,b}.tar"], [], r"hue-\{a,b\}"),
        ("hue", [], [], "1 --teacher and 0 --data"),
        ("hue", ["hue-*.tar"], ["training.stpes=3"], r"--set training\.stpes=3.*'steps'"),
        ("hue", ["hue-*.tar"], ["tasks.hu.kind=x"], "'hu'.*'hue'"),
        ("hue", ["hue-*.tar"], ["tasks.hue.teacher.input.size=big"], r"tasks\.hue\.teacher\.input\.size"),
        ("hue", ["hue-*.tar"], ["tasks.hue.kind=segmentation"], r"tasks\.hue.*segmentation"),
    ],
)
def test_what_does_not_fit_is_refused_with_nothing_written(
    toy_data: Path,
    capsys: pytest.CaptureFixture[str],
    teacher: str,
    data: list[str],
    overrides: list[str],
    said: str,
) -> None:
    with pytest.raises(UserError, match=f"(?s){said}"):
        draft_recipe(
            teacher=[f"{toy_data}/teachers/{teacher}"],
            data=[[f"{toy_data}/{name}"] for name in data],
            overrides=overrides,
        )
    assert capsys.readouterr().out == ""


def _process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that knows the toys."""
    code = "import sys, toys; from distill_mtl.cli import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
