"""A kind of task of the user's own: the example of CONTRIBUTING.md, trained and loaded again."""

import math
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world
from rich.console import Console

from distill_mtl import distill, evaluate, load_recipe, load_student
from distill_mtl.cli import main
from distill_mtl.errors import RecipeError, StudentError, TeacherError, UserError
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import KINDS, build_kind, import_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.parts import build

KIND = "my_tasks:Angle"
QUIET = Console(quiet=True)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the example and shards, and nothing of the user's imported before or after."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?class Angle.*?)```", text, re.DOTALL)
    (tmp_path / "my_tasks.py").write_text(example)
    (section,) = re.findall(r"```yaml\n(tasks:[^`]*Angle[^`]*)```", text)
    data = "{shards: train.tar, split: {validation: validation.tar, test: test.tar}}"
    section = re.sub(r"data: .*", f"data: {data}", section)
    (tmp_path / "facing.yaml").write_text(
        f'student: {{model: "toy:net", init: random}}\n{section}'
        "training: {steps: 4, batch_size: 8, log_every: 2, checkpoint_every: 4}\n"
        "evaluation: {bootstrap: 100}\nacceptance: 180\n"
    )
    for split in ("train", "validation", "test"):
        _write(tmp_path / f"{split}.tar")
    KINDS.names()
    monkeypatch.setattr(KINDS, "_entries", dict(KINDS._entries))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_tasks", None)


def _write(path: Path) -> None:
    generator = np.random.default_rng(len(path.stem))
    rows = []
    for row in range(24):
        pixels = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        angle = f"{generator.uniform(0, 360):.1f}\n".encode()
        rows.append({"__key__": f"{path.stem}-{row:02d}", "png": toy_world.png(pixels), "angle": angle})
    toy_world.write_rows(path, rows)


def _forget() -> None:
    """As in a process that begins anew."""
    del KINDS._entries[KIND]
    sys.modules.pop("my_tasks")


def test_the_example_of_the_guide_trains_and_its_student_is_loaded_again(folder: Path) -> None:
    evaluation = distill(load_recipe("facing.yaml"), out=folder / "run", console=QUIET)
    result = evaluation.tasks["facing"]
    assert (result.kind, result.metric, result.higher_is_better) == (KIND, "mean_angle", False)
    assert 0 < result.student < 180
    _forget()
    with pytest.raises(StudentError, match=r"task 'facing': my_tasks:Angle is code.*trust=True"):
        load_student(folder / "run" / "student")
    student = load_student(folder / "run" / "student", trust=True)
    answers = student(torch.rand(2, 3, 8, 8))["facing"]
    assert answers["degrees"].shape == (2,)
    assert student.classes == {"facing": ("direction",)}
    _forget()
    assert evaluate(folder / "run", console=QUIET).tasks == evaluation.tasks


def test_a_student_of_an_own_kind_teaches_another(folder: Path) -> None:
    distill(load_recipe("facing.yaml"), out=folder / "run", console=QUIET)
    _forget()
    with pytest.raises(TeacherError, match=r"tasks\.facing\.teacher: .*is code"):
        load_teacher(TeacherSection(path=str(folder / "run/student")), task="facing", kind=KIND)
    overrides = [
        f"tasks.facing.teacher={{path: {folder}/run/student, expect: 180, precision: fp32}}",
        "training.teachers_on=all",
    ]
    recipe = load_recipe("facing.yaml", overrides)
    evaluation = distill(recipe, out=folder / "again", console=QUIET)
    assert evaluation.tasks["facing"].teacher is not None


def test_a_recipe_drafted_for_such_a_teacher_lets_the_code_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distill(load_recipe("facing.yaml"), out=folder / "run", console=QUIET)
    with pytest.raises(SystemExit) as exit:
        main(["init", "--teacher", "run/student", "--data", "train.tar", "--trust"])
    assert exit.value.code == 0
    assert "trust: true  # lets the kind's code run" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["teacher", "inspect", "run/student", "--trust"])
    assert f"    kind: {KIND}\n    trust: true\n" in capsys.readouterr().out


