"""A student of the user's own code: what is read of it, and its way from a recipe to a teacher."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import own_nets
import pytest
import torch
import toy_world
from rich.console import Console
from safetensors.torch import load_file, save_file

from distill_mtl import distill, evaluate, load_recipe, load_student
from distill_mtl.cli import main
from distill_mtl.errors import RecipeError, StudentError, UserError
from distill_mtl.networks.opening import open_network
from distill_mtl.recipe.schema import StudentLayersSection, StudentSection
from distill_mtl.students.families import own_code
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import Student
from distill_mtl.tasks.base import build_kind

QUIET = Console(quiet=True)
NET = "user_nets:Plain"


def built(module: str, *, size: int = 16, layers: dict[str, Any] | None = None, **keys: Any) -> Student:
    kinds = {
        "left": build_kind("classification", ["a", "b", "c"]),
        "part": build_kind("segmentation", ["ground", "thing"]),
    }
    section = StudentSection(
        module=f"own_nets:{module}",
        trust=True,
        input_size=size,
        init=keys.pop("init", "random"),
        layers=StudentLayersSection(**(layers or {})),
        **keys,
    )
    return build_student(section, kinds, [None], seed=0).eval()


@pytest.mark.parametrize(
    ("module", "stages", "pooled"),
    [
        ("Plain", ("stem", "layer1", "layer2"), 16),
        ("LikeTimm", ("stem", "layer1", "layer2"), 8),
        ("Tokens", ("block",), 8),
        ("Segmenter", ("down", "classify"), 2),
    ],
)
def test_what_is_read_is_found_on_a_trial(module: str, stages: tuple[str, ...], pooled: int) -> None:
    student = built(module)
    assert student.trunk.stages == stages
    assert student.trunk.shapes["pooled"].channels == pooled
    answers = student(torch.rand(2, 3, 20, 20))
    assert answers["left"].shape == (2, 3)
    assert answers["part"].shape[:2] == (2, 2)


def test_the_classifier_is_taken_away_and_the_vector_is_what_went_into_it() -> None:
    student = built("Plain")
    assert not any(name.startswith("fc") for name in student.trunk.model.state_dict())
    pixels = torch.rand(2, 3, 16, 16)
    model: Any = student.trunk.model
    features = student.trunk.read(pixels)
    assert torch.equal(features["pooled"], features["layer2"].mean((2, 3)))
    assert torch.equal(features["layer2"], model.layer2(model.layer1(model.stem(pixels).relu())))


def test_what_is_read_of_it_is_said() -> None:
    assert built("Plain").trunk.reads() == "maps stem, layer1, layer2; vector: what goes into fc [16]"
    assert built("LikeTimm").trunk.reads() == "maps stem, layer1, layer2; vector: that of forward_head [8]"


def test_a_network_of_one_channel_is_fed_grey_pictures() -> None:
    student = built("Plain", args={"channels": 1})
    assert student.trunk.inputs.channels == "grey"
    assert student(torch.rand(2, 3, 16, 16))["left"].shape == (2, 3)


def test_layers_may_be_named() -> None:
    student = built("Plain", layers={"maps": ["layer1"], "pooled": "layer1"})
    assert student.trunk.stages == ("layer1",)
    features = student.trunk(torch.rand(2, 3, 16, 16))
    assert torch.equal(features["pooled"], features["layer1"].mean((2, 3)))


def test_it_begins_with_weights_of_its_own_training(tmp_path: Path) -> None:
    torch.manual_seed(3)
    trained = own_nets.Plain()
    save_file(trained.state_dict(), tmp_path / "mine.safetensors")
    state = built("Plain", init=str(tmp_path / "mine.safetensors")).trunk.model.state_dict()
    assert state
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in state.items())


def test_one_with_timms_methods_is_cut_into_parts_and_another_is_refused() -> None:
    parts = built("LikeTimm", branch={"part": "layer2"})
    assert set(parts.trunk.parts) == {"root", "left", "part"}
    with pytest.raises(StudentError, match=r"student\.branch: own_nets:Plain has no `forward_features"):
        built("Plain", branch={"part": "layer2"})


@pytest.mark.parametrize(
    ("module", "keys", "said"),
    [
        ("nothing", {}, r"own_nets .*has no 'nothing'"),
        ("fails", {"args": {"width": 1}}, r"own_nets:fails\(width=1\) failed with ValueError: no such width"),
        ("Plain", {"args": {"channels": 4}}, "pictures of 4 channels"),
        ("Plain", {"layers": {"pooled": "fcc"}}, r"student\.layers\.pooled: 'fcc' .*'fc'"),
        ("Plain", {"layers": {"maps": ["layre1"]}}, r"student\.layers\.maps: 'layre1' .*'layer1'"),
        ("Tokens", {"size": 3}, r"cannot run on 3 x 3 x 3 pixels"),
    ],
)
def test_what_cannot_be_is_refused_by_name(module: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(StudentError, match=said) as raised:
        built(module, **keys)
    assert "\n" not in str(raised.value)


# ---- from a recipe to a teacher ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's code, and a run whose student is made by it."""
    folder = tmp_path_factory.mktemp("own")
    recipe = toy_world.build(folder)
    shutil.copy(own_nets.__file__, folder / "user_nets.py")
    student = f"student: {{module: '{NET}', args: {{width: 3}}, input_size: 8, trust: true}}"
    recipe.write_text(re.sub(r"student: .*", student, recipe.read_text()) + "optimizer: {lr: 3.0e-4}\n")
    return folder


