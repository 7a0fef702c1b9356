import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import Classifier, images, save_onnx, trained

from distill_mtl.errors import UserError
from distill_mtl.networks.runtimes.onnx_file import OnnxRuntime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
FLOAT, UINT8, STRING, FLOAT16 = 1, 2, 8, 10
NCHW = ["batch", 3, 16, 12]


def write(
    path: Path,
    nodes: list[Any],
    *,
    shape: list[Any] | None = NCHW,
    dtype: int = FLOAT,
    outputs: dict[str, int] | None = None,
    more_inputs: tuple[str, ...] = (),
    weights: tuple[Any, ...] = (),
    **notes: str,
) -> Path:
    """A graph of a few nodes, from `images` to `answer`."""
    inputs = [helper.make_tensor_value_info("images", dtype, shape)]
    inputs += [helper.make_tensor_value_info(name, FLOAT, [1]) for name in more_inputs]
    outputs = outputs or {"answer": FLOAT}
    ends = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    graph = helper.make_graph(nodes, "graph", inputs, ends, list(weights))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("somebody.ops", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    helper.set_model_props(model, notes)
    onnx.save(model, path)
    return path


RELU = [helper.make_node("Relu", ["images"], ["answer"])]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["batch", 3, 16, 12], ((16, 12), 3, "NCHW", None)),
        ([2, 16, 12, 1], ((16, 12), 1, "NHWC", 2)),
        ([4, 1, 28, 3], ((28, 3), 1, "NCHW", 4)),
        ([-1, 3, "height", "width"], (None, 3, "NCHW", None)),
        (["b", "c", "h", "w"], (None, None, None, None)),
        (None, (None, None, None, None)),
    ],
)
def test_the_input_is_read_from_its_shape(
    tmp_path: Path, shape: list[Any] | None, expected: tuple[Any, ...]
) -> None:
    declared = OnnxRuntime(write(tmp_path / "n.onnx", RELU, shape=shape)).declared
    assert (declared.size, declared.channels, declared.layout, declared.batch) == expected


def test_notes_are_the_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "n.onnx", RELU, classes='["cat", "dog"]')
    assert OnnxRuntime(path).declared.notes == {"classes": '["cat", "dog"]'}


@pytest.mark.parametrize(("number", "dtype"), [(UINT8, torch.uint8), (FLOAT16, torch.float16)])
def test_images_may_be_bytes_or_half_floats(tmp_path: Path, number: int, dtype: torch.dtype) -> None:
    cast = [helper.make_node("Cast", ["images"], ["answer"], to=FLOAT)]
    runtime = OnnxRuntime(write(tmp_path / "n.onnx", cast, dtype=number))
    assert runtime.declared.dtype == dtype
    pixels = (torch.rand(2, 3, 16, 12) * 255).to(dtype)
    assert torch.equal(runtime(pixels)["answer"], pixels.float())


def test_images_in_any_order_of_memory_are_read_right(tmp_path: Path) -> None:
    runtime = OnnxRuntime(write(tmp_path / "n.onnx", RELU))
    pixels = torch.randn(2, 3, 16, 12).to(memory_format=torch.channels_last)
    assert torch.equal(runtime(pixels)["answer"], pixels.relu())


def test_an_answer_outlives_the_next_one_and_the_runtime(tmp_path: Path) -> None:
    runtime = OnnxRuntime(write(tmp_path / "n.onnx", RELU))
    pixels = torch.randn(2, 3, 16, 12)
    answer = runtime(pixels)["answer"]
    runtime(torch.zeros(2, 3, 16, 12))
    del runtime
    assert torch.equal(answer, pixels.relu())


