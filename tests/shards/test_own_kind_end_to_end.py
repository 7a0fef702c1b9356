"""A new kind of task is one file: shards are written for it, found, read, predicted; nothing else knows it."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from people_data import labels_by_key, load_lines, members, pixels, save_picture
from PIL import Image
from toys import toy_student

from distill_mtl.checks.members import find_label
from distill_mtl.cli import main
from distill_mtl.data.index import load_index
from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import KINDS, Legend, build_kind, import_kind

KIND = "my_mattes:Matte"
CODE = '''
import io

import numpy as np
import torch
from PIL import Image

from distill_mtl.tasks.base import AdditiveKind, Legend, Shown
from distill_mtl.tasks.heads import PyramidDecoder, pyramid_levels
from distill_mtl.tasks.label import CountsTable, percent
from distill_mtl.tasks.maps import map_size, mean_where, paste_view, resized


class Matte(AdditiveKind):
    """How opaque each pixel is: logits [R, 1, h, w]; labels float32 [R, H, W] in [0, 1], -1 where it is not known."""

    member = "matte.png"  # grey, 0 to 254; 255: not known
    metrics = ("mae",)
    lower_is_better = frozenset({"mae"})
    fixed_classes = ("opacity",)
    dense = True
    from_table = "file"
    label_options = ("unknown",)

    def __init__(self, classes, metric=None, *, head, unknown=255):
        super().__init__(classes, metric, head=head)
        self.unknown = unknown

    def describe(self):
        return super().describe() | {"unknown": self.unknown}

    def read_label(self, payload):
        with Image.open(io.BytesIO(payload)) as picture:
            if picture.mode != "L":
                raise ValueError(f"the matte has the mode {picture.mode}. It must be grey.")
            values = torch.from_numpy(np.array(picture)).float()
        return torch.where(values == self.unknown, -1.0, values / 254)

    def has_label(self, label):
        return bool((label >= 0).any())

    def filler(self, size):
        return torch.full(size, -1.0)

    def label_size(self, label):
        return map_size(label)

    def transform_label(self, label, view, picture, size):
        return view.map(label, size, -1)

    def count_label(self, label, picture, counts):
        counts.count("pixels", {"opaque": int((label > 0.5).sum()), "all": int((label >= 0).sum())})

    def counts_table(self, counts):
        pixels = counts.counts["pixels"]
        return CountsTable(("", "opaque"), [("pixels", percent(pixels["opaque"], pixels["all"]))])

    def needs(self, features):
        return pyramid_levels(features)

    def head(self, features):
        return PyramidDecoder(features, 1, self.shape)

    def supervised_loss(self, logits, labels):
        answers = resized(logits.float(), map_size(labels)).sigmoid()[:, 0]
        return mean_where((answers - labels).abs(), labels >= 0)

    def soft_target_loss(self, logits, teacher_logits, temperature, truth=None):
        return (logits.float().sigmoid() - teacher_logits.detach().float().sigmoid()).abs().mean((1, 2, 3))

    def decode(self, logits, size):
        return {"opacity": resized(logits.float(), size).sigmoid()[:, 0]}

    def to_picture(self, decoded, view, picture):
        return {"opacity": paste_view(decoded["opacity"], view, picture, -1.0)}

    def write_label(self, decoded):
        opacity = decoded["opacity"]
        values = torch.where(opacity < 0, self.unknown, (254 * opacity).round())
        file = io.BytesIO()
        Image.fromarray(values.to(torch.uint8).numpy()).save(file, "PNG")
        return self.member, file.getvalue()

    def show_answer(self, logits, image):
        return Shown((255 * logits.sigmoid()).to(torch.uint8).expand(3, -1, -1))

    def legend(self):
        return Legend(note="White is opaque.")

    def statistics(self, logits, labels):
        return torch.stack([self.supervised_loss(logits, labels), torch.ones(len(labels))], 1).double()

    def score_totals(self, totals):
        return 100 * totals[..., 0] / totals[..., 1].clamp(min=1)

    def agreement(self, logits, other):
        return 1 - self.soft_target_loss(logits, other, 1).double()

    def label_counts(self, labels):
        return torch.ones(1, dtype=torch.float64)

    def constant_score(self, counts):
        return 50.0
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the kind, six pictures and their mattes; nothing stays imported."""
    (tmp_path / "my_mattes.py").write_text(CODE)
    for number in range(6):
        save_picture(tmp_path / "photos" / f"{number}.png", number, height=12, width=16)
        (tmp_path / "mattes").mkdir(exist_ok=True)
        Image.fromarray(matte(number)).save(tmp_path / "mattes" / f"{number}.png")
    KINDS.names()
    monkeypatch.setattr(KINDS, "_entries", dict(KINDS._entries))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in ("my_mattes", "my_tasks"):
        sys.modules.pop(module, None)


