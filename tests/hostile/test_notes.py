"""Notes beside networks and runs that somebody cut, changed or made up: a message that names the file, or success."""

import copy
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import report_world
import timm
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from timm.models import save_for_hf
from toys import classification, segmentation, toy_student

from distill_mtl.errors import CacheError, UserError
from distill_mtl.jobs.report import write_report
from distill_mtl.networks.file_contract import NOTE, contract_of, read_note
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtime import DeclaredInput, read_extra_files, torch_archive
from distill_mtl.networks.runtimes.own_module import load_checkpoint
from distill_mtl.networks.weights import RecordedScore, read_score, write_score
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import InputSection
from distill_mtl.shards.shard_plan import FinishedShard, RowCounts, ShardPlan
from distill_mtl.students.initial_weights import find_initial_student
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.targets.facts import TeacherFacts
from distill_mtl.targets.sidecar import Sidecar
from distill_mtl.training.run_folder import RunFolder, read_precisions

RECIPE = Recipe.model_validate(
    {
        "student": {"model": "resnet18"},
        "tasks": {"breed": {"classes": 4}},
        "data": {"breed": {"shards": "a.tar", "labels": {"breed": {}}}},
        "optimizer": {"name": "auto", "lr": "auto"},
    }
)
NOTES = {
    "student/config.json": lambda world: (
        load_student(world / "student"),
        open_network(world / "student"),
        find_initial_student(str(world / "student")),
    ),
    "timm/config.json": lambda world: open_network(world / "timm"),
    "timm/score.json": lambda world: read_score(world / "timm"),
    "note.json": lambda world: _contract((world / "note.json").read_bytes().decode("utf-8", "replace")),
    "facts.json": lambda world: _facts((world / "facts.json").read_bytes().decode("utf-8", "replace")),
    "shards/pets.plan.jsonl": lambda world: ShardPlan(world / "shards", "pets", {"rows": 1}),
    "run/results.json": lambda world: _report(world / "run"),
    "run/metrics.jsonl": lambda world: (_report(world / "run"), RunFolder(world / "run").cut_metrics(30)),
    "run/teachers.json": lambda world: (
        _report(world / "run"),
        read_precisions(world / "run" / "teachers.json"),
        RunFolder(world / "run").same_teachers({"breed": {}, "range": {}}),
    ),
    "run/environment.json": lambda world: _report(world / "run"),
    "run/examples/index.json": lambda world: _report(world / "run"),
    "run/recipe.resolved.yaml": lambda world: (
        _report(world / "run"),
        RunFolder(world / "run").decided(RECIPE),
        RunFolder(world / "run").refuse("name: x\n", resume=True, overwrite=False),
    ),
}
"""A note -> whoever reads it."""


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("valid")
    save_student(
        toy_student({"breed": classification(), "part": segmentation()}),
        world / "student",
        extra={"resize": "crop", "scores": {"breed": {"metric": "accuracy", "score": 90.0, "rows": 100}}},
    )
    network = timm.create_model("test_resnet", num_classes=4)
    config = {"pretrained_cfg": dict(network.pretrained_cfg, num_classes=4), "model_args": {"in_chans": 3}}
    config["pretrained_cfg"] |= {"label_names": ["a", "b", "c", "d"]}
    save_for_hf(network, str(world / "timm"), model_config=config, safe_serialization=True)
    write_score(world / "timm", RecordedScore("accuracy", 90.0, 100, "breed"))
    contract = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "channels": "rgb", "batch": 4}
    tasks = {"breed": {"kind": "classification", "classes": ["a", "b"], "metric": "accuracy"}}
    note = {"inputs": contract, "tasks": tasks, "outputs": ["breed"], "preprocess": False}
    (world / "note.json").write_text(json.dumps(note))
    (world / "facts.json").write_text(json.dumps({"card": _card(contract), "logits": [2]}))
    (world / "shards").mkdir()
    plan = ShardPlan(world / "shards", "pets", {"rows": 1})
    plan.shard(0).write_bytes(b"tar")
    plan.add(FinishedShard("pets-000000.tar", 3, 1, RowCounts(1)))
    report_world.write_run(world / "run")
    return world


