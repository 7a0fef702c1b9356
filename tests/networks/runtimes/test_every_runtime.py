"""What holds for a network in every form that it may be deployed in."""

import copy
import pickle
from typing import Any

import pytest
import torch
from deployed import images, inner

from distill_mtl.errors import UserError
from distill_mtl.networks.runtime import Runtime

FORMS = ["onnx", "openvino", "pt2", "trace", "script", "freeze", "module"]
# Form -> what it calls the convolution's block of the toy network, as (name, eager layer).
LAYERS = {
    "onnx": [("relu", "act")],
    "openvino": [("node_relu", "act")],
    "pt2": [("conv2d", "conv"), ("batch_norm", "bn"), ("relu_", "act")],
    "module": [("conv", "conv"), ("bn", "bn"), ("act", "act")],
}


@pytest.fixture
def runtime(request: pytest.FixtureRequest, toy: Any) -> Runtime:
    return toy.open[request.param]()


def run(runtime: Runtime, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return runtime(batch)


@pytest.mark.parametrize("runtime", FORMS, indirect=True)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_answer_is_the_networks_own(runtime: Runtime, toy: Any, rows: int) -> None:
    batch = images(rows)
    with torch.no_grad():
        expected = toy.network(batch)
    runtime.probe(batch)
    assert torch.allclose(run(runtime, batch)[runtime.outputs[0]], expected, atol=1e-5)


@pytest.mark.parametrize("form", ["onnx", "pt2", "trace", "module"])
def test_a_residual_networks_answer_is_its_own(resnet: Any, form: str) -> None:
    runtime, batch = resnet.open[form](), images()
    with torch.no_grad():
        expected = resnet.network(batch)
    assert torch.allclose(next(iter(run(runtime, batch).values())), expected, atol=1e-5)


@pytest.mark.parametrize("runtime", FORMS, indirect=True)
def test_a_runtime_is_frozen(runtime: Runtime) -> None:
    assert not any(part.training for part in runtime.modules())
    assert not any(parameter.requires_grad for parameter in runtime.parameters())
    batch = images()
    first, second = run(runtime, batch), run(runtime, batch)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("runtime", FORMS, indirect=True)
def test_outputs_are_names_and_stand_first_in_an_answer(runtime: Runtime) -> None:
    runtime.probe(images())
    assert runtime.outputs
    assert set(runtime.outputs) <= set(runtime.names())
    assert len(set(runtime.names())) == len(runtime.names())
    assert tuple(run(runtime, images())) == runtime.outputs


@pytest.mark.parametrize("runtime", LAYERS, indirect=True)
def test_inner_tensors_are_those_of_the_eager_layers(runtime: Runtime, toy: Any) -> None:
    batch = images()
    layers = next(layers for form, layers in LAYERS.items() if layers[0][0] in runtime.names())
    runtime.tap([name for name, _ in layers])
    answer = run(runtime, batch)
    for name, layer in layers:
        assert torch.allclose(answer[name], inner(toy.network, layer, batch), atol=1e-5), name
    with torch.no_grad():
        assert torch.allclose(answer[runtime.outputs[0]], toy.network(batch), atol=1e-5)


@pytest.mark.parametrize("runtime", LAYERS, indirect=True)
def test_new_taps_replace_the_old_ones(runtime: Runtime) -> None:
    runtime.probe(images())
    before = runtime.names()
    first = before[0]
    runtime.tap([first, first, runtime.outputs[0]])
    assert tuple(run(runtime, images())) == (*runtime.outputs, first)
    runtime.tap([])
    assert tuple(run(runtime, images())) == runtime.outputs
    assert runtime.names() == before


@pytest.mark.parametrize("runtime", FORMS, indirect=True)
def test_a_deep_copy_answers_alike_and_taps_for_itself(runtime: Runtime) -> None:
    batch = images()
    runtime.probe(batch)
    taps = [name for name in runtime.names() if name not in runtime.outputs][:2]
    runtime.tap(taps)
    expected = run(runtime, batch)
    twin = copy.deepcopy(runtime)
    runtime.tap([])
    answer = run(twin, batch)
    assert tuple(answer) == (*twin.outputs, *taps)
    assert all(torch.equal(answer[name], expected[name]) for name in expected)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "module"], indirect=True)
def test_a_runtime_can_be_sent_to_another_process(runtime: Runtime) -> None:
    batch = images()
    expected = run(runtime, batch)
    answer = run(pickle.loads(pickle.dumps(runtime)), batch)
    assert all(torch.equal(answer[name], expected[name]) for name in expected)


@pytest.mark.parametrize("runtime", LAYERS, indirect=True)
def test_an_unknown_name_is_answered_with_the_nearest(runtime: Runtime) -> None:
    name = next(name for name in runtime.names() if len(name) > 3)
    with pytest.raises(UserError, match=rf"'{name}x'\. ?Did you mean '{name}'\?"):
        runtime.tap([name + "x"])


@pytest.mark.parametrize("runtime", FORMS, indirect=True)
def test_images_that_the_network_does_not_take_are_refused_by_the_probe(runtime: Runtime) -> None:
    with pytest.raises(
        UserError, match=r"cannot run on float32 images of shape \[2, 5, 16, 16\]: ."
    ) as caught:
        runtime.probe(torch.rand(2, 5, 16, 16))
    assert str(runtime.files[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "pt2"], indirect=True)
def test_the_file_says_what_its_input_is(runtime: Runtime) -> None:
    declared = runtime.declared
    assert (declared.size, declared.channels, declared.layout) == ((16, 16), 3, "NCHW")
    assert (declared.dtype, declared.batch) == (torch.float32, None)


@pytest.mark.parametrize("runtime", FORMS, indirect=True)
def test_a_move_to_the_same_device_changes_nothing(runtime: Runtime) -> None:
    batch = images()
    expected = run(runtime, batch)
    answer = run(torch.nn.ModuleList([runtime]).to("cpu")[0], batch)
    assert all(torch.equal(answer[name], expected[name]) for name in expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", FORMS)
def test_the_answer_on_a_gpu_is_the_networks_own(toy: Any, form: str) -> None:
    runtime, batch = toy.open[form](), images()
    if form == "openvino":
        pytest.skip("OpenVINO is used on the CPU")
    if form == "onnx" and "CUDAExecutionProvider" not in onnxruntime_providers():
        pytest.skip("needs onnxruntime-gpu")
    expected = run(runtime, batch)
    runtime.to("cuda")
    for _ in range(2):
        answer = run(runtime, batch.cuda())
        for name, value in expected.items():
            assert answer[name].is_cuda
            assert torch.allclose(answer[name].cpu(), value, atol=1e-2)
    assert torch.allclose(run(runtime.to("cpu"), batch)[name], expected[name], atol=1e-5)


def onnxruntime_providers() -> list[str]:
    import onnxruntime

    return onnxruntime.get_available_providers()


@pytest.mark.parametrize("form", ["onnx", "openvino", "pt2", "trace"])
def test_files_that_are_missing_or_cut_short_are_refused(toy: Any, tmp_path: Any, form: str) -> None:
    runtime = toy.open[form]()
    cut = tmp_path / runtime.files[0].name
    with pytest.raises(UserError, match=f"{cut.name} does not exist"):
        type(runtime)(cut)
    content = runtime.files[0].read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{cut.name} is .*(cut short|truncated)") as caught:
        type(runtime)(cut)
    assert "\n" not in str(caught.value)
