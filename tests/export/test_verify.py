"""`verify` measures an export again and names what does not hold: faults are planted in files that claim to be good."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_toys
import numpy as np
import onnx
import pytest
import torch
import toys
from onnx import numpy_helper
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from distill_mtl.cli import main
from distill_mtl.errors import UserError
from distill_mtl.export.certificate import hashes, lower_bound, read_certificate, upper_bound
from distill_mtl.jobs.export import export_student
from distill_mtl.jobs.verify import verify_export
from distill_mtl.networks.inputs import Preprocess
from distill_mtl.networks.weights import sha256
from distill_mtl.students.student_folder import save_student

QUIET = Console(quiet=True)
OPTIONS: dict[str, Any] = {"preprocess": "float", "decode": True, "rows": 12}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A run with an ONNX file and its certificate, not to be changed."""
    run = export_toys.toy_run(tmp_path_factory.mktemp("verified") / "toy", world)
    export_student(run, "onnx", console=QUIET, **OPTIONS)
    return run


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    """The exported file, beside its certificate and its run, to be spoiled."""
    import shutil

    shutil.copytree(good, tmp_path / "toy")
    return tmp_path / "toy" / "export" / "toy.onnx"


def certificate_of(file: Path) -> Path:
    return Path(f"{file}.certificate.json")


def packed(arrays: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def certified_anew(file: Path) -> None:
    """Let the certificate claim the file as it is now."""
    path = certificate_of(file)
    said = json.loads(path.read_text())
    said["files"] = hashes([file])
    path.write_text(json.dumps(said))


Place = Callable[[Path], Path]


def failures(file: Path, **options: Any) -> dict[str, str]:
    return verify_export(certificate_of(file), console=QUIET, **options).failures


def rewritten(file: Path, change: Callable[[Any], None]) -> None:
    """A fault in the file, which the certificate claims."""
    model = onnx.load(file)
    change(model.graph)
    onnx.save(model, file)
    certified_anew(file)


def test_a_good_file_is_verified_and_its_certificate_says_what_was_measured(good: Path) -> None:
    file = good / "export" / "toy.onnx"
    found = verify_export(certificate_of(file), console=QUIET)
    assert found.accepted
    said = read_certificate(certificate_of(file))
    record = said.runtimes["onnxruntime"]
    assert record.rows == 12
    assert record.outputs["hue"].rows_changed == 0
    assert record.changed_at_most["hue"] == pytest.approx(1 - 0.05 ** (1 / 12))
    assert 0 < record.latency_ms < 10_000
    assert record.largest_error < 1e-4
    assert set(said.student) == {"config.json", "model.safetensors"}


def test_the_command_ends_with_3_and_names_what_fails(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(certificate_of(copied))
    with pytest.raises(SystemExit) as ended:
        main(["verify", path])
    assert ended.value.code == 0
    assert "toy.onnx answers as certified" in capsys.readouterr().out
    content = bytearray(copied.read_bytes())
    content[len(content) // 2] ^= 1
    copied.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["verify", path])
    assert ended.value.code == 3
    assert "was changed after it was certified" in capsys.readouterr().out


def test_other_weights_are_named(copied: Path, place: Place) -> None:
    def other(graph: Any) -> None:
        for tensor in graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.ndim == 4:
                mixed = torch.from_numpy(values.copy()).flatten().roll(7).reshape(values.shape)
                tensor.CopyFrom(numpy_helper.from_array(mixed.numpy(), tensor.name))

    rewritten(copied, other)
    assert "are these the weights of this student" in failures(place(copied))["answers in onnxruntime"]


def test_a_number_that_overflows_in_16_bits_is_named(copied: Path, place: Place) -> None:
    def overflow(graph: Any) -> None:
        (bias,) = (tensor for tensor in graph.initializer if "hue" in tensor.name and "bias" in tensor.name)
        values = numpy_helper.to_array(bias).copy()
        values[0] = torch.tensor(1e6).half().float().item()
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))

    rewritten(copied, overflow)
    assert "answers are not finite" in failures(place(copied))["answers in onnxruntime"]


