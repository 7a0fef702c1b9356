"""Each file of examples/ is what docs/clusters.md says: it parses, its commands exist, two machines start by one."""

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import children
import pytest
import torch
import toy_world
import yaml
from safetensors.torch import load_file

from distill_mtl.cli import distill_parser

EXAMPLES = sorted((children.ROOT / "examples").iterdir())
SHELLS = [path for path in EXAMPLES if path.suffix in (".sh", ".sbatch")]
MANIFESTS = [path for path in EXAMPLES if path.suffix == ".yaml"]
PLAIN = ("--set=optimizer.name=sgd", "--set=optimizer.lr=0.05", "--set=balance=uniform")
"""A rule and steps that carry the order of sums no further than it is."""


@pytest.mark.parametrize("path", SHELLS, ids=lambda path: path.name)
def test_bash_parses_the_file(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_shell_inside_a_manifest_parses(path: Path) -> None:
    scripts = list(scripts_in(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_run_it_starts_is_a_command_line_of_the_program(path: Path) -> None:
    lines = [
        line
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        if "-m distill_mtl" in line
    ]
    assert len(lines) == 1
    words = re.sub(r".*-m distill_mtl|\"\$@\"'", "", lines[0])
    words = words.replace(" distill ", " ", 1)  # of sbatch: the name of the shell that srun starts
    words = words.replace("$recipe", "r.yaml").replace("$RECIPE", "r.yaml")
    given = distill_parser().parse_args(shlex.split(words))
    assert (str(given.recipe), given.auto_resume, str(given.out).lower()) == ("r.yaml", True, "$out")


def test_the_page_links_each_file_and_no_other() -> None:
    page = (children.ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\]\(\.\./examples/([^)]+)\)", page))) == [path.name for path in EXAMPLES]


@pytest.mark.slow
def test_two_machines_on_loopback_train_what_one_process_trains(tmp_path: Path) -> None:
    recipe = toy_world.build(tmp_path)
    alone = children.run("distill", recipe, "--out", tmp_path / "one", *PLAIN)
    assert alone.returncode == 0, alone.stderr
    text = (children.ROOT / "examples" / "two-machines.sh").read_text(encoding="utf-8")
    for before, after in (
        ("recipe=recipe.yaml", f"recipe={recipe}"),
        ("out=/shared/runs/pets", f"out={tmp_path / 'two'}"),
        ("gpus=8", "gpus=1"),
        ("accelerate launch", f"{sys.executable} -m accelerate.commands.launch"),
        ("-m distill_mtl", "tests/toy_command.py distill"),
        ("--auto-resume", f"--auto-resume {shlex.join(PLAIN)}"),
    ):
        assert before in text
        text = text.replace(before, after)
    script = tmp_path / "two-machines.sh"
    script.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [
        subprocess.Popen(
            ["bash", script, str(rank), "127.0.0.1", str(port)],
            cwd=children.ROOT,
            env=children.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    ours, theirs = (load_file(tmp_path / run / "student" / "model.safetensors") for run in ("one", "two"))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=1e-4), name


def scripts_in(part: Any) -> Iterator[str]:
    """Every text of several lines in a manifest."""
    if isinstance(part, str) and "\n" in part:
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from scripts_in(inner)