@pytest.fixture
def world(valid: Path, tmp_path: Path) -> Path:
    return shutil.copytree(valid, tmp_path / "world")


def _card(contract: dict[str, Any]) -> dict[str, Any]:
    return {
        "place": "/t",
        "files": [["/t/model.safetensors", "ab" * 32]],
        "kind": "classification",
        "labels": {"classes": ["a", "b"], "outputs": ["a", "b"], "known": None, "width": 2, "rest": None},
        "inputs": contract,
        "assumed": [],
        "layers": ["layer4"],
        "told": [],
        "last_map": "layer4",
        "shapes": {"layer4": {"channels": 4, "size": [2, 2], "pyramid": True}},
        "score": {"metric": "accuracy", "score": 90.0},
    }


def _contract(text: str) -> None:
    declared = DeclaredInput(size=(8, 8), channels=3, notes={NOTE: text})
    read_note(declared)
    contract_of(declared, InputSection())


def _facts(text: str) -> None:
    try:
        TeacherFacts.from_json(text)
    except ValueError as error:  # by which a sidecar is known to be stale
        raise UserError(str(error)) from error


def _report(run: Path) -> None:
    write_report([run], console=Console(file=io.StringIO()))


def test_valid_notes_are_read(world: Path) -> None:
    for note, read in NOTES.items():
        if note != "run/recipe.resolved.yaml":
            read(world)
    with pytest.raises(UserError, match="started with another recipe"):
        NOTES["run/recipe.resolved.yaml"](world)