def test_classes_in_another_order_are_named(copied: Path, place: Place) -> None:
    def permuted(graph: Any) -> None:
        for tensor in graph.initializer:
            if "heads.hue" in tensor.name:
                values = numpy_helper.to_array(tensor)[[1, 2, 0]]
                tensor.CopyFrom(numpy_helper.from_array(values.copy(), tensor.name))

    rewritten(copied, permuted)
    assert "The classes of hue are in another order" in failures(place(copied))["answers in onnxruntime"]


def test_a_decoding_that_is_off_by_one_is_named(copied: Path, place: Place) -> None:
    def off_by_one(graph: Any) -> None:
        (node,) = (node for node in graph.node if "hue.label" in node.output)
        node.output[list(node.output).index("hue.label")] = "before"
        graph.initializer.append(numpy_helper.from_array(torch.ones(1, dtype=torch.int64).numpy(), "one"))
        graph.node.append(onnx.helper.make_node("Add", ["before", "one"], ["hue.label"]))

    rewritten(copied, off_by_one)
    said = failures(place(copied))["answers in onnxruntime"]
    assert "hue.label is not the student's: 12 of 12 rows" in said
    assert "decodes them otherwise" in said


class Planted:
    """Exports with a preprocessing that is not the student's, as another program may write them."""

    def __init__(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self._patch = run, monkeypatch
        file = run / "export" / "toy.onnx"
        recorded = Path(f"{file}.certificate.npz").rename(run / "recorded.npz")
        self._recorded = recorded, json.loads(certificate_of(file).read_text())["reference"]

    def file(self, change: Callable[[Preprocess, Tensor], Tensor]) -> Path:
        usual = Preprocess._framed
        with self._patch.context() as patched:
            patched.setattr(Preprocess, "_framed", lambda self, images: change(self, images))
            patched.setattr("distill_mtl.export.parity.Parity.refuse_difference", lambda *_: None)
            file = export_student(self.run, "onnx", overwrite=True, console=QUIET, **OPTIONS)
        assert Preprocess._framed is usual
        # The student answered with the fault too while it was recorded.
        self._recorded[0].rename(f"{file}.certificate.npz")
        said = json.loads(certificate_of(file).read_text())
        certificate_of(file).write_text(json.dumps(said | {"reference": self._recorded[1]}))
        return file


@pytest.fixture(params=["with the student", "alone"])
def place(copied: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Path], Path]:
    """Where a file is verified: in its run, or on a machine that has the file and its certificate alone."""

    def place(file: Path) -> Path:
        if request.param == "with the student":
            return file
        there = tmp_path / "another machine"
        there.mkdir()
        for each in file.parent.glob(f"{file.name}*"):
            each.rename(there / each.name)
        return there / file.name

    return place


def test_a_file_and_its_certificate_alone_are_enough(
    copied: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(certificate_of(place(copied)))])
    assert ended.value.code == 0
    assert "toy.onnx answers as certified" in capsys.readouterr().out


def test_recorded_answers_that_are_gone_or_changed_are_named(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "toy" / "student").rename(tmp_path / "elsewhere")
    recorded = Path(f"{copied}.certificate.npz")
    assert recorded.stat().st_size < 1_000_000
    content = recorded.read_bytes()
    recorded.write_bytes(content[:-1] + b"x")
    assert "was changed after it was certified" in failures(copied)["reference"]
    for spoiled in (content[:-9], packed({"0 images": np.zeros((100, 3, 400, 400), np.uint8)}), packed({})):
        recorded.write_bytes(spoiled)
        said = json.loads(certificate_of(copied).read_text())
        said["reference"]["sha256"] = sha256(recorded)
        certificate_of(copied).write_text(json.dumps(said))
        with pytest.raises(UserError, match=r"certificate.npz cannot be read"):
            failures(copied)
    kinds: list[dict[str, Any]] = [{}, {"kind": 5}, {"kind": ["x"]}, {"kind": "depth", "head": 5}]
    for kind in kinds:
        spoilt = said | {"reference": said["reference"] | {"kinds": {"hue": kind}}}
        certificate_of(copied).write_text(json.dumps(spoilt))
        with pytest.raises(UserError, match=r"certificate.json: `reference` describes no student"):
            failures(copied)
    certificate_of(copied).write_text(json.dumps(said))
    recorded.unlink()
    with pytest.raises(UserError, match=r"certificate.npz cannot be read.* export the student again"):
        failures(copied)
    said = json.loads(certificate_of(copied).read_text())
    certificate_of(copied).write_text(
        json.dumps(said | {"reference": None})
    )  # as it was before they were recorded
    with pytest.raises(
        UserError, match=r"the student lies in .*, and it does not. Name its folder with --student\."
    ):
        failures(copied)


