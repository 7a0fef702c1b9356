from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import Classifier, images, save_torchscript, trained
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.runtimes.torchscript_file import TorchScriptRuntime


class Several(nn.Module):
    """TorchScript compiles one type of answer, so each has a class of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Tuple(Several):
    def forward(self, images: Tensor) -> tuple[Tensor, int, Tensor]:
        logits = self.network(images)
        return logits, 3, logits.exp()


class Dict(Several):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.network(images)
        return {"logits": logits, "odds": logits.exp()}


class Number(Several):
    def forward(self, images: Tensor) -> int:
        return 3


def script(folder: Path, network: nn.Module, how: str = "script", **options: Any) -> TorchScriptRuntime:
    return TorchScriptRuntime(save_torchscript(network, folder / "n.pt", how, **options))


def block() -> nn.Module:
    return trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)))


@pytest.mark.parametrize(("wrap", "outputs"), [(Tuple, ("output0", "output2")), (Dict, ("logits", "odds"))])
def test_outputs_are_found_by_the_probe(
    tmp_path: Path, wrap: type[Several], outputs: tuple[str, ...]
) -> None:
    network, batch = block(), images()
    runtime = script(tmp_path, wrap(network).eval())
    assert runtime.names() == []
    runtime.probe(batch)
    assert runtime.outputs == outputs
    assert runtime.names() == list(outputs)
    answer = runtime(batch)
    assert torch.allclose(answer[outputs[0]], network(batch), atol=1e-5)
    assert torch.allclose(answer[outputs[1]], network(batch).exp(), atol=1e-5)


def test_a_network_that_returns_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="n.pt.* int "):
        script(tmp_path, Number(block())).probe(images())


def test_inner_tensors_are_refused_with_the_ways_on(tmp_path: Path) -> None:
    runtime = script(tmp_path, block())
    runtime.probe(images())
    runtime.tap(["output"])
    with pytest.raises(UserError, match=r"'layer1'.*\(output\).*`hints: \[\]`"):
        runtime.tap(["output", "layer1"])


def test_a_script_saved_in_training_mode_is_put_in_evaluation_mode(tmp_path: Path) -> None:
    network, batch = block(), images()
    expected = network(batch)
    runtime = script(tmp_path, network.train())
    assert torch.allclose(runtime(batch)["output"], expected, atol=1e-5)


@pytest.mark.parametrize("part", [nn.BatchNorm2d(3), nn.Dropout(0.1), nn.Dropout2d(0.1)])
def test_a_trace_recorded_in_training_mode_is_refused(tmp_path: Path, part: nn.Module) -> None:
    with pytest.raises(UserError, match=r"training mode.*'\w+' .*model\.eval\(\) before torch\.jit\.trace"):
        script(tmp_path, nn.Sequential(nn.Conv2d(3, 3, 1), part).train(), "trace")


def test_an_instance_normalisation_is_not_taken_for_training(tmp_path: Path) -> None:
    network, batch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3)).eval(), images()
    assert torch.allclose(script(tmp_path, network, "trace")(batch)["output"], network(batch), atol=1e-5)


def test_notes_are_the_extra_files(tmp_path: Path) -> None:
    runtime = script(tmp_path, block(), _extra_files={"classes.json": '["cat"]', "raw": b"\xff\xfe"})
    assert runtime.declared.notes == {"classes.json": '["cat"]'}


def test_a_move_takes_the_weights_along(tmp_path: Path) -> None:
    runtime = script(tmp_path, block()).to("meta")
    assert runtime(images().to("meta"))["output"].device.type == "meta"
    assert not any(part.training for part in runtime.modules())


def test_an_archive_of_weights_is_refused(tmp_path: Path) -> None:
    torch.save(Classifier().state_dict(), tmp_path / "n.pt")
    with pytest.raises(UserError, match="n.pt.* TorchScript") as caught:
        TorchScriptRuntime(tmp_path / "n.pt")
    assert "\n" not in str(caught.value)
