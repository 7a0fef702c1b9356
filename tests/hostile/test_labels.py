"""Labels that can be read and teach nothing, or hold impossible values: doubted or refused before training."""

import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world
from PIL import Image
from rich.console import Console
from torch import Tensor

from distill_mtl.checks.label_check import check_labels
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.errors import ShardError, UserError
from distill_mtl.evaluation.network_costs import Cost, Costs
from distill_mtl.evaluation.result import Acceptance, Evaluation
from distill_mtl.evaluation.row_statistics import RowStatistics
from distill_mtl.evaluation.task_comparison import summarise
from distill_mtl.recipe.schema import LabelSection, SourceSection
from distill_mtl.report.console import console_table
from distill_mtl.shards import folder_rows, pair_rows, write_shards
from distill_mtl.shards.shard_summary import show
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.doubts import impossible_values, short_number
from distill_mtl.tasks.maps import read_npy

TEN = [str(number) for number in range(10)]


def mask(*values: int) -> bytes:
    """A mask of 8 x 8 pixels of these values in turn."""
    pixels = np.resize(np.array(values, np.uint8), (8, 8))
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def depths(*values: float) -> bytes:
    encoded = io.BytesIO()
    np.save(encoded, np.resize(np.array(values, np.float32), (8, 8)))
    return encoded.getvalue()