@pytest.fixture
def folder(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in a process that has imported and trusted nothing."""
    monkeypatch.chdir(world)
    _forget()
    yield world
    _forget()


def _forget() -> None:
    own_code._TRUSTED.clear()
    sys.modules.pop("user_nets", None)


@pytest.fixture(scope="module")
def run(world: Path, short_runs: None) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        distill(load_recipe("toy.yaml"), out=world / "run", console=QUIET)
    return world / "run"


def test_it_is_loaded_again_only_where_it_is_trusted(folder: Path, run: Path) -> None:
    _forget()
    with pytest.raises(StudentError, match=r"user_nets:Plain, which runs with all your rights.*trust=True"):
        load_student(run / "student")
    assert "user_nets" not in sys.modules
    student = load_student(run / "student", trust=True)
    assert student(torch.rand(2, 3, 8, 8))["hue"]["logits"].shape == (2, 3)
    code = json.loads((run / "student" / "config.json").read_text())["trunk"]["code"]
    assert (code["module"], code["file"], len(code["sha256"])) == (NET, "user_nets.py", 64)
    assert "trust=True" in (run / "student" / "README.md").read_text()


def test_without_its_code_and_with_other_code_it_says_so(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    _forget()
    with pytest.raises(StudentError, match=r"there is no module 'user_nets'.*PYTHONPATH") as raised:
        load_student(run / "student", trust=True)
    assert "\n" not in str(raised.value)
    shutil.copy(folder / "user_nets.py", tmp_path)
    with (tmp_path / "user_nets.py").open("a") as code:
        code.write("# changed\n")
    with pytest.warns(UserWarning, match="is not the code that the student was trained with"):
        load_student(run / "student", trust=True)


def test_it_is_evaluated_predicts_and_is_exported(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _forget()
    assert evaluate(run, console=QUIET).tasks
    for arguments, code in (
        (["predict", "run", "hue-test.tar", "--trust", "--json", "out.jsonl"], 0),
        (["export", "run", "--to", "pt2", "--trust", "--out", "it.pt2"], 0),
        (["export", "run", "--to", "onnx", "--trust", "--out", "it.onnx"], 0),
        (["export", "run", "--to", "torchscript", "--trust", "--out", "it.ts"], 0),
        (["export", "run", "--to", "timm", "--trust", "--only", "hue"], 2),
        (["report", "run"], 0),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, (arguments, said.err)
    picture = torch.rand(2, 3, 8, 8)
    student = load_student(run / "student", trust=True)(picture)["hue"]["logits"]
    exported = open_network("it.onnx").head("hue")(picture)["logits"]
    assert torch.allclose(exported, student, atol=1e-5)


def test_timms_form_cannot_hold_it(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "run", "--to", "timm", "--trust", "--only", "hue", "--out", "timm"])
    assert "your own code, user_nets:Plain, which timm does not have" in capsys.readouterr().err


def test_it_teaches_and_the_next_one_begins_with_it(folder: Path, run: Path) -> None:
    text = (folder / "toy.yaml").read_text()
    again = re.sub(r"student: .*", f"student: {{init: {run}, trust: true}}", text)
    again = again.replace(f"{folder}/teachers/hue,", f"{run}, trust: true,")
    (folder / "again.yaml").write_text(again)
    evaluation = distill(load_recipe("again.yaml"), out=folder / "again", console=QUIET)
    assert evaluation.tasks["hue"].teacher is not None
    (folder / "untrusted.yaml").write_text(again.replace(", trust: true}\ntasks", "}\ntasks"))
    with pytest.raises(StudentError, match=r"student\.init: .*add `trust: true` to `student`"):
        distill(load_recipe("untrusted.yaml"), out=folder / "untrusted", console=QUIET)


def test_a_stopped_run_goes_on_to_the_same_weights(folder: Path, run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "checkpoints" / "step_00000006")
    (cut / "results.json").unlink()
    shutil.rmtree(cut / "student")
    distill(load_recipe("toy.yaml"), out=cut, resume=True, console=QUIET)
    ours, theirs = (load_file(place / "student" / "model.safetensors") for place in (cut, run))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_two_processes_train_the_same_student(folder: Path, run: Path) -> None:
    for ended in forked.run_two("distill", "toy.yaml", "--out", "two"):
        assert ended.status == 0, ended.text
    ours, theirs = (load_file(place / "student" / "model.safetensors") for place in (folder / "two", run))
    assert all(torch.allclose(value, theirs[name], atol=1e-4) for name, value in ours.items())


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("{module: 'user_nets:Plain', input_size: 8}", "student.module.*`trust: true` to the student"),
        ("{module: 'user_nets:Plain', trust: true, init: pretrained}", "student.init.*no weights that timm"),
        ("{module: 'user_nets:Plain', model: resnet18, trust: true}", "`model` and `module`"),
        ("{model: 'module:user_nets:Plain', init: random}", "stands under `module`"),
        ("{model: resnet18, layers: {pooled: fc}}", "`layers` belongs to `module`"),
        ("{module: 'user_nets:Plain', trust: true, input: {size: 8}}", "input.size"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_before_anything_is_imported(
    folder: Path, student: str, said: str
) -> None:
    text = re.sub(r"student: .*", f"student: {student}", (folder / "toy.yaml").read_text())
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(RecipeError, match=f"(?s){said}"):
        load_recipe("wrong.yaml")
    assert "user_nets" not in sys.modules


def test_a_size_is_asked_for_where_the_code_does_not_say_it(folder: Path) -> None:
    section = StudentSection(module="own_nets:Plain", trust=True, init="random")
    with pytest.raises(UserError, match=r"student\.input_size: own_nets:Plain does not say"):
        build_student(section, {"a": build_kind("classification", ["x", "y"])}, seed=0)
