import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import images

from distill_mtl.errors import UserError
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtime import normalisation
from distill_mtl.networks.runtimes.openvino_file import OpenVinoRuntime, core
from distill_mtl.teachers.load_teacher import teacher_of

openvino = pytest.importorskip("openvino")


def model_of(toy: Any) -> Any:
    return core().read_model(toy.folder / "network.xml")


def saved(model: Any, path: Path) -> Path:
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def test_both_files_count_and_the_graph_alone_is_refused(toy: Any, tmp_path: Path) -> None:
    path = saved(model_of(toy), tmp_path / "n.xml")
    assert OpenVinoRuntime(path).files == (path, tmp_path / "n.bin")
    (tmp_path / "n.bin").unlink()
    with pytest.raises(UserError, match=r"n\.xml .*n\.bin, are not beside it"):
        OpenVinoRuntime(path)


def test_a_fixed_batch_is_declared_and_every_number_of_rows_answered(toy: Any, tmp_path: Path) -> None:
    model = model_of(toy)
    model.reshape([2, 3, 16, 16])
    network = open_network(saved(model, tmp_path / "n.xml"))
    assert network.inputs.batch == 2
    batch = images(3)
    with torch.no_grad():
        expected = toy.network(network.head("n").preprocess(batch))
    assert torch.allclose(network.head("n")(batch)["logits"], expected, atol=1e-5)


def test_preprocessing_inside_the_graph_takes_bytes_with_channels_last(toy: Any, tmp_path: Path) -> None:
    steps = openvino.preprocess.PrePostProcessor(model_of(toy))
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    network = open_network(saved(steps.build(), tmp_path / "n.xml"))
    assert (network.inputs.layout, network.inputs.dtype, network.inputs.size) == ("nhwc", "uint8", (16, 16))
    batch = (images(2) * 255).round() / 255
    with torch.no_grad():
        assert torch.allclose(network.head("n")(batch)["logits"], toy.network(batch), atol=1e-4)


def test_what_model_api_wrote_down_is_the_contract(toy: Any, tmp_path: Path) -> None:
    model = model_of(toy)
    for key, value in {
        "labels": "cat dog owl fox",
        "mean_values": "127.5 127.5 127.5",
        "scale_values": "64 64 64",
    }.items():
        model.set_rt_info(value, ["model_info", key])
    teacher = teacher_of(open_network(saved(model, tmp_path / "n.xml")), "n", layers=[None])
    inputs = teacher.card.inputs
    assert (inputs.white, inputs.mean, inputs.std) == (255.0, (127.5,) * 3, (64.0,) * 3)
    assert (teacher.card.classes, teacher.card.assumed) == (("cat", "dog", "owl", "fox"), ("channels",))


def test_one_number_of_model_api_stands_for_all_channels_and_what_makes_no_contract_is_assumed(
    toy: Any, tmp_path: Path
) -> None:
    """Ultralytics writes one scale, and a list."""
    model = model_of(toy)
    model.set_rt_info([255.0], ["model_info", "scale_values"])
    network = open_network(saved(model, tmp_path / "n.xml"))
    assert (network.inputs.mean, network.inputs.std) == ((0.0,) * 3, (255.0,) * 3)
    model.set_rt_info("0 0 0", ["model_info", "scale_values"])
    assert "std" in open_network(saved(model, tmp_path / "zero.xml")).assumed
    assert normalisation([127.5], [], 1) == {"white": 255.0, "mean": [127.5], "std": [1.0]}


def test_the_parameters_are_its_floats(toy: Any) -> None:
    learned = sum(parameter.numel() for parameter in toy.network.parameters())
    assert toy.open["openvino"]().parameter_count == pytest.approx(learned, abs=12)


def test_it_works_with_as_many_threads_as_torch_and_in_full_precision(toy: Any) -> None:
    runtime = toy.open["openvino"]()
    runtime(images())
    compiled = runtime._session.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_it_stays_on_the_cpu(toy: Any) -> None:
    with pytest.raises(UserError, match=r"OpenVINO is used on the CPU, not on meta.*`teacher\.device: cpu`"):
        toy.open["openvino"]().to("meta")


def test_the_missing_package_is_named_with_its_extra(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino: pip install 'distill_mtl\[openvino\]'"):
        OpenVinoRuntime(toy.folder / "network.xml")


SIGNALLED = """
import faulthandler, os, signal, sys
from pathlib import Path

import torch

from distill_mtl.networks.runtimes.openvino_file import OpenVinoRuntime

faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: None)
images = torch.rand(1, 3, 16, 16)
networks = [OpenVinoRuntime(Path(sys.argv[1])) for _ in range(3)]
for network in networks:
    network(images)
del network
while networks:
    del networks[0]
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_survives_signals_when_several_networks_are_gone(toy: Any) -> None:
    path = toy.folder / "network.xml"
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
