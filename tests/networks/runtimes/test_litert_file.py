import copy
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from deployed import Classifier, images, inner, trained
from litert_toy import BYTES, SIGNED, normalised, save_litert
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from distill_mtl.errors import UserError
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtimes.litert_file import LiteRtRuntime
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import teacher_of

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def network() -> Classifier:
    torch.manual_seed(1)
    network = trained(Classifier())
    assert isinstance(network, Classifier)
    return network


def nhwc(batch: torch.Tensor) -> torch.Tensor:
    return batch.permute(0, 2, 3, 1).contiguous()


def test_the_answer_is_the_networks_own_for_any_number_of_rows(network: Classifier, tmp_path: Path) -> None:
    runtime = LiteRtRuntime(save_litert(network, tmp_path / "n.tflite"))
    assert (runtime.declared.size, runtime.declared.layout, runtime.declared.batch) == (
        (16, 16),
        "NHWC",
        None,
    )
    for rows in (1, 3, 2):
        batch = images(rows)
        with torch.no_grad():
            assert torch.allclose(runtime(nhwc(batch))["logits"], network(batch), atol=1e-5)


def test_inner_tensors_are_those_of_the_eager_layers(network: Classifier, tmp_path: Path) -> None:
    runtime, batch = LiteRtRuntime(save_litert(network, tmp_path / "n.tflite")), images()
    assert runtime.names() == ["padded", "relu", "mean", "logits"]
    runtime.tap(["relu"])
    answer = runtime(nhwc(batch))
    assert list(answer) == ["logits", "relu"]
    assert torch.allclose(answer["relu"].permute(0, 3, 1, 2), inner(network, "act", batch), atol=1e-5)
    runtime.tap([])
    assert list(runtime(nhwc(batch))) == ["logits"]
    with pytest.raises(UserError, match="no tensor 'relo'.*'relu'"):
        runtime.tap(["relo"])


def test_the_parameters_are_those_of_the_folded_network(network: Classifier, tmp_path: Path) -> None:
    learned = sum(parameter.numel() for parameter in network.parameters())
    runtime = LiteRtRuntime(save_litert(network, tmp_path / "n.tflite"))
    assert runtime.parameter_count == learned - 6  # a scale and a shift for each channel became a bias
    assert runtime.parameter_bytes == 4 * (learned - 6)


@pytest.mark.parametrize("image", [BYTES, SIGNED])
def test_a_quantised_input_and_answer_are_floats(network: Classifier, tmp_path: Path, image: int) -> None:
    path = save_litert(network, tmp_path / "n.tflite", image=image, quantised_answer=True)
    opened = open_network(path)
    assert (opened.inputs.dtype, opened.inputs.white, opened.inputs.layout) == ("float32", 1.0, "nhwc")
    batch = (images(2) * 255).round() / 255
    with torch.no_grad():
        expected = network(batch)
    found = opened.head("n")(batch)["logits"]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1 / 32 + 1e-3)


