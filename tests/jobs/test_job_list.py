"""Commands and library are one list: what holds of one job holds of each."""

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import distill_mtl
from distill_mtl.cli import command_parser, distill_command, distill_parser, in_full, main
from distill_mtl.errors import RecipeError
from distill_mtl.jobs import JOBS, Job
from distill_mtl.jobs.as_command import REQUIRED, read_function

ROOT = Path(__file__).parents[2]
BESIDE_JOBS = {"Evaluation", "Recipe", "Stopped", "UserError", "__version__", "load_recipe", "load_student"}
"""Public names that no command stands for: types, errors, and what opens a file."""
WITH_RECIPE = [
    job for job in JOBS if "recipe" in {one.name for one in read_function(job.module, job.function)[1]}
]
of_each_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.function)


def test_the_public_functions_are_the_jobs() -> None:
    assert {job.function for job in JOBS} == set(distill_mtl.__all__) - BESIDE_JOBS
    assert len({job.command for job in JOBS}) == len({job.function for job in JOBS}) == len(JOBS)
    for name in distill_mtl.__all__:
        assert hasattr(distill_mtl, name)


def test_type_checkers_see_what_a_program_gets() -> None:
    tree = ast.parse(Path(str(distill_mtl.__file__)).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == set(distill_mtl.__all__) - {"__version__"}
    for name, module in seen.items():
        assert getattr(importlib.import_module(str(module)), name) is getattr(distill_mtl, name)


@of_each_job
def test_what_is_read_of_a_function_is_its_signature(job: Job) -> None:
    real = inspect.signature(getattr(distill_mtl, job.function)).parameters
    read = {one.name: one for one in read_function(job.module, job.function)[1]}
    assert [*read] == [name for name in real if name != "console"]
    assert real["console"].default is None if job.function != "recipe_schema" else "console" not in real
    for name, one in read.items():
        assert one.keyword == (real[name].kind is inspect.Parameter.KEYWORD_ONLY)
        assert one.default == (
            REQUIRED if real[name].default is inspect.Parameter.empty else real[name].default
        )


@of_each_job
def test_every_parameter_is_explained(job: Job) -> None:
    told, parameters = read_function(job.module, job.function)
    assert told.summary
    for one in parameters:
        assert len(one.help) > 5, one.name
    of_function = inspect.signature(getattr(distill_mtl, job.function)).parameters
    assert set(told.arguments) <= set(of_function), "an entry of Args that is no argument"
    if of_function.keys() & {"recipe", "run", "network", "folder"}:
        assert "interrupted" in told.interrupted


def test_help_needs_no_torch() -> None:
    """Of every command, and of the package itself: what is slow to import comes later."""
    words = [job.command.split() for job in JOBS]
    families = [[family] for family in sorted({command[0] for command in words if len(command) > 1})]
    code = (
        "import json, sys, distill_mtl\n"
        "from distill_mtl.cli import distill_command, main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try: (main if words else distill_command)([*words, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([[], *families, *words])],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"torch", "numpy", "accelerate", "pydantic", "timm", "PIL"}
    assert done.stdout.count("usage: ") == len(families) + len(words) + 1


@pytest.mark.parametrize(
    "mistake", ["tasks.breed.kind=clasification", "balance=mgda_ubb", "training.stpes=5"]
)
@pytest.mark.parametrize("job", WITH_RECIPE, ids=lambda job: job.function)
def test_function_and_command_refuse_a_bad_recipe_alike(
    job: Job, mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = mistake.partition("=")[0]
    recipe = tmp_path / "pets.yaml"
    recipe.write_text("student: resnet18\ntasks: {breed: {teacher: t, data: a.tar}}\n")
    with pytest.raises(RecipeError) as refused:
        getattr(distill_mtl, job.function)(recipe, [mistake])
    assert key in str(refused.value)
    assert "Did you mean" in str(refused.value)
    with pytest.raises(SystemExit) as ended:
        main([*job.command.split(), str(recipe), "--set", mistake])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip() == str(refused.value).strip()


def test_load_recipe_refuses_them_too(tmp_path: Path) -> None:
    recipe = tmp_path / "pets.yaml"
    recipe.write_text(
        "student: resnet18\nbalance: mgda_ubb\ntasks: {breed: {teacher: t, data: a, kind: clasification}}\n"
    )
    with pytest.raises(RecipeError) as refused:
        distill_mtl.load_recipe(recipe)
    assert all(part in str(refused.value) for part in ("line 2, balance", "line 3, tasks.breed.kind"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "check a.yaml --set x=1 --set y=2",
            {"recipe": Path("a.yaml"), "overrides": ["x=1", "y=2"]},
        ),
        (
            "check --set x=1 a.yaml --cache c",
            {"recipe": Path("a.yaml"), "overrides": ["x=1"], "cache": Path("c")},
        ),
        ("cache verify a.yaml --rows 3", {"recipe": Path("a.yaml"), "rows": 3}),
        (
            "evaluate --baseline labels_only runs/a --baseline single_task --write --json r.json",
            {
                "run": Path("runs/a"),
                "baseline": ["labels_only", "single_task"],
                "write": True,
                "json": Path("r.json"),
            },
        ),
        (
            "evaluate --student a --against b c --data d t=e --acceptance 1 point --classes cat,dog --trust",
            {
                "run": None,
                "student": "a",
                "against": ["b", "c"],
                "data": ["d", "t=e"],
                "acceptance": ["1", "point"],
                "classes": "cat,dog",
                "trust": True,
            },
        ),
        ("export runs/a --to onnx", {"folder": Path("runs/a"), "to": "onnx"}),
        (
            "export runs/a --to onnx --preprocess --only left,right --data x y --int8",
            {
                "folder": Path("runs/a"),
                "to": "onnx",
                "preprocess": "float",
                "only": "left,right",
                "data": ["x", "y"],
                "int8": True,
            },
        ),
        ("export a --to onnx --preprocess uint8", {"folder": Path("a"), "to": "onnx", "preprocess": "uint8"}),
        (
            "init --teacher a --data b c --teacher d --data e",
            {"teacher": ["a", "d"], "data": [["b", "c"], ["e"]]},
        ),
        (
            "predict a x y --json - --top 3 --batch-size 2 --image jpg",
            {
                "network": "a",
                "images": ["x", "y"],
                "json": Path("-"),
                "top": 3,
                "batch_size": 2,
                "image": "jpg",
            },
        ),
        ("report a b --to c", {"folders": [Path("a"), Path("b")], "to": Path("c")}),
        (
            "shards table t.csv --label cls=breed --label values.json=x,y --to s --take :9 --no-shuffle",
            {
                "file": Path("t.csv"),
                "label": {"cls": "breed", "values.json": "x,y"},
                "to": Path("s"),
                "take": ":9",
                "shuffle": None,
            },
        ),
        (
            "shards pairs rgb depth --images *.jpg --masks *.png --strip _a --strip _b --to s --shuffle 4",
            {
                "images": Path("rgb"),
                "masks": Path("depth"),
                "image_pattern": "*.jpg",
                "mask_pattern": "*.png",
                "strip": ["_a", "_b"],
                "to": Path("s"),
                "shuffle": 4,
            },
        ),
        (
            "shards torchvision MNIST --args train=false size=3 --args split=a --to s",
            {"data_set": "MNIST", "args": {"train": False, "size": 3, "split": "a"}, "to": Path("s")},
        ),
        (
            "shards coco a.json --annotations x_* --label points --sets val --no-background --to s",
            {
                "annotations": Path("a.json"),
                "annotation_pattern": "x_*",
                "label": "points",
                "sets": "val",
                "no_background": True,
                "to": Path("s"),
            },
        ),
        (
            "shards hf owner/name --label cls=a --label values.json=b,c --boxes xyxy --to s",
            {
                "data_set": "owner/name",
                "label": {"cls": "a", "values.json": "b,c"},
                "boxes": "xyxy",
                "to": Path("s"),
            },
        ),
        (
            "teacher check a.onnx --data d e --set input.size=4 --expect 90 --limit 5",
            {
                "file": "a.onnx",
                "data": ["d", "e"],
                "overrides": ["input.size=4"],
                "expect": "90",
                "limit": 5,
            },
        ),
        (
            "teacher inspect --module m:f --args {depth:20} --all",
            {"file": None, "module": "m:f", "args": "{depth:20}", "all": True},
        ),
    ],
)
def test_command_lines_become_arguments(line: str, expected: dict[str, object]) -> None:
    parsed = vars(command_parser().parse_args(line.split()))
    del parsed["job"], parsed["interrupted"]
    assert parsed == expected


def test_every_command_on_a_page_is_one() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
    lines = [
        re.split(r"\s(?:#|>|\||&&)\s", line)[0]
        for page in pages
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text().replace("\\\n", " "), re.DOTALL)
        for line in block.splitlines()
        if re.match(r"\s*(distill-mtl|accelerate launch.* distill\.py) ", line) and "..." not in line
    ]
    assert len(lines) > 20
    for line in lines:
        before, _, words = re.split(r"(distill-mtl|distill\.py) ", line, maxsplit=1)
        parser = distill_parser() if "accelerate" in before else command_parser()
        given = vars(parser.parse_args(in_full(shlex.split(words))))
        assert given["job"].function in distill_mtl.__all__, line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shards folder a --to s --rows many", "--rows"),
        ("shards table t.csv --to s --label cls", "--label"),
        ("shards table t.csv --to s --label cls=a --label cls=b", "--label"),
        ("predict a b --resize stretch", "--resize"),
        ("teacher check a", "--data"),
        ("init --teacher a", "--data"),
    ],
)
def test_what_is_no_command_line_is_status_2(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.rpartition("error: ")[2], "usage names every option"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shards folder a --to s --rows 0", "--rows"),
        ("shards folder a --to s --workers -1", "--workers"),
        ("shards folder a --to s --take half", "--take"),
        ("predict a b --batch-size 0", "--batch-size"),
        ("export a --to onnx --rows 0", "--rows"),
        ("cache verify a.yaml --rows 0", "--rows"),
        ("teacher check a --data b --limit 0", "--limit"),
        ("evaluate a --acceptance -1", "--acceptance -1"),
        ("evaluate --student a --against b --data c --acceptance point interval", "--acceptance"),
        ("evaluate --student a --against b --data c --json nowhere/r.json", "--json"),
        ("evaluate runs/a --student b", "--student"),
        ("evaluate --student a", "--against"),
        ("evaluate --student a --against b --data c --write", "--write"),
    ],
)
def test_what_a_command_refuses_its_function_refuses(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is opened."""
    given = vars(command_parser().parse_args(line.split()))
    job = given.pop("job")
    given.pop("interrupted")
    with pytest.raises(distill_mtl.UserError) as refused:
        getattr(distill_mtl, job.function)(**given)
    assert said in str(refused.value)
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip() == str(refused.value)


ENOUGH = {
    "branch": "a.yaml",
    "check": "a.yaml",
    "check_teacher": "a.onnx --data b",
    "distill": "a.yaml",
    "draft_recipe": "--teacher a --data b",
    "evaluate": "runs/a",
    "export_student": "runs/a --to onnx",
    "forecast": "a.yaml",
    "index_shards": "s3://a",
    "inspect_teacher": "a.onnx",
    "predict": "runs/a b.jpg",
    "recipe_schema": "",
    "shards_from_coco": "a --to b",
    "shards_from_folder": "a --to b",
    "shards_from_hf": "a --to b",
    "shards_from_pairs": "a b --to c",
    "shards_from_table": "a.csv --to b",
    "shards_from_torchvision": "MNIST --to b",
    "shards_from_voc": "a --to b",
    "shards_from_yolo": "a --to b",
    "train_teacher": "a.yaml",
    "verify_cache": "a.yaml",
    "verify_export": "a.onnx.certificate.json",
    "write_cache": "a.yaml",
    "write_report": "runs/a",
}
"""The arguments that a command cannot do without."""


@of_each_job
def test_an_interrupted_command_says_what_fits_it(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(job.path), job.function, interrupted)
    with pytest.raises(SystemExit) as ended:
        main([*job.command.split(), *ENOUGH[job.function].split()])
    assert ended.value.code == 130
    told = capsys.readouterr().err.strip()
    assert told == read_function(job.module, job.function)[0].interrupted
    assert ("--resume" in told) == (job.function in ("distill", "train_teacher")), (
        "what trains goes on with it"
    )


@pytest.mark.parametrize(
    ("result", "function", "status"),
    [
        (SimpleNamespace(accepted=True), "evaluate", 0),
        (SimpleNamespace(accepted=False), "evaluate", 3),
        ({"b": SimpleNamespace(accepted=True), "c": SimpleNamespace(accepted=False)}, "evaluate", 3),
        (SimpleNamespace(accepted=False, acceptance=SimpleNamespace(gate=False)), "distill", 0),
        (SimpleNamespace(accepted=False, acceptance=SimpleNamespace(gate=True)), "distill", 3),
        (SimpleNamespace(accepted=True, acceptance=SimpleNamespace(gate=True)), "distill", 0),
        ([], "predict", 0),
        (["unread"], "predict", 2),
        (Path("report.html"), "write_report", 0),
        ("text", "recipe_schema", 0),
    ],
)
def test_what_a_function_returns_is_the_exit_status(
    result: object,
    function: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = next(job for job in JOBS if job.function == function)
    monkeypatch.setattr(importlib.import_module(job.path), function, lambda **_: result)
    with pytest.raises(SystemExit) as ended:
        main([*job.command.split(), *ENOUGH[function].split()])
    assert ended.value.code == status
    assert capsys.readouterr().out == (result if isinstance(result, str) else "")


def test_a_run_is_not_resumed_and_deleted_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(distill_mtl.UserError, match="--resume"):
        distill_mtl.distill(tmp_path / "a.yaml", resume=True, overwrite=True)
    with pytest.raises(SystemExit) as ended:
        distill_command([str(tmp_path / "a.yaml"), "--resume", "--overwrite"])
    assert ended.value.code == 2
    assert "--resume" in capsys.readouterr().err


def test_overrides_of_a_loaded_recipe_are_refused() -> None:
    recipe = distill_mtl.load_recipe(ROOT / "recipes" / "multidigits.yaml")
    with pytest.raises(distill_mtl.UserError, match="load_recipe"):
        distill_mtl.check(recipe, ["training.steps=5"])