BYTES = {
    "no UTF-8": lambda text: b'{"a": "\xff"}',
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "brackets": lambda text: b"[" * 900 + b"]" * 900,
    "a list": lambda text: b"[1, 2]",
    "a text": lambda text: b'"text"',
    "nothing": lambda text: b"",
    "NULs": lambda text: bytes(100),
    "a long number": lambda text: b'{"step": ' + b"9" * 5000 + b"}",
    "not finite": lambda text: b'{"metric": "m", "score": NaN, "step": Infinity, "classes": -Infinity}',
    "the first half": lambda text: text[: len(text) // 2],
    "a line too many": lambda text: text + b"}\n{}\n",
}
"""What a file holds instead of its own text."""
_SPARED = {
    ("run/recipe.resolved.yaml", "nothing"),  # no key of it is asked for
    *(("run/metrics.jsonl", what) for what in ("nothing", "brackets", "NULs", "a long number")),
    ("run/environment.json", "not finite"),  # in no key that it has
    ("note.json", "no UTF-8"),  # its text was decoded by the format's own reader
    ("run/metrics.jsonl", "the first half"),  # as a kill leaves it
    ("run/recipe.resolved.yaml", "the first half"),
}


@pytest.mark.parametrize("what", BYTES)
@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_is_none_is_named(note: str, what: str, world: Path) -> None:
    path = world / note
    path.write_bytes(BYTES[what](path.read_bytes()))
    try:
        NOTES[note](world)
    except UserError:
        pass
    else:
        assert (note, what) in _SPARED or note.startswith("shards/")


WRONG = {
    "student/config.json": [
        ({"trunk": {"family": "timm", "model": "hf-hub:someone/net"}}, "no model 'hf-hub:someone/net'"),
        ({"trunk": {"family": "timm", "model": "local-dir:/etc"}}, "no model 'local-dir:/etc'"),
        ({"trunk": {"family": "timm", "model": 7}}, r"config\.json, trunk\.model"),
        ({"trunk": {"args": {"width": 1_000_000_000}}}, "'?width.* leave room for"),
        ({"trunk": {"args": {"depth": 1_000_000}}}, "'?depth.* leave room for"),
        ({"trunk": {"args": [1]}}, r"config\.json, trunk\.args"),
        ({"trunk": {"inputs": {"size": ["a", 2]}}}, "size"),
        ({"trunk": {"inputs": {"size": [1_000_000_000, 8]}}}, "pixels a side"),
        ({"tasks": {"breed": {"kind": ["x"]}}}, r"config\.json, tasks\.breed\.kind"),
        ({"tasks": {"breed": {"classes": 3}}}, r"config\.json, tasks\.breed\.classes"),
        ({"tasks": {"breed": {"kind": "os:system"}}}, "is code"),
        ({"tasks": {"breed": {"head": {"width": 1_000_000_000}}}}, "width.* leave room for"),
        ({"tasks": []}, r"config\.json, tasks"),
        ({"extra": {"scores": {"breed": {"score": "high"}}}}, r"extra\.scores\.breed"),
        ({"format": []}, "format"),
    ],
    "timm/config.json": [
        ({"architecture": "hf-hub:someone/net"}, "no model 'hf-hub:someone/net'"),
        ({"architecture": "local-dir:/etc"}, "names that reach out"),
        ({"architecture": None}, r"config\.json, architecture"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "cannot build"),
        ({"model_args": {"pretrained": True}}, "cannot build"),
        ({"model_args": {"stem_width": 1_000_000_000}}, "leave room for"),
        ({"model_args": {"layers": [1_000_000]}}, "leave room for"),
        ({"model_args": []}, r"config\.json, model_args"),
        ({"label_names": 7}, r"config\.json, label_names"),
        ({"pretrained_cfg": {"input_size": [3]}}, r"input_size"),
        ({"pretrained_cfg": {"input_size": "big"}}, r"input_size"),
        ({"pretrained_cfg": {"mean": ["a"]}}, r"mean"),
        ({"pretrained_cfg": {"mean": [0.5, 0.5]}}, r"pretrained_cfg is invalid.*means"),
    ],
    "timm/score.json": [
        ({"score": "high"}, r"score\.json, score.*holds `metric` and `score`"),
        ({"score": [1]}, r"score\.json, score"),
        ({"rows": "many"}, r"score\.json, rows"),
        ({"colour": "red"}, r"score\.json, colour"),
        ({"metric": None}, r"score\.json, metric"),
    ],
    "note.json": [
        ({"inputs": [1]}, "note 'distill_mtl'.*inputs"),
        ({"inputs": {"size": None}}, "size"),
        ({"inputs": {"batch": -1}}, "batch"),
        ({"inputs": {"std": [0, 0, 0]}}, "std"),
        ({"tasks": {"breed": 3}}, r"tasks\.breed"),
        ({"tasks": {"breed": {"classes": 3}}}, r"tasks\.breed\.classes"),
        ({"outputs": {"a": 1}}, "outputs"),
    ],
    "run/results.json": [
        ({"tasks": {"breed": {"student": "good"}}}, r"results\.json, tasks\.breed\.student.*evaluate"),
        ({"tasks": []}, r"results\.json, tasks"),
        ({"acceptance": {"margin": []}}, r"results\.json, acceptance\.margin"),
        ({"tasks": {"other\nname": report_world.task()}}, "margin lacks the task"),
        ({"version": [1]}, "version"),
        ({"cost": None}, r"results\.json, cost"),
    ],
    "run/teachers.json": [
        ({"breed": 7}, r"teachers\.json, breed"),
        ({"breed": {"score": "high"}}, r"teachers\.json, breed\.score"),
        ({"breed": {"classes": 37}}, r"teachers\.json, breed\.classes"),
    ],
    "run/environment.json": [
        ({"processes": "two"}, r"environment\.json, processes"),
        ({"versions": []}, r"environment\.json, versions"),
    ],
    "run/examples/index.json": [
        ({"samples": []}, r"index\.json, samples"),
        ({"legends": {"range": {"colors": 1}}}, r"index\.json, legends\.range\.colors"),
        ({"samples": {"range": [{"key": "a", "image": {"file": "../../../etc/passwd"}}]}}, r"index\.json"),
    ],
}
"""A note -> changes to it, and what the message names."""


@pytest.mark.parametrize(
    ("note", "change", "named"),
    [(note, change, named) for note, cases in WRONG.items() for change, named in cases],
)
def test_a_wrong_value_in_a_note_is_named(note: str, change: dict[str, Any], named: str, world: Path) -> None:
    path = world / note
    path.write_text(json.dumps(_merged(json.loads(path.read_text()), change)))
    with pytest.raises(UserError, match=named) as refused:
        NOTES[note](world)
    assert "\n" not in str(refused.value)


def test_a_picture_of_a_run_lies_in_its_folder(world: Path) -> None:
    index = world / "run" / "examples" / "index.json"
    for name in (
        "../results.json",
        "/etc/passwd",
        "a\0b.png",
        "absent.png",
        "..",
        "a.exe",
        "x" * 5000 + ".png",
    ):
        changed = json.loads((world / "run" / "examples" / "index.json").read_text())
        changed["samples"]["range"][0]["image"]["file"] = name
        index.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"index\.json|cannot be read"):
            _report(world / "run")


