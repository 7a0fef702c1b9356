"""`distill-mtl teacher check`: the check before training, for one teacher and some shards."""

import re
from pathlib import Path

import colors
import pytest

from distill_mtl.cli import main


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["teacher", "check", *arguments])
    printed = capsys.readouterr()
    return int(str(done.value.code)), printed.out, printed.err


def test_all_rows_of_all_shards_are_measured(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = check(capsys, f"{world}/teacher", "--data", str(world))
    assert status == 0
    assert re.search(r"accuracy +1,200 +\d+\.\d\d ± \d\.\d\d +99\.00 +\d+\.\d\d +✓", said), said


def test_a_bad_teacher_is_status_2_with_the_likely_cause(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "teacher", colors.contract(channels="bgr"))
    status, said, why = check(capsys, str(folder), "--data", f"{world}/test.tar")
    assert status == 2
    assert "✗" in said
    assert "BGR" in why
    assert check(capsys, str(folder), "--data", f"{world}/test.tar", "--set", "input.channels=rgb")[0] == 0


def test_a_limit_and_an_expectation(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", f"{world}/train.tar", "--limit", "50")
    status, said, _ = check(capsys, f"{world}/teacher", *data)
    assert status == 0
    assert re.search(r"accuracy +50 ", said)
    status, _, why = check(capsys, f"{world}/teacher", *data, "--expect", "150")
    assert status == 2
    assert "150.00" in why


def test_classes_may_be_named_in_the_order_of_the_labels(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", f"{world}/test.tar")
    names = ",".join(f"class{index}" for index in (1, 0, 2, 3, 4, 5))
    status, said, why = check(capsys, f"{world}/teacher", *data, "--classes", names)
    assert status == 2
    assert "order" in said
    assert "order: class1, class0, class2" in why


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--member", "txt"], r"color.*txt.*cls, png"),
        (["--kind", "segmentation"], "kind: classification"),
        (["--classes", "7"], r"\b6 classes.*\b7"),
        (["--set", "input.sise=3"], "'size'"),
    ],
)
def test_what_does_not_fit_is_a_message(
    world: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, _, why = check(
        capsys, f"{world}/teacher", "--task", "color", "--data", f"{world}/test.tar", *arguments
    )
    assert status == 2
    assert re.search(said, why), why
