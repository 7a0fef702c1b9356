"""Whole commands on sick disks: full, read-only, of small files, with few descriptors, with little shared memory.

Each ends with one line that says what it could not do; what was whole before stays as it was, and nothing half-made is
left. Disks are mounted where only this process sees them, which root may do; other cases need nobody's leave.
"""

import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import forked
import numpy as np
import pytest
import toy_world
from PIL import Image

_MOUNTED = "50m"


@dataclass(frozen=True)
class World:
    """What the commands work on, whole and on a sound disk; and the sick one."""

    folder: Path
    recipe: Path
    run: Path
    photos: Path
    disk: Path

    def on_disk(self) -> Path:
        """A copy of the finished run on the sick disk."""
        return Path(shutil.copytree(self.run, self.disk / "run"))

    def unfinished_on_disk(self) -> Path:
        """The same as if it had been killed after its first checkpoint."""
        run = self.on_disk()
        for gone in (run / "results.json", run / "report.html"):
            gone.unlink()
        shutil.rmtree(run / "student")
        shutil.rmtree(run / "checkpoints" / "step_00000006")
        return run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    recipe = toy_world.build(folder)
    photos = folder / "photos"
    for number in range(60):
        path = photos / f"class{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    found = forked.run("distill", recipe, "--out", folder / "run")
    assert found.finding == "ok", found.text
    (folder / "disk").mkdir()
    return World(folder, recipe, folder / "run", photos, folder / "disk")


@pytest.fixture
def disk(world: World) -> Iterator[Path]:
    """An empty disk of its own."""
    with forked.own_mounts() as allowed:
        if not allowed:
            pytest.skip("disks are mounted by root alone")
        forked.mount_memory(world.disk, _MOUNTED)
        yield world.disk


# ---- what is sick -----------------------------------------------------------------------------------
def full_but_for(free: int, world: World) -> None:
    """The disk has so many bytes left."""
    left = shutil.disk_usage(world.disk).free
    with open(world.disk / "of others", "wb") as file:
        file.write(bytes(max(0, left - free)))


def read_only(world: World) -> None:
    forked.mount_memory(world.disk, _MOUNTED, forked.READ_ONLY)


def nothing(world: World) -> None:
    """Only what the command may use is limited."""


def little_shared_memory(world: World) -> None:
    forked.mount_memory(Path("/dev/shm"), "64k")


def few(limit: int, number: int) -> None:
    resource.setrlimit(limit, (number, number))


def few_descriptors_more(number: int) -> None:
    """So many beside those that are open."""
    few(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + number)


small_files = partial(few, resource.RLIMIT_FSIZE, 20_000)
tiny_files = partial(few, resource.RLIMIT_FSIZE, 2000)
few_descriptors = partial(few_descriptors_more, 1)
few_for_readers = partial(few_descriptors_more, 16)
Command = Callable[[World], list[object]]


# ---- commands ---------------------------------------------------------------------------------------
def train(world: World, *more: str) -> list[object]:
    return ["distill", world.recipe, "--out", world.disk / "new", *more]


def train_with_readers(world: World) -> list[object]:
    return train(world, "--set=training.workers=2")


def resume(world: World) -> list[object]:
    return ["distill", world.recipe, "--out", world.unfinished_on_disk(), "--resume"]


def shards(world: World, *more: str) -> list[object]:
    return [
        "shards",
        "folder",
        world.photos,
        "--to",
        world.disk / "shards",
        "--rows",
        "20",
        "--workers",
        "0",
        *more,
    ]


def shards_with_readers(world: World) -> list[object]:
    return [*shards(world)[:-1], "2"]


def more_shards(world: World) -> list[object]:
    """Two shards are finished, the last one is not."""
    assert forked.run(*shards(world)).finding == "ok"
    for path in (world.disk / "shards").glob("shards-000002.tar*"):
        path.unlink()
    plan = world.disk / "shards" / "shards.plan.jsonl"
    plan.write_text("".join(plan.read_text().splitlines(keepends=True)[:-1]))
    return shards(world)


def predict(output: str, world: World) -> list[object]:
    return ["predict", world.run, world.photos, output, world.disk / "answers"]