def test_a_cut_last_line_of_a_log_is_left_out_and_a_broken_one_before_it_is_named(world: Path) -> None:
    log = world / "run" / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:5], lines[5][:30]]))
    _report(world / "run")
    log.write_text("\n".join([*lines[:5], lines[5][:30], lines[6]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 6"):
        _report(world / "run")


HEADERS = (
    *(b"", b"[]", b"{}}", b'{"a": 1}', b"[" * 900, b'{"__metadata__": [1]}', b"\xff\xfe"),
    b'{"a": {"dtype": "F16", "shape": [1], "data_offsets": "x"}}',
    b'{"a": {"dtype": "F16", "shape": ["x"], "data_offsets": [0, 2]}}',
    b'{"a": {"dtype": "F16", "shape": [-1], "data_offsets": [0, -2]}}',
)


@pytest.mark.parametrize("header", HEADERS)
def test_a_sidecar_with_a_made_up_header_is_refused(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CacheError):
        Sidecar(tmp_path / "a.safetensors")


# A zip bomb is made by its declared sizes: PyTorch would make room for them.


def _bomb(path: Path, *, members: int = 4, size: int = 100_000_000) -> Path:
    zeros = bytes(1_000_000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(members):
            with archive.open(f"net/code/{number}", "w", force_zip64=True) as member:
                for _ in range(size // len(zeros)):
                    member.write(zeros)
    return path


@pytest.mark.parametrize("ending", [".pt2", ".ts", ".pt"])
def test_what_an_archive_unpacks_to_is_bounded_before_pytorch_opens_it(ending: str, tmp_path: Path) -> None:
    path = _bomb(tmp_path / f"net{ending}", members=1)
    with pytest.raises(UserError, match=r"0\.\d MB and says that it unpacks to 100\.0 MB"):
        open_network(path, trust=True)


def test_weights_in_an_archive_are_bounded_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unpacks to"):
        load_checkpoint(torch.nn.Linear(1, 1), _bomb(tmp_path / "net.pth", members=1))


def test_an_archive_of_pytorch_is_no_bomb(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(20_000_000)}, tmp_path / "a.pt")
    with torch_archive(tmp_path / "a.pt") as archive:
        assert archive.namelist()


ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "a broken member": lambda content: content.replace(b"note", b"nope", 1),
    "an unknown compression": lambda content: content.replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0"),
    "encrypted": lambda content: content.replace(b"\x14\0\0\0\0\0", b"\x14\0\x01\0\0\0"),
    "another sum": lambda content: content.replace(b"text of a note", b"text of a mote"),
    "a cut directory": lambda content: content[:-30],
    "no archive": lambda content: b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_damaged_archives_are_refused(case: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("net/extra/note", "text of a note")
    (tmp_path / "net.pt2").write_bytes(ARCHIVES[case](packed.getvalue()))
    with pytest.raises(UserError, match=r"net\.pt2"):
        open_network(tmp_path / "net.pt2", trust=True)
    if case != "no archive":
        with pytest.raises(UserError, match="archive"):
            read_extra_files(tmp_path / "net.pt2")


# The fuzzer.

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3.5, 2**31, 2**63, -(2**70), 1e308, -1e-308, float("inf"), float("nan")),
    *(
        "",
        "x",
        "a\nb",
        "\x00",
        "../..",
        "/dev/zero",
        "hf-hub:a/b",
        "local-dir:/etc",
        "os:system",
        "é" * 5000,
        "\ud800",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a": {"b": {}}},
        [1, 2, 3],
        ["a", 1],
        [[0] * 3] * 3,
        {"kind": "depth"},
    ),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, one in inner:
        yield from _places(one, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], how: str, new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    if how == "remove":
        del owner[path[-1]]
    elif how == "add" and isinstance(owner, dict):
        owner["added"] = new
    else:
        owner[path[-1]] = new
    return value


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, Callable[[bytes], bytes]]:
    note = draw(st.sampled_from(sorted(NOTES)))
    how = draw(st.sampled_from(["value", "value", "value", "value", "remove", "add", "cut", "byte"]))
    where, new = draw(st.floats(0, 0.999)), draw(st.sampled_from(HOSTILE))

    def mutate(content: bytes) -> bytes:
        place = int(where * len(content))
        if how == "cut":
            return content[:place]
        if how == "byte":
            return content[:place] + bytes([draw_byte]) + content[place + 1 :]
        if note.endswith(".jsonl"):
            lines = content.decode().splitlines()
            number = int(where * len(lines))
            lines[number] = json.dumps(_anywhere(json.loads(lines[number])))
            return ("\n".join(lines) + "\n").encode()
        if note.endswith(".yaml"):
            return yaml.safe_dump(_anywhere(yaml.safe_load(content)), allow_unicode=True).encode(
                "utf-8", "surrogatepass"
            )
        return json.dumps(_anywhere(json.loads(content))).encode()

    def _anywhere(value: Any) -> Any:
        places = list(_places(value))
        return _changed(value, places[int(spot * len(places))], how, new)

    draw_byte, spot = draw(st.integers(0, 255)), draw(st.floats(0, 0.999))
    return note, mutate


def _fuzzed(valid: Path, case: tuple[str, Callable[[bytes], bytes]]) -> None:
    note, mutate = case
    folder = note.partition("/")[0]
    there = valid.parent / f"{valid.name}-fuzzed"
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    if (valid / folder).is_dir():
        shutil.copytree(valid / folder, there / folder)
    else:
        shutil.copy(valid / note, there / note)
    (there / note).write_bytes(mutate((there / note).read_bytes()))
    with suppress(UserError):
        NOTES[note](there)


_HOW = {"deadline": None, "derandomize": True, "database": None}
_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=30, suppress_health_check=_CHECKS, **_HOW)
@given(case=mutations())
def test_a_mutated_note_is_read_or_refused(valid: Path, case: tuple[str, Callable[[bytes], bytes]]) -> None:
    _fuzzed(valid, case)


@pytest.mark.slow
@settings(max_examples=250, suppress_health_check=_CHECKS, **_HOW)
@given(case=mutations())
def test_many_mutated_notes(valid: Path, case: tuple[str, Callable[[bytes], bytes]]) -> None:
    _fuzzed(valid, case)


def _merged(value: Any, change: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(change, dict):
        return change
    return {**value, **{key: _merged(value.get(key), one) for key, one in change.items()}}