def test_swapped_channels_are_named(copied: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Preprocess._framed
    file = Planted(copied.parent.parent, monkeypatch).file(lambda self, images: usual(self, images).flip(1))
    assert "sees red and blue swapped" in failures(place(file))["answers in onnxruntime"]


def test_a_resize_without_antialiasing_is_named(
    copied: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Planted(copied.parent.parent, monkeypatch).file(
        lambda self, images: F.interpolate(images, self.contract.size, mode="bilinear")
    )
    assert "without antialiasing" in failures(place(file))["answers in onnxruntime"]


def test_a_file_for_another_size_is_named(copied: Path, place: Place, world: Path, tmp_path: Path) -> None:
    run = copied.parent.parent
    small = export_student(run, "onnx", out=tmp_path / "toy.onnx", rows=12, console=QUIET)
    model = onnx.load(small)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 16
    said = json.loads(model.metadata_props[0].value)
    said["inputs"]["size"] = [16, 8]
    model.metadata_props[0].value = json.dumps(said)
    onnx.save(model, small)
    certified_anew(small)
    found = failures(place(small))
    assert "its size is [16, 8], the student's [8, 8]" in found["input in onnxruntime"]
    assert "does not run" in found["answers in onnxruntime"]


def test_a_student_that_was_trained_on_makes_the_certificate_stale(copied: Path) -> None:
    save_student(
        export_toys.student(kinds=export_toys.toy_student().kinds, seed=3), copied.parent.parent / "student"
    )
    assert "the certificate is stale" in failures(copied)["student"]


def test_a_runtime_of_another_version_is_named_and_the_answers_are_compared_all_the_same(
    copied: Path,
) -> None:
    path = certificate_of(copied)
    said = json.loads(path.read_text())
    said["runtimes"]["onnxruntime"]["version"] = "1.0.0"
    path.write_text(json.dumps(said))
    found = verify_export(path, console=QUIET)
    assert list(found.failures) == ["version of onnxruntime"]
    assert "certified with ONNX Runtime 1.0.0, here is" in found.failures["version of onnxruntime"]
    assert found.found["onnxruntime"].outputs["hue"].changed == 0


def test_other_rows_are_named_and_other_pictures_may_be_given(copied: Path, tmp_path: Path) -> None:
    path = certificate_of(copied)
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"rows_sha256": "0" * 64}))
    assert "the rows are not those that were certified" in failures(copied)["rows"]
    (tmp_path / "photos").mkdir()
    for number in range(5):
        pixels = torch.randint(256, (20 + number, 31, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    moved = tmp_path / "elsewhere"
    copied.parent.rename(moved)
    found = verify_export(
        moved / path.name, pictures=[str(tmp_path / "photos")], student=tmp_path / "toy", console=QUIET
    )
    assert found.accepted, found.failures
    assert found.found["onnxruntime"].rows == 5


def test_a_student_without_its_run_is_compared_on_pictures_alone(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = torch.randint(256, (20, 31, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "photos" / "0.png")
    (copied.parents[1] / "student").rename(alone := tmp_path / "alone")
    photos = [str(tmp_path / "photos")]
    found = verify_export(certificate_of(copied), pictures=photos, student=alone, console=QUIET)
    assert found.accepted, found.failures
    with pytest.raises(UserError, match=r"lies in no run.* Compare on other pictures with --pictures\.$"):
        verify_export(certificate_of(copied), student=alone, console=QUIET)
    with pytest.raises(
        UserError, match=r"the student lies in .*, and it does not\. Name its folder with --student"
    ):
        verify_export(certificate_of(copied), pictures=photos, console=QUIET)


def test_mistakes_are_said_in_one_line(copied: Path) -> None:
    with pytest.raises(UserError, match=r"is no certificate. Give FILE.certificate.json"):
        verify_export(copied, console=QUIET)
    said = json.loads(certificate_of(copied).read_text())
    for key, value in (("rows", 0), ("batch", 0), ("view", [0, 5]), ("files", {})):
        certificate_of(copied).write_text(json.dumps(said | {key: value}))
        with pytest.raises(UserError, match=rf"{key}.* Export the student again"):
            verify_export(certificate_of(copied), console=QUIET)
    whole = json.dumps(said)
    for text, found in (
        ("{}", "is JSON, but no certificate of an export. Give FILE.certificate.json"),
        ("[1]", "is JSON, but no certificate of an export"),
        (whole[: len(whole) // 2], "is not valid JSON: .* Export the student again"),
    ):
        certificate_of(copied).write_text(text)
        with pytest.raises(UserError, match=found):
            verify_export(certificate_of(copied), console=QUIET)
    with pytest.raises(UserError, match=r"there is no such file. Give .* In .*: toy.onnx.certificate.json"):
        verify_export(copied.parent / "missing.json", console=QUIET)
    with pytest.raises(UserError, match=r"is a folder. Give .* In .*: toy.onnx.certificate.json"):
        verify_export(copied.parent, console=QUIET)


def test_rows_that_fill_a_batch_count_once_and_are_found_again(good: Path, tmp_path: Path) -> None:
    for batch, rows in ((5, 10), (40, 12)):  # of 12 rows the last two are left out, or all are seen again
        file = export_student(
            good, "onnx", out=tmp_path / f"{batch}.onnx", batch=batch, rows=12, decode=True, console=QUIET
        )
        record = read_certificate(certificate_of(file)).runtimes["onnxruntime"]
        assert record.rows == rows
        assert record.changed_at_most["hue.label"] == pytest.approx(1 - 0.05 ** (1 / rows))
        assert failures(file) == {}


@pytest.mark.parametrize(
    ("changed", "rows", "bound"), [(0, 59, 0.0495), (0, 1, 0.95), (3, 100, 0.0757), (5, 5, 1.0)]
)
def test_the_bound_is_clopper_and_pearsons(changed: int, rows: int, bound: float) -> None:
    assert upper_bound(changed, rows) == pytest.approx(bound, abs=2e-4)
    assert lower_bound(changed, rows) <= changed / rows <= upper_bound(changed, rows)


def test_the_teachers_latency_stands_beside_the_students_in_the_same_runtime(
    copied: Path, world: Path
) -> None:
    run = copied.parent.parent
    teacher = run.parent / "teacher"
    save_student(export_toys.student(kinds={"hue": toys.classification(3)}), teacher)
    entry = {"file": str(teacher / "model.safetensors"), "sha256": "0" * 64}
    (run / "teachers.json").write_text(json.dumps({"hue": entry}))
    file = export_student(run, "onnx", only="hue", teachers=True, console=QUIET, **OPTIONS)
    record = read_certificate(certificate_of(file)).runtimes["onnxruntime"]
    assert record.teachers_ms is not None
    assert 0 < record.teachers_ms < 10_000
    assert verify_export(certificate_of(file), console=QUIET).accepted


def test_a_file_in_8_bits_must_agree_as_well_as_it_was_certified_to(run: Path) -> None:
    file = export_student(run, "onnx", int8=True, calibration=8, rows=20, console=QUIET)
    assert read_certificate(certificate_of(file)).precision == "int8"
    assert failures(file) == {}
    path = certificate_of(file)
    said = json.loads(path.read_text())
    said["runtimes"]["onnxruntime"]["changed_at_most"]["shape"] = 0.0
    path.write_text(json.dumps(said))
    assert "rows are decided otherwise" in failures(file)["answers in onnxruntime"]