json_lines, masks = partial(predict, "--json"), partial(predict, "--masks")


def predict_to_a_full_device(world: World) -> list[object]:
    return ["predict", world.run, world.photos, "--json", "/dev/full"]


def export(to: str, world: World) -> list[object]:
    return ["export", world.run, "--to", to, "--out", world.disk / "net", "--rows", "4"]


def export_again(world: World) -> list[object]:
    out = world.disk / "net.ts"
    command: list[object] = ["export", world.run, "--to", "torchscript", "--out", out, "--rows", "4"]
    assert forked.run(*command).finding == "ok"
    return [*command, "--overwrite"]


def evaluate(world: World) -> list[object]:
    return ["evaluate", world.on_disk(), "--write"]


def evaluate_to_json(world: World) -> list[object]:
    return ["evaluate", world.run, "--json", world.disk / "results.json"]


def report(world: World) -> list[object]:
    return ["report", world.on_disk()]


def cache(world: World) -> list[object]:
    """Of shards that lie on the sick disk."""
    for shard in world.folder.glob("*.tar"):
        shutil.copy(shard, world.disk)
    recipe = world.disk / "toy.yaml"
    text = world.recipe.read_text()
    for shard in world.folder.glob("*.tar"):
        text = text.replace(str(shard), str(world.disk / shard.name))
    recipe.write_text(text)
    return ["cache", "write", recipe, "--set=targets.views=4"]


def check(world: World) -> list[object]:
    return ["check", cache(world)[2]]


NO_ROOM = r"no space is left|needs about .* free"
MAY_END = "^"
"""It may be enough, if the command knows how to go on with little."""
DISKS: dict[str, tuple[Command, Callable[[World], None], Callable[[], object] | None, str]] = {
    "training, no room": (train, partial(full_but_for, 0), None, NO_ROOM),
    "training, too little room": (
        train,
        partial(full_but_for, 50_000),
        None,
        r"needs about \d+ kB, .* 49 kB free",
    ),
    "training, room for checkpoints alone": (
        train,
        partial(full_but_for, 430_000),
        None,
        r"no space.*--resume",
    ),
    "resuming, no room": (resume, partial(full_but_for, 0), None, NO_ROOM),
    "resuming, little room": (resume, partial(full_but_for, 110_000), None, NO_ROOM),
    "training, read-only": (train, read_only, None, r"--out: .* read-only"),
    "resuming, read-only": (resume, read_only, None, r"--out: .* read-only"),
    "training, small files": (train, nothing, small_files, r"may not be that large"),
    "training, few descriptors": (train, nothing, few_descriptors, r"ulimit -n"),
    "training with readers, few descriptors": (train_with_readers, nothing, few_for_readers, r"ulimit -n"),
    "training with readers, 64 kB shared": (train_with_readers, little_shared_memory, None, r"/dev/shm"),
    "shards, no room": (shards, partial(full_but_for, 0), None, NO_ROOM),
    "shards, too little room": (
        shards,
        partial(full_but_for, 100_000),
        None,
        r"--to .* needs about \d+ kB.* free",
    ),
    "more shards, no room": (more_shards, partial(full_but_for, 4096), None, NO_ROOM),
    "shards, read-only": (shards, read_only, None, r"--to: .* read-only"),
    "shards, small files": (shards, nothing, small_files, r"may not be that large.*0 shards are finished"),
    "shards with readers, few descriptors": (shards_with_readers, nothing, few_for_readers, MAY_END),
    "shards with readers, 64 kB shared": (shards_with_readers, little_shared_memory, None, MAY_END),
    "JSON lines, too little room": (json_lines, partial(full_but_for, 4096), None, NO_ROOM),
    "masks, too little room": (
        masks,
        partial(full_but_for, 100_000),
        None,
        r"60 pictures needs about .* free",
    ),
    "overlays, no room": (partial(predict, "--overlays"), partial(full_but_for, 0), None, NO_ROOM),
    "masks, read-only": (masks, read_only, None, r"--masks: .* read-only"),
    "JSON lines, a full device": (
        predict_to_a_full_device,
        nothing,
        None,
        r"/dev/full cannot be written: no space",
    ),
    "JSON lines, few descriptors": (json_lines, nothing, few_descriptors, MAY_END),
    "an ONNX file, too little room": (partial(export, "onnx"), partial(full_but_for, 8192), None, NO_ROOM),
    "a TorchScript file again, little room": (
        export_again,
        partial(full_but_for, 32_768),
        None,
        r"no space is left",
    ),
    "an ONNX file, small files": (partial(export, "onnx"), nothing, small_files, r"may not be that large"),
    "a program, small files": (partial(export, "pt2"), nothing, small_files, r"may not be that large"),
    "a timm folder, read-only": (partial(export, "timm"), read_only, None, r"--out: .* read-only"),
    "a hub folder, no room": (partial(export, "hub"), partial(full_but_for, 0), None, NO_ROOM),
    "evaluation, no room": (
        evaluate,
        partial(full_but_for, 0),
        None,
        r"--write.*(no space is left|needs about)",
    ),
    "evaluation, read-only": (evaluate, read_only, None, r"--write: .* read-only"),
    "evaluation to JSON, read-only": (evaluate_to_json, read_only, None, r"--json: .* read-only"),
    "a report, read-only": (report, read_only, None, r"report\.html cannot be written: .* read-only"),
    "a report, no room": (report, partial(full_but_for, 0), None, NO_ROOM),
    "a cache, no room": (cache, partial(full_but_for, 0), None, r"the target cache needs about"),
    "a cache, small files": (cache, nothing, tiny_files, r"cannot be written"),
    "a cache, few descriptors": (cache, nothing, few_descriptors, r"ulimit -n"),
}
"""Name -> command, what is sick, what the command's own process may not use, what its last line says."""
FEW = (
    *(
        "training, too little room",
        "training, room for checkpoints alone",
        "training with readers, few descriptors",
    ),
    *(
        "training with readers, 64 kB shared",
        "shards, too little room",
        "shards, small files",
        "masks, read-only",
    ),
    *("masks, too little room", "a TorchScript file again, little room", "a report, read-only"),
    *("evaluation, no room", "a cache, no room"),
)


