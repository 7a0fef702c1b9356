import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import Classifier, save_torchscript, trained
from safetensors.torch import save_file
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.runtimes.own_module import load_checkpoint


@pytest.fixture
def network() -> nn.Module:
    return trained(Classifier())


def equal(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def load(content: Any, folder: Path) -> nn.Module:
    torch.save(content, folder / "n.pth")
    fresh = Classifier()
    load_checkpoint(fresh, folder / "n.pth")
    return fresh


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def optimizer(network: nn.Module) -> dict[str, Any]:
    """An optimizer's state after a step: tensors in mappings, of no network."""
    subject = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 16, 16)).sum().backward()
    subject.step()
    return subject.state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "best": 0.5, "history": [1, 2]},
        lambda state: {"ema": {"module": state, "decay": 0.9}},
        lambda state: prefixed(state, "module."),
        lambda state: {"model_state_dict": prefixed(state, "module._orig_mod.")},
        lambda state: prefixed(state, "net."),
        lambda state: {"model": state, "again": dict(state)},
    ],
)
def test_weights_are_found_wherever_a_training_script_puts_them(
    tmp_path: Path, network: nn.Module, wrap: Any
) -> None:
    assert equal(load(wrap(network.state_dict()), tmp_path), network)


def test_weights_are_told_from_an_optimizers_state(tmp_path: Path, network: nn.Module) -> None:
    state = {key: value.clone() for key, value in network.state_dict().items()}
    loaded = load(
        {"optimizer": optimizer(network), "model": state, "loss": {"weight": torch.ones(3)}}, tmp_path
    )
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_safetensors_may_have_prefixes_too(tmp_path: Path, network: nn.Module) -> None:
    save_file(prefixed(network.state_dict(), "model."), tmp_path / "n.safetensors")
    fresh = Classifier()
    load_checkpoint(fresh, tmp_path / "n.safetensors")
    assert equal(fresh, network)


def test_a_prefix_that_the_network_has_too_stays(tmp_path: Path, network: nn.Module) -> None:
    torch.save({"state_dict": prefixed(network.state_dict(), "module.")}, tmp_path / "n.pth")
    parallel = nn.ModuleDict({"module": Classifier()})
    load_checkpoint(parallel, tmp_path / "n.pth")
    assert equal(parallel["module"], network)


def test_the_weights_that_fit_are_taken_of_several(tmp_path: Path, network: nn.Module) -> None:
    content = {"generator": nn.Linear(2, 2).state_dict(), "classifier": network.state_dict()}
    assert equal(load(content, tmp_path), network)


def test_several_weights_that_fit_are_refused(tmp_path: Path, network: nn.Module) -> None:
    content = {"model": network.state_dict(), "model_ema": Classifier().state_dict()}
    with pytest.raises(UserError, match=r"'model' and 'model_ema'"):
        load(content, tmp_path)


def test_weights_that_fit_nowhere_are_refused_by_the_nearest_place(
    tmp_path: Path, network: nn.Module
) -> None:
    state = prefixed(network.state_dict(), "module.")
    del state["module.bn.weight"]
    with pytest.raises(UserError) as caught:
        load({"a": nn.Linear(2, 2).state_dict(), "b": state}, tmp_path)
    for finding in ("n.pth", "under 'b'", "nearer than 'a'", "'module.'", "missing in the file: bn.weight"):
        assert finding in str(caught.value)
    assert "conv.weight" not in str(caught.value)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"head\.weight .*\[7, 6\].*\[4, 6\]"):
        load(Classifier(classes=7).state_dict(), tmp_path)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(2)], torch.ones(2)])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match=r"n\.pth.* no weights"):
        load(content, tmp_path)


class Planted:
    """A pickle that writes a file when it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


def write_pickle(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("name", ["n.pth", "n.ckpt", "n.safetensors"])
@pytest.mark.parametrize("save", [torch.save, write_pickle])
def test_a_planted_pickle_is_not_run(tmp_path: Path, name: str, save: Any) -> None:
    save({"state_dict": {"weight": Planted(tmp_path / "planted")}}, tmp_path / name)
    with pytest.raises(UserError, match=f"{name} cannot be (opened safely|read)") as caught:
        load_checkpoint(Classifier(), tmp_path / name)
    assert not (tmp_path / "planted").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "asks"),
    [
        ({"state_dict": {}, "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (Classifier(), "deployed.Classifier"),
    ],
)
def test_a_pickle_of_more_than_tensors_is_refused_with_the_way_to_convert_it(
    tmp_path: Path, content: Any, asks: str
) -> None:
    with pytest.raises(UserError, match=rf"{asks}.* run code.*NEW_FILE\)"):
        load(content, tmp_path)


@pytest.mark.filterwarnings("ignore:.torch.load. received a zip file")
def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.pth.* not exist"):
        load_checkpoint(Classifier(), tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pth .*weights: "):
        load_checkpoint(Classifier(), tmp_path / "text.pth")
    torch.save(Classifier().state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:700])
    with pytest.raises(UserError, match=r"cut\.pth .*weights: "):
        load_checkpoint(Classifier(), tmp_path / "cut.pth")
    save_torchscript(Classifier().eval(), tmp_path / "script.pt", "trace")
    with pytest.raises(UserError, match=r"script\.pt .*TorchScript program"):
        load_checkpoint(Classifier(), tmp_path / "script.pt")