def test_weights_beside_the_file_are_found_and_listed(tmp_path: Path) -> None:
    network = trained(Classifier())
    path = save_onnx(network, tmp_path / "n.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="n.weights", size_threshold=99)
    runtime = OnnxRuntime(path)
    assert runtime.files == (path, tmp_path / "n.weights")
    batch = images()
    runtime.tap(["relu"])
    assert torch.allclose(runtime(batch)["linear"], network(batch), atol=1e-5)
    (tmp_path / "n.weights").unlink()
    with pytest.raises(UserError, match=r"n\.weights.*not exist"):
        OnnxRuntime(path)


def test_a_fixed_batch_is_declared_and_holds(tmp_path: Path) -> None:
    runtime = OnnxRuntime(save_onnx(trained(Classifier()), tmp_path / "n.onnx", fixed=True))
    assert runtime.declared.batch == 2
    runtime.probe(images(2))
    with pytest.raises(UserError, match=r"cannot run.*float32.*\[3, 3, 16, 16\].*Got: 3"):
        runtime.probe(images(3))


def test_the_session_starts_again_only_for_other_taps(toy: Any) -> None:
    runtime = toy.open["onnx"]()
    runtime.tap(["relu"])
    runtime(images())
    session = runtime._session
    runtime.tap(["relu", "linear"])
    assert runtime._session is session
    runtime.tap(["mean"])
    assert runtime._session is None


def test_the_session_works_with_as_many_threads_as_torch(toy: Any) -> None:
    runtime = toy.open["onnx"]()
    runtime(images())
    assert runtime._session.get_session_options().intra_op_num_threads == torch.get_num_threads()


def test_only_tensors_of_numbers_count(tmp_path: Path) -> None:
    nodes = [*RELU, helper.make_node("Cast", ["answer"], ["words"], to=STRING)]
    runtime = OnnxRuntime(write(tmp_path / "n.onnx", nodes, outputs={"words": STRING, "answer": FLOAT}))
    assert runtime.outputs == ("answer",)
    assert runtime.names() == ["answer"]
    with pytest.raises(UserError, match=r"\.onnx .*tensor of numbers"):
        OnnxRuntime(write(tmp_path / "n.onnx", nodes, outputs={"words": STRING}))


def test_inputs_beside_the_images_are_refused_but_not_weights_listed_as_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["images", "scale"], ["answer"])]
    with pytest.raises(UserError, match=r"\.onnx .*inputs images, scale;"):
        OnnxRuntime(write(tmp_path / "n.onnx", nodes, more_inputs=("scale",)))
    two = helper.make_tensor("scale", FLOAT, [1], [2.0])
    runtime = OnnxRuntime(write(tmp_path / "n.onnx", nodes, more_inputs=("scale",), weights=(two,)))
    pixels = torch.rand(2, 3, 16, 12)
    assert torch.equal(runtime(pixels)["answer"], pixels * 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"shape": ["batch", 32]}, r"'images'.*\[\?, 32\]"),
        ({"dtype": 7}, "'images'.* int64.* float32, uint8"),
    ],
)
def test_an_input_that_is_no_batch_of_images_is_refused(
    tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        OnnxRuntime(write(tmp_path / "n.onnx", RELU, **options))


def test_a_network_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    ones = [helper.make_tensor(name, FLOAT, [3], [1.0] * 3) for name in "sbmv"]
    norm = helper.make_node(
        "BatchNormalization", ["images", *"sbmv"], ["answer", "mean", "var"], training_mode=1
    )
    with pytest.raises(UserError, match=r"training mode.*'BatchNormalization' .*model\.eval\(\)"):
        OnnxRuntime(write(tmp_path / "n.onnx", [norm], weights=tuple(ones)))
    ratio, mode = helper.make_tensor("r", FLOAT, [], [0.5]), helper.make_tensor("t", 9, [], [True])
    drop = helper.make_node("Dropout", ["images", "r", "t"], ["answer"])
    with pytest.raises(UserError, match="training mode.*'Dropout'"):
        OnnxRuntime(write(tmp_path / "n.onnx", [drop], weights=(ratio, mode)))
    off = helper.make_node("Constant", [], ["t"], value=helper.make_tensor("", 9, [], [False]))
    OnnxRuntime(write(tmp_path / "n.onnx", [off, drop], weights=(ratio,)))


def test_weights_may_be_normalised_by_themselves_and_have_no_names(tmp_path: Path) -> None:
    ones = [helper.make_tensor(name, FLOAT, [3], [1.0] * 3) for name in "sbmv"]
    scale = helper.make_tensor("scale", FLOAT, [2, 3], [1.0, 2, 3, 3, 4, 7])
    nodes = [
        helper.make_node(
            "BatchNormalization", ["scale", *"sbmv"], ["normal", "mean", "var"], training_mode=1
        ),
        helper.make_node("ReduceMean", ["normal"], ["factor"], keepdims=0),
        helper.make_node("Mul", ["images", "factor"], ["scaled"]),
        helper.make_node("Relu", ["scaled"], ["answer"]),
    ]
    assert OnnxRuntime(write(tmp_path / "n.onnx", nodes, weights=(*ones, scale))).names() == [
        "scaled",
        "answer",
    ]


def test_operators_of_other_libraries_are_refused(tmp_path: Path) -> None:
    foreign = [helper.make_node("Magic", ["images"], ["answer"], domain="somebody.ops")]
    runtime = OnnxRuntime(write(tmp_path / "n.onnx", foreign))
    with pytest.raises(UserError, match="somebody.ops:Magic"):
        runtime.probe(torch.rand(2, 3, 16, 12))


def test_a_file_without_a_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n.onnx").touch()
    with pytest.raises(UserError, match=r"\.onnx .*ONNX graph"):
        OnnxRuntime(tmp_path / "n.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    toy: Any, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}: pip install 'distill_mtl\[onnx\]'"):
        OnnxRuntime(toy.folder / "network.onnx")


def test_a_device_that_the_runtime_cannot_use_is_refused(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = toy.open["onnx"]()
    with pytest.raises(UserError, match="cpu and cuda.* meta"):
        torch.nn.ModuleList([runtime]).to("meta")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match=r"onnxruntime-gpu.*`teacher\.device: cpu`"):
        runtime.moved(torch.device("cuda", 0))