def whole(world: World) -> dict[str, str]:
    """Digest of every file on the disk."""
    files = (path for path in world.disk.rglob("*") if path.is_file())
    return {str(path.relative_to(world.disk)): sha256(path.read_bytes()).hexdigest() for path in files}


def tried(world: World, case: str) -> tuple[forked.Ended, str]:
    """How a command ended on its sick disk, and what is wrong with that; nothing if it is as it should be."""
    command, sicken, prepare, said = DISKS[case]
    arguments = command(world)
    sicken(world)
    before = whole(world)
    ended = forked.run(*arguments, prepare=prepare, seconds=90)
    after = whole(world)
    if ended.finding != "refused" and not (said == MAY_END and ended.finding == "ok"):
        return ended, f"{ended.finding}: {ended.text[-1500:]}"
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    if changed := [name for name in changed if not name.endswith((".index.npz", "metrics.jsonl"))]:
        return ended, f"changed: {', '.join(changed)}"
    if left := [path for path in world.disk.rglob("*") if path.name.endswith(".part")]:
        return ended, f"left: {left}"
    if not re.search(said, "\n".join(ended.text.splitlines()[-2:])):  # one line, and how to go on
        return ended, f"says: {ended.line}"
    return ended, ""


@pytest.mark.parametrize("case", FEW)
def test_a_command_on_a_sick_disk_says_so_and_keeps_what_was_whole(
    world: World, disk: Path, case: str
) -> None:
    _, wrong = tried(world, case)
    assert not wrong


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_all_sick_disks(world: World) -> None:
    table = []
    for case in DISKS:
        with forked.own_mounts() as allowed:
            if not allowed:
                pytest.skip("disks are mounted by root alone")
            forked.mount_memory(world.disk, _MOUNTED)
            ended, wrong = tried(world, case)
            table.append((case, ended, wrong))
            sys.stdout.write(
                f"{case:40} {ended.seconds:5.1f} s  {wrong or ended.finding}: {ended.line[:100]}\n"
            )
    assert not [case for case, _, wrong in table if wrong]