@pytest.mark.parametrize(
    ("span", "white", "mean", "std"),
    [
        ((0.0, 1.0), 1.0, (0.0,) * 3, (1.0,) * 3),
        ((-0.98, 1.0), 1.0, (0.5,) * 3, (0.5,) * 3),
        ((-1.0, 127 / 128), 1.0, (0.5,) * 3, (0.5,) * 3),
        ((0.0, 255.0), 255.0, (0.0,) * 3, (1.0,) * 3),
        ((-2.1, 2.6), 1.0, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ((-10.0, 30.0), 1.0, (0.25,) * 3, (0.025,) * 3),
    ],
)
@pytest.mark.parametrize("image", [BYTES, SIGNED])
def test_the_range_of_a_quantised_input_proposes_its_normalisation(
    network: Classifier,
    tmp_path: Path,
    image: int,
    span: tuple[float, float],
    white: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    path = save_litert(network, tmp_path / "n.tflite", image=image, span=span)
    opened, batch = open_network(path), images(2)
    assert opened.inputs.white == white
    assert opened.inputs.mean == pytest.approx(mean, abs=2e-3)
    assert opened.inputs.std == pytest.approx(std, abs=2e-3)
    assert opened.assumed == ("mean", "std", "white", "channels")
    pixels = opened.head("n").preprocess(batch).permute(0, 3, 1, 2)
    step = (span[1] - span[0]) / 255
    with torch.no_grad():
        expected, found = network(pixels), opened.head("n")(batch)["logits"]
    assert torch.allclose(found, expected, atol=step, rtol=0.03)


def test_what_recipe_or_metadata_say_of_a_quantised_input_goes_before_its_range(
    network: Classifier, tmp_path: Path
) -> None:
    path, note = tmp_path / "n.tflite", normalised([127.5], [127.5], rgb=True)
    save_litert(network, path, image=SIGNED, span=(-1.0, 1.0), metadata=note)
    assert (open_network(path).inputs.mean, open_network(path).assumed) == ((127.5,) * 3, ())
    section = TeacherSection.model_validate(
        {"path": str(path), "input": {"mean": [0.4] * 3, "std": [0.6] * 3}}
    )
    assert open_network(section).inputs.mean == (0.4,) * 3
    # A note whose pictures would leave the range is of no use.
    save_litert(network, path, image=SIGNED, span=(-1.0, 1.0), metadata=normalised([0.0], [1.0], rgb=True))
    assert open_network(path).inputs.mean == (0.5,) * 3


def test_whole_numbers_without_a_scale_are_bytes(network: Classifier, tmp_path: Path) -> None:
    runtime = LiteRtRuntime(save_litert(network, tmp_path / "n.tflite", image=BYTES, span=None))
    assert (runtime.declared.dtype, dict(runtime.declared.proposed)) == (torch.uint8, {})


def test_one_row_at_a_time_where_the_file_takes_no_more(network: Classifier, tmp_path: Path) -> None:
    opened = open_network(save_litert(network, tmp_path / "n.tflite", batch=1))
    assert opened.inputs.batch == 1
    batch = images(3)
    pixels = opened.head("n").preprocess(batch).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.allclose(opened.head("n")(batch)["logits"], network(pixels), atol=1e-5)


def test_a_teacher_of_the_file_gives_maps_with_channels_first(network: Classifier, tmp_path: Path) -> None:
    teacher = teacher_of(open_network(save_litert(network, tmp_path / "n.tflite")), "n", layers=[None])
    assert teacher.card.last_map == "relu"
    assert teacher(images(2)).hidden["relu"].shape == (2, 6, 8, 8)
    assert teacher.card.assumed == ("mean", "std", "white", "channels")


def test_labels_in_the_files_archive_are_its_classes(network: Classifier, tmp_path: Path) -> None:
    path = save_litert(network, tmp_path / "n.tflite")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\nowl\nfox\n")
    assert open_network(path).tasks["n"].classes == ("cat", "dog", "owl", "fox")


@pytest.mark.parametrize(("rgb", "assumed"), [(True, ()), (False, ("channels",))])
def test_the_normalisation_in_the_files_metadata_is_its_contract(
    network: Classifier, tmp_path: Path, rgb: bool, assumed: tuple[str, ...]
) -> None:
    note = normalised([127.5], [63.75], rgb=rgb)
    opened = open_network(save_litert(network, tmp_path / "n.tflite", metadata=note))
    inputs = opened.inputs
    assert (inputs.white, inputs.mean, inputs.std) == (255.0, (127.5,) * 3, (63.75,) * 3)
    assert tuple(opened.assumed) == assumed


def test_a_copy_and_a_sent_runtime_answer_alike(network: Classifier, tmp_path: Path) -> None:
    runtime, batch = LiteRtRuntime(save_litert(network, tmp_path / "n.tflite")), nhwc(images())
    runtime.tap(["relu"])
    expected = runtime(batch)
    for twin in (copy.deepcopy(runtime), pickle.loads(pickle.dumps(runtime))):
        assert all(torch.equal(value, expected[name]) for name, value in twin(batch).items())


def test_files_that_are_missing_or_cut_short_are_refused(network: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"n\.tflite does not exist"):
        LiteRtRuntime(tmp_path / "n.tflite")
    content = save_litert(network, tmp_path / "n.tflite").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\0" * 64):
        (tmp_path / "cut.tflite").write_bytes(damaged)
        with pytest.raises(UserError, match=r"cut\.tflite is not a LiteRT file, or it is truncated"):
            LiteRtRuntime(tmp_path / "cut.tflite")


def test_it_stays_on_the_cpu(network: Classifier, tmp_path: Path) -> None:
    runtime = LiteRtRuntime(save_litert(network, tmp_path / "n.tflite"))
    with pytest.raises(UserError, match=r"LiteRT is used on the CPU, not on meta.*`teacher\.device: cpu`"):
        runtime.to("meta")


def test_the_missing_package_is_named_with_its_extra(
    network: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_litert(network, tmp_path / "n.tflite")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.schema_py_generated", None)
    with pytest.raises(
        UserError, match=r"a LiteRT file needs .*ai_edge_litert: pip install 'distill_mtl\[litert\]'"
    ):
        LiteRtRuntime(path)