def matte(number: int) -> np.ndarray:
    opacity = pixels(100 + number, height=12, width=16)[..., 0]
    opacity[:2] = 255
    return opacity


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_shards_are_written_found_read_and_predicted_for_a_kind_of_ones_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = ("shards", "pairs", "photos", "mattes", "--member", "matte.png", "--to", "s", "--workers", "1")
    assert run(*pairs, "--kind", KIND) == 2
    assert f"{KIND} is code" in capsys.readouterr().err
    assert run(*pairs, "--kind", KIND, "--trust") == 0
    said = capsys.readouterr().out
    assert f"matte.png ({KIND}, unknown 255)" in said
    assert re.search(r"pixels +\d+\.\d %", said)

    recipe = load_lines(said.partition("in a recipe:")[2], folder / "recipe.yaml")
    task = recipe.tasks["s"]
    assert (task.kind, task.trust, task.classes, task.options) == (KIND, True, None, {})
    labels, kind = labels_by_key(recipe, "s"), build_kind(KIND)
    assert len(labels) == 6
    for key, label in labels.items():
        wanted = matte(int(key)).astype(np.float32)
        assert torch.equal(label, torch.from_numpy(np.where(wanted == 255, -1, wanted / np.float32(254))))

    found = find_label([load_index(folder / "s" / "s-000000.tar")], kind, "s", "s")
    assert (found.ending, found.why) == ("matte.png", "in every row")

    save_student(toy_student({"s": kind}), folder / "student")
    assert run("predict", "student", "photos", "--masks", "out", "--device", "cpu", "--trust") == 0
    for number in range(6):
        written = kind.read_label((folder / "out" / "s" / f"{number}.png").read_bytes())
        assert kind.has_label(written)
        assert kind.label_size(written) == (12, 16)
    assert kind.legend() == Legend(note="White is opaque.")
    assert (
        run("shards", "pairs", "photos", "out/s", *pairs[4:6], "--to", "again", "--kind", KIND, "--trust")
        == 0
    )


def test_a_label_that_the_kind_refuses_is_refused_by_its_row(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(pixels(0, height=12, width=16)).save("mattes/3.png")
    Image.fromarray(matte(4)[:9]).save("mattes/4.png")
    pairs = ("shards", "pairs", "photos", "mattes", "--member", "matte.png", "--to", "s", "--workers", "0")
    assert run(*pairs, "--kind", KIND, "--trust") == 2
    error = capsys.readouterr().err
    assert re.search(r"photos/3\.png: matte\.png .*mode RGB", error)
    assert re.search(r"photos/4\.png: matte\.png .*16x9.*16x12", error)


def test_the_columns_of_a_table_become_labels_of_the_guides_example(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?class Angle.*?)```", text, re.DOTALL)
    Path("my_tasks.py").write_text(example)
    rows = [f"photos/{number}.png,{value}" for number, value in enumerate((10, 20.5, "inf", 359))]
    Path("t.csv").write_text("\n".join(["image,facing", *rows]))
    table = ("shards", "table", "t.csv", "--label", "angle=facing", "--workers", "0", "--to")
    assert run(*table, "s") == 2
    assert "no kind of task has a label angle" in capsys.readouterr().err
    assert run(*table, "s", "--kind", "my_tasks:Angle", "--trust") == 0
    said = capsys.readouterr().out
    assert re.search(r"with a label +3 *\n", said)
    assert "1 of 4 rows have an empty angle" in said
    recipe = load_lines(said.partition("in a recipe:")[2], folder / "recipe.yaml")
    assert recipe.tasks["facing"].kind == "my_tasks:Angle"
    assert labels_by_key(recipe, "facing")["photos-1"] == 20.5
    assert members([folder / "s" / "s-000000.tar"])["photos-1"]["angle"] == b"20.5"
    Path("t.csv").write_text("image,facing\nphotos/0.png,left\n")
    assert run(*table, "other", "--kind", "my_tasks:Angle", "--trust") == 2
    assert re.search(r"line 2: angle .*left", capsys.readouterr().err)


def test_a_kind_named_in_the_command_comes_before_a_built_in_one_with_the_same_label(folder: Path) -> None:
    Path("my_mattes.py").write_text(CODE.replace('"matte.png"', '"seg.png"'))
    assert run("shards", "pairs", "photos", "mattes", "--to", "s", "--kind", KIND, "--trust") == 0
    import_kind(KIND, trust=True, say="")
    assert (
        run("shards", "pairs", "photos", "mattes", "--to", "masks") == 0
    )  # a mask, unless somebody says otherwise