def test_the_example_keeps_what_every_kind_must(folder: Path) -> None:
    import_kind(KIND, trust=True, say="")
    kind = build_kind(KIND)
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]]), torch.tensor([350.0, 90.0, 45.0])
    torch.testing.assert_close(
        kind.supervised_loss(logits, labels), torch.tensor([1 - math.cos(math.radians(10)), 0.0, 2.0])
    )
    assert kind.soft_target_loss(logits, logits * 3, 4.0).abs().max() < 1e-6
    assert float(kind.score(kind.statistics(logits, labels))) == pytest.approx((10 + 0 + 180) / 3, rel=1e-4)
    assert kind.constant_score(kind.label_counts(torch.tensor([10.0, 10.0, 190.0]))) == pytest.approx(60)
    again = build_kind(**kind.describe())
    assert vars(again) == vars(kind)


def test_an_own_score_in_a_unit_needs_a_word_on_what_may_be_lost(folder: Path) -> None:
    code, recipe = (folder / "my_tasks.py").read_text(), (folder / "facing.yaml").read_text()
    (folder / "facing.yaml").write_text(recipe.replace("acceptance: 180\n", ""))
    in_degrees = build(load_recipe("facing.yaml"))
    assert in_degrees.recipe.acceptance.margin == {}  # which allows one
    _forget()
    (metrics,) = re.findall(r" +metrics = .*\n", code)
    in_a_unit = metrics + '    unit_metrics = frozenset({"mean_angle"})\n'
    (folder / "my_tasks.py").write_text(code.replace(metrics, in_a_unit))
    build(load_recipe("facing.yaml"))  # nobody is compared with it
    _forget()
    taught = "tasks.facing.teacher=self"
    with pytest.raises(RecipeError, match=r"tasks\.facing: mean_angle .*unit of.*`acceptance: {facing: "):
        build(load_recipe("facing.yaml", [taught]))
    said = load_recipe("facing.yaml", [taught, "acceptance={facing: 5}"])
    assert build(said).recipe.acceptance.margin == {"facing": 5}


def test_workers_that_begin_anew_can_unpickle_it(folder: Path) -> None:
    import_kind(KIND, trust=True, say="")
    pickled = pickle.dumps(build_kind(KIND))
    _forget()
    assert pickle.loads(pickled).metrics == ("mean_angle",)


def test_code_runs_only_where_the_recipe_says_so(folder: Path) -> None:
    (folder / "my_tasks.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(RecipeError) as caught:
        load_recipe("facing.yaml", ["tasks.facing.trust=false"])
    said = str(caught.value)
    assert "facing.yaml, line 4, tasks.facing.kind:" in said
    assert '"my_tasks:Angle" is code of your own' in said
    assert "add `trust: true` to the task" in said
    assert said.count("\n\n") == 0  # one mistake


@pytest.mark.parametrize(
    ("kind", "code", "why"),
    [
        ("my_task:Angle", "", r"there is no module 'my_task'"),
        ("my_tasks:Angel", "class Angle: ...", r"has no 'Angel'. Did you mean 'Angle'"),
        ("my_tasks:Angle", "class Angle: ...", r"kind of task.*TaskKind"),
        ("my_tasks:", "", r"'my_tasks:'.*module:Class"),
        ("my_tasks:Angle", "1 / 0", r"importing my_tasks failed with ZeroDivisionError"),
        (
            "my_tasks:Angle",
            "from distill_mtl.tasks.base import TaskKind\nclass Angle(TaskKind): ...",
            r"lacks what every kind of task has: agreement, constant_score, .*member, metrics",
        ),
    ],
)
def test_code_that_is_no_kind_of_task_is_one_clear_line(folder: Path, kind: str, code: str, why: str) -> None:
    (folder / "my_tasks.py").write_text(code)
    recipe = load_recipe("facing.yaml", [f"tasks.facing.kind={kind!r}"])
    with pytest.raises(UserError, match=r"^tasks\.facing\.kind: .*" + why) as caught:
        distill(recipe, out=folder / "run", console=QUIET)
    assert "\n" not in str(caught.value)
