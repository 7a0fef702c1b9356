import ast
import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    {"demos"},
    {"balance"},
    {"geometry"},
    {"recipe"},
    {"networks"},
    {"tasks"},
    {"data"},
    {"shards", "students", "teachers"},
    {"targets"},
    {"distillation"},
    {"training"},
    {"evaluation"},
    {"report"},
    {"checks", "export", "prediction"},
    {"jobs"},
    {"cli"},
)
"""The folders of the package, each above those that it may import (DESIGN, section 2)."""
FOLDERS = {name: level for level, names in enumerate(ORDER, 1) for name in names}


def test_the_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    build = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if build.returncode and "No matching distribution" in build.stderr:
        pytest.skip("building a wheel needs setuptools from the package index, which cannot be reached")
    assert build.returncode == 0, build.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    packages = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert packages == {"distill_mtl"}
    assert "distill_mtl/py.typed" in names
    assert "distill_mtl/__main__.py" in names
    assert {"distill_mtl/report/templates/page.html", "distill_mtl/report/templates/style.css"} <= set(names)


def test_the_module_is_the_same_command_as_the_script() -> None:
    script, module = (
        subprocess.run(
            [sys.executable, *how, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for how in (["distill.py"], ["-m", "distill_mtl"])
    )
    assert script == module


def test_balance_can_be_lifted_out() -> None:
    """`distill_mtl.balance` works where nothing else of distill_mtl can be imported."""
    code = (
        "import sys, types; package = types.ModuleType('distill_mtl'); package.__path__ = ['distill_mtl']; "
        "sys.modules['distill_mtl'] = package; import distill_mtl.balance as balance; balance.rule_names(); "
        "print(sorted(name for name in sys.modules if name.startswith('distill_mtl.')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(name.strip(" []'\n").startswith("distill_mtl.balance") for name in loaded.split(","))


def test_imports_run_downward_only() -> None:
    """Every import, those inside functions too."""
    upward = [
        f"{importer} imports {imported}"
        for importer, imported, _ in imports()
        if level(imported) > level(importer)
    ]
    assert not upward, "\n".join(upward)


def test_no_module_imports_itself_through_others() -> None:
    needs: dict[str, set[str]] = {name: set() for name in modules()}
    for importer, imported, at_once in imports():
        if at_once:
            needs[importer].add(imported)
    # Leave out each module that imports none, or that none imports, until only circles are left.
    while done := {name for name in needs if not needs[name] or name not in set().union(*needs.values())}:
        needs = {name: needed - done for name, needed in needs.items() if name not in done}
    assert not needs, f"a circle among {', '.join(sorted(needs))}"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_what_a_benchmark_imports_of_the_package_exists(path: Path) -> None:
    """No other test runs a benchmark, so a renamed function would be noticed by its next user alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("distill_mtl"):
            module = importlib.import_module(str(node.module))
            missing = [
                alias.name
                for alias in node.names
                if not hasattr(module, alias.name) and f"{node.module}.{alias.name}" not in modules()
            ]
            assert not missing, f"{node.module} has no {', '.join(missing)}"


def level(module: str) -> int:
    """0 for what lies beside the folders and is imported by all."""
    first = module.split(".")[1]
    assert first in FOLDERS or not (ROOT / "distill_mtl" / first).is_dir(), f"{first} has no level"
    return FOLDERS.get(first, 0)


def imports() -> Iterator[tuple[str, str, bool]]:
    """Importer, what it imports of ours, and whether that happens when the importer is imported."""
    known = modules()
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = (
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        later = {inner for function in functions for inner in ast.walk(function)}
        for node in ast.walk(tree):
            found = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                found = [full if full in known else str(node.module) for full in names]
            for other in found:
                # The package itself offers its version to all.
                if other in known and other != "distill_mtl":
                    yield name, other, node not in later


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module but the package's own entries."""
    found = {}
    for path in (ROOT / "distill_mtl").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: path for name, path in found.items() if name not in ("distill_mtl", "distill_mtl.__main__")}


def test_help_imports_no_package_of_an_extra() -> None:
    files = "openvino ai_edge_litert onnx onnxruntime torchjd datasets pycocotools"
    extras = f"transformers segmentation_models_pytorch ray {files}"
    code = (
        "import sys, distill_mtl.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('found:', *(name for name in {extras.split()} if name in sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "found:"