def numbers(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def opened(folder: Path, kind: TaskKind, payloads: Sequence[bytes], member: str | None = None) -> Sources:
    """The rows of a shard that is written here, labelled for `task`."""
    png = toy_world.png(np.zeros((8, 8, 3), np.uint8))
    toy_world.write_rows(
        folder / "rows.tar",
        (
            {"__key__": f"{row:03d}", "png": png, (member or kind.endings()[0]): payload}
            for row, payload in enumerate(payloads)
        ),
    )
    rows = SourceSection(shards=[str(folder / "rows.tar")], labels={"task": LabelSection(member=member)})
    return open_sources(DataSettings({"rows": rows}), {"task": kind}, (8, 8), every_set=False)


def said(sources: Sources, kind: TaskKind) -> str:
    """What the check says of the labels."""
    console = Console(file=io.StringIO(), width=300)
    check_labels(sources, {"task": kind}, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


SOUND = [
    ("classification", ["cat", "dog"], {}, None, [b"0", b"1"] * 9),
    ("segmentation", ["sky", "road"], {}, None, [mask(0, 1), mask(0, 255)] * 4),
    ("multilabel", ["hat", "coat"], {}, None, numbers([0, 1], [1, None], [1, 0])),
    ("regression", ["age"], {}, None, numbers(*range(7, 90), None)),
    ("regression", ["price"], {}, None, numbers(*(round(1.1**power, 2) for power in range(120)))),
    ("depth", [], {}, "depth.npy", [depths(1, 2, 3), depths(0, 5), depths(80)]),
]


@pytest.mark.parametrize(("kind", "classes", "options", "member", "payloads"), SOUND)
def test_sound_labels_are_not_doubted(
    kind: str,
    classes: list[str],
    options: dict[str, Any],
    member: str | None,
    payloads: list[bytes],
    tmp_path: Path,
) -> None:
    built = build_kind(kind, classes, **options)
    assert said(opened(tmp_path, built, payloads, member), built) == ""


DOUBTED = [
    (
        "masks of 0 and 255",
        "segmentation",
        ["back", "cat"],
        [mask(0, 255)] * 3,
        ["0 and 255", "50.0 %", "write 1"],
    ),
    (
        "masks of one class",
        "segmentation",
        ["back", "cat"],
        [mask(0)] * 3,
        ["every labelled pixel", "'back'"],
    ),
    ("a class without a pixel", "segmentation", ["a", "b", "c"], [mask(0, 1)], ["no pixel", "'c' (1 of 3)"]),
    (
        "gaps",
        "segmentation",
        [str(number) for number in range(128)],
        [mask(0, 27, 100, 127)] * 3,
        ["0, 27, 100, 127", "128 classes", "124 of them", "0 to 3"],
    ),
    (
        "numbered from 1",
        "segmentation",
        TEN[:4],
        [mask(1, 2, 3)],
        ["from 1 to 3", "4 classes", "first_number: 1"],
    ),
    ("one class", "classification", ["cat", "dog"], [b"dog"] * 5, ["every labelled row", "'dog'"]),
    ("a class without a row", "classification", ["cat", "dog", "emu"], [b"0", b"2"], ["'dog' (1 of 3)"]),
    (
        "class numbers from 1",
        "classification",
        TEN,
        [b"%d" % n for n in range(1, 10)],
        ["from 1 to 9", "10 classes"],
    ),
    ("an attribute of no row", "multilabel", ["hat", "coat"], numbers([0, 1], [0, 0]), ["no row has 'hat'"]),
    (
        "an attribute of all rows",
        "multilabel",
        ["hat", "coat"],
        numbers([1, 1], [1, 0]),
        ["every row has 'hat'"],
    ),
    (
        "an unknown attribute",
        "multilabel",
        ["hat", "a"],
        numbers([None, 1], [None, 0]),
        ["anything of 'hat'"],
    ),
    ("a constant", "regression", ["age"], numbers(7, 7, 7), ["all labels are the same: 'age = 7'"]),
    ("an unknown value", "regression", ["a", "b"], numbers([1, None], [2, None]), ["anything of 'b'"]),
    (
        "1e9 among 7 to 20",
        "regression",
        ["age"],
        numbers(*range(7, 21), 1e9),
        ["1 of 15", "1e+09 among 7 to 20"],
    ),
    (
        "-999 for not known",
        "regression",
        ["age"],
        numbers(*range(20, 60), -999, -999),
        ["2 of 42", "-999 among"],
    ),
    (
        "a depth of 1e9",
        "depth",
        [],
        [depths(1, 7 + n) for n in range(13)] + [depths(1e9)],
        ["1e+09 among 7 to 19"],
    ),
    ("one depth", "depth", [], [depths(3)] * 2, ["every depth is 3"]),
    (
        "boxes of one class",
        "heatmap",
        ["cup", "pan"],
        numbers([{"class": 0, "box": [0, 0, 4, 4]}]),
        ["'pan'"],
    ),
    (
        "corners",
        "heatmap",
        ["cup"],
        numbers([{"class": 0, "box": [5, 5, 8, 8]}]),
        ["1 of 1 boxes reach beyond"],
    ),
]


@pytest.mark.parametrize(
    ("kind", "classes", "payloads", "found"),
    [case[1:] for case in DOUBTED],
    ids=[case[0] for case in DOUBTED],
)
def test_labels_that_teach_nothing_are_doubted_with_their_numbers(
    kind: str, classes: list[str], payloads: list[bytes], found: list[str], tmp_path: Path
) -> None:
    built = build_kind(kind, classes)
    text = said(opened(tmp_path, built, payloads, "depth.npy" if kind == "depth" else None), built)
    assert text.count("\n") == 1
    for part in ("task, train labels: ", *found):
        assert part in text


REFUSED = [
    ("all pixels ignored", "segmentation", ["a", "b"], [mask(255)] * 3, ["none of the 3 labels", "ignored"]),
    ("no attribute known", "multilabel", ["a"], numbers(None, None), ["none of the 2 labels"]),
    ("no value known", "regression", ["a"], numbers(None, None), ["none of the 2 labels"]),
    ("no depth", "depth", [], [depths(0, float("nan"), float("inf"))], ["none of the 1 labels"]),
    ("no object", "heatmap", ["cup"], [b"[]"] * 2, ["none of the 2 labels"]),
    ("NaN", "regression", ["a"], [b"1", b"NaN", b"2"], ["row 001", "NaN"]),
    ("infinite", "regression", ["a"], [b"1", b"1e999"], ["row 001"]),
    ("too large for float32", "regression", ["a"], [b"1", b"1e39"], ["row 001"]),
    (
        "a number beyond the classes",
        "classification",
        ["a", "b"],
        [b"1", b"2"],
        ["row 001", "first_number: 1"],
    ),
    ("a value beyond the classes", "segmentation", ["a", "b"], [mask(1, 2)], ["row 000", "first_number: 1"]),
    (
        "a number of 5,000 digits",
        "classification",
        ["a", "b"],
        [b"1", b"9" * 5000],
        ["row 001", "from 0 to 1"],
    ),
    ("all of them", "classification", ["a", "b"], [b"x"] * 5, ["row 000", "row 002", "and 2 more"]),
]


@pytest.mark.parametrize(
    ("kind", "classes", "payloads", "found"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_labels_that_say_nothing_or_cannot_be_read_are_refused_before_training(
    kind: str, classes: list[str], payloads: list[bytes], found: list[str], tmp_path: Path
) -> None:
    built = build_kind(kind, classes)
    sources = opened(tmp_path, built, payloads, "depth.npy" if kind == "depth" else None)
    with pytest.raises(ShardError) as error:
        said(sources, built)
    for part in found:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("kind", "classes", "member"), [("segmentation", ["a", "b"], "seg.png"), ("depth", [], "depth.npy")]
)
def test_a_map_of_another_size_than_its_picture_is_refused_with_its_row(
    kind: str, classes: list[str], member: str, tmp_path: Path
) -> None:
    built = build_kind(kind, classes)
    whole, small = mask(0, 1), toy_world.png(np.ones((4, 8), np.uint8))
    if kind == "depth":
        whole = depths(1, 2)
        encoded = io.BytesIO()
        np.save(encoded, np.ones((4, 8), np.float32))
        small = encoded.getvalue()
    with pytest.raises(ShardError, match=r"row 002.* 8x4 pixels, its picture 8x8") as error:
        said(opened(tmp_path, built, [whole, whole, small, whole], member), built)
    assert "row 000" not in str(error.value)


def test_masks_numbered_from_1_are_doubted_where_they_are_written(tmp_path: Path) -> None:
    for number in range(3):
        for folder, content in (
            ("images", toy_world.png(np.zeros((8, 8, 3), np.uint8))),
            ("masks", mask(1, 2, 3)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.png").write_bytes(content)
    rows = pair_rows(tmp_path / "images", tmp_path / "masks")
    console = Console(file=io.StringIO(), width=300)
    show(console, write_shards(rows, tmp_path / "s", workers=0))
    assert "the class numbers go from 1 to 3" in console.file.getvalue()  # type: ignore[attr-defined]


def test_masks_numbered_from_1_are_read_as_their_recipe_says() -> None:
    kind = build_kind("segmentation", ["a", "b", "c"], first_number=1)
    label = kind.read_label(mask(0, 1, 2, 3))
    assert label[0, :4].tolist() == [kind.ignore_index, 0, 1, 2]
    _, written = kind.checked_label({"label": label})
    assert kind.read_label(written).equal(label)
    assert build_kind(**kind.describe()).describe() == kind.describe()
    with pytest.raises(ValueError, match="a class number from 1 to 3"):
        kind.read_label(mask(4))
    with pytest.raises(UserError, match="leave ignore_index out"):
        build_kind("segmentation", ["a", "b", "c"], first_number=1, ignore_index=0)


def test_the_second_check_reads_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = build_kind("regression", ["age"])
    first = said(opened(tmp_path, kind, numbers(*range(7, 21), 1e9)), kind)
    sources = opened_again(tmp_path, kind)
    monkeypatch.setattr(type(kind), "read_label", None)
    assert said(sources, kind) == first != ""


def test_labels_are_read_again_as_another_task_reads_them(tmp_path: Path) -> None:
    two, three = build_kind("segmentation", ["a", "b"]), build_kind("segmentation", ["a", "b", "c"])
    said(opened(tmp_path, two, [mask(0, 1)]), two)
    assert "'c'" in said(opened_again(tmp_path, three), three)
    ignoring = build_kind("segmentation", ["a", "b"], ignore_index=1)
    assert "'a'" in said(opened_again(tmp_path, ignoring), ignoring)


def test_labels_of_a_changed_shard_are_read_again(tmp_path: Path) -> None:
    kind = build_kind("classification", ["cat", "dog"])
    assert said(opened(tmp_path, kind, [b"0", b"1"]), kind) == ""
    assert "'cat'" in said(opened(tmp_path, kind, [b"0", b"0"]), kind)


def opened_again(folder: Path, kind: TaskKind) -> Sources:
    rows = SourceSection(shards=[str(folder / "rows.tar")], labels={"task": LabelSection()})
    return open_sources(DataSettings({"rows": rows}), {"task": kind}, (8, 8), every_set=False)


def test_folders_numbered_from_1_are_doubted_and_read_as_their_recipe_says(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / "photos" / str(number)).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / str(number) / "a.png")
    written = write_shards(folder_rows(tmp_path / "photos"), tmp_path / "s", workers=0)
    console = Console(file=io.StringIO(), width=300)
    show(console, written)
    summary = console.file.getvalue()  # type: ignore[attr-defined]
    assert "the class numbers go from 1 to 3" in summary
    assert re.search(r"`classes: 3`.*`options: \{first_number: 1\}`", summary)
    kind = build_kind("classification", ["a", "b", "c"], first_number=1)
    assert [int(kind.read_label(label)) for label in (b"1", b"2", b"3")] == [0, 1, 2]
    assert kind.checked_label({"label": torch.tensor(2)}) == ("cls", b"3")
    assert build_kind(**kind.describe()).describe() == kind.describe()
    for label in (b"0", b"4"):
        with pytest.raises(ValueError, match="a class number from 1 to 3"):
            kind.read_label(label)


def test_a_label_beyond_the_last_class_says_how_classes_are_numbered_from_1() -> None:
    with pytest.raises(ValueError, match="first_number: 1"):
        build_kind("classification", ["a", "b"]).read_label(b"2")


def test_long_tails_are_not_taken_for_impossible_values() -> None:
    generator = np.random.default_rng(0)
    for values in (
        generator.normal(0, 1, 5000),
        generator.exponential(1, 5000),
        generator.lognormal(0, 1, 5000),
    ):
        assert impossible_values("x", dict.fromkeys(map(short_number, values), 1)) == []
    assert impossible_values("x", {"0": 990, "1": 10}) == []


def summary(kind: TaskKind, logits: Tensor, labels: Tensor) -> Evaluation:
    """A student that answers as its teacher does."""
    keys = [str(row) for row in range(len(labels))]
    statistics = kind.statistics(logits, labels)
    rows = RowStatistics(keys, keys, statistics, statistics, torch.ones(len(keys), dtype=torch.float64))
    result = summarise(kind, rows, resamples=50, seed=0)
    costs = Costs(student=Cost(1, 1, 1, 1.0), teachers=Cost(1, 1, 1, 1.0))
    return Evaluation(tasks={"task": result}, cost=costs, acceptance=Acceptance("point", {"task": 1.0}))


def shown(evaluation: Evaluation) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(console_table(evaluation))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_student_that_says_background_everywhere_is_not_accepted_where_nothing_else_is_labelled() -> None:
    kind = build_kind("segmentation", ["background", "cat"])
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[:, :2] = 255
    logits = torch.zeros(3, 2, 8, 8)
    logits[:, 0] = 1
    evaluation = summary(kind, logits, labels)
    result = evaluation.tasks["task"]
    assert (result.unscored, result.unmeasured, result.verdict) == (("cat",), True, "undecided")
    assert not evaluation.accepted
    assert "100.00" not in shown(evaluation)
    assert re.search(r"task: no miou.*no verdict.* 3 rows .*'background' alone", shown(evaluation))


ONLY_ONE = [
    ("classification", ["a", "b"], None, torch.eye(2)[[0, 0]], torch.tensor([0, 0]), ("b",)),
    ("classification", ["a", "b"], "macro_f1", torch.eye(2)[[0, 0]], torch.tensor([0, 0]), ("b",)),
    ("multilabel", ["a", "b"], None, torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.long), ("a", "b")),
    ("regression", ["a"], "r2", torch.ones(3, 1), torch.ones(3, 1), ("a",)),
]


@pytest.mark.parametrize(("kind", "classes", "metric", "logits", "labels", "unscored"), ONLY_ONE)
def test_a_task_whose_labels_any_constant_answers_has_no_verdict(
    kind: str,
    classes: list[str],
    metric: str | None,
    logits: Tensor,
    labels: Tensor,
    unscored: tuple[str, ...],
) -> None:
    evaluation = summary(build_kind(kind, classes, metric), logits, labels)
    assert evaluation.tasks["task"].unscored == unscored
    assert evaluation.tasks["task"].verdict == "undecided"
    assert not evaluation.accepted


def test_a_class_that_is_only_predicted_is_named_and_has_no_score() -> None:
    kind = build_kind("segmentation", ["a", "b", "c"])
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 2] = 1
    labels = torch.arange(64).view(1, 8, 8) % 2
    evaluation = summary(kind, logits, labels)
    result = evaluation.tasks["task"]
    assert result.classes is not None
    assert [each.name for each in result.classes] == ["a", "b"]
    assert (result.unscored, result.unmeasured, result.student) == (("c",), False, 0.0)
    assert "without a score: c." in shown(evaluation)


def npy(header: str) -> bytes:
    """An npy file with a header of others' making."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(64)


def shaped(shape: str, kind: str = "'<f4'") -> bytes:
    return npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}")


@pytest.mark.parametrize(
    "payload",
    [
        *map(shaped, ("(2**70,)", f"({2**70},)", f"({2**61},)", f"({2**33}, {2**31})", "(-1,)", "(1e3,)")),
        *(shaped("(4, 4)", kind) for kind in ("'|O'", "[('a', '<f4')]", "'<f999'", "7")),
        *map(npy, ("(" * 900, "[" * 9000, "'''", "{1: 2}", "\0", "{'descr':", "0x")),
    ],
    ids=len,
)
def test_a_damaged_npy_label_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="the npy file (cannot be read|holds)"):
        read_npy(payload)


def test_no_byte_of_an_npy_header_raises_another_error() -> None:
    whole, generator = depths(1.0, 2.0), np.random.default_rng(0)
    for _ in range(2000):
        content = bytearray(whole)
        content[generator.integers(6, 128)] = generator.integers(256)
        with suppress(ValueError):
            read_npy(bytes(content))
