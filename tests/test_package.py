import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


def test_loading_a_student_imports_no_training_code() -> None:
    code = (
        "import sys; from distill_mtl import load_student; "
        "print(sorted(name for name in sys.modules if name.split('.')[:1] == ['distill_mtl']))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for package in (
        "training",
        "teachers",
        "targets",
        "distillation",
        "balance",
        "checks",
        "evaluation",
        "data",
    ):
        assert f"distill_mtl.{package}" not in loaded


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
    """The order of DESIGN section 2; a module may import its own level and those below."""
    levels = [
        {"errors", "registry", "display", "run_files", "user_code", "geometry", "networks", "recipe"},
        {"students", "tasks", "teachers", "data"},
        {"targets"},
        {"distillation", "balance"},
        {"evaluation"},
        {"checks", "report", "shards", "training", "export", "prediction"},
        {"commands"},
        {"cli", "__main__"},
    ]
    level = {name: index for index, names in enumerate(levels) for name in names}
    for path in (ROOT / "distill_mtl").rglob("*.py"):
        mine = path.relative_to(ROOT / "distill_mtl").parts[0].removesuffix(".py")
        if mine not in level:
            continue
        for line in path.read_text().splitlines():
            if line.startswith(("from distill_mtl.", "import distill_mtl.")):
                other = line.split()[1].split(".")[1]
                assert level[other] <= level[mine], f"{path}: {line}"
