import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from deployed import Classifier, images, inner, trained
from safetensors.torch import save_file
from torch import nn

from distill_mtl.errors import UserError
from distill_mtl.networks.runtimes.own_module import ModuleRuntime

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
    def forward(self, images):
        return self.conv(images)

def fail():
    raise ValueError("no such size")

def number():
    return 3

def leave():
    raise SystemExit("usage: train.py DATA")

built = Net()
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's project, as the working directory; gives the weights in it."""
    (tmp_path / "userpkg").mkdir()
    (tmp_path / "userpkg" / "__init__.py").touch()
    (tmp_path / "userpkg" / "models.py").write_text(SOURCE)
    (tmp_path / "userscript.py").write_text("import sys\nsys.exit('usage: data')\n")
    (tmp_path / "userneeds.py").write_text("import a_package_that_is_missing\n")
    save_file({"conv.weight": torch.rand(5, 3, 3, 3), "conv.bias": torch.rand(5)}, tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    # As in the installed command, whose sys.path does not begin with the working directory.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path / "w.safetensors"
    for name in [name for name in sys.modules if name.startswith("user")]:
        del sys.modules[name]


def test_code_in_the_working_directory_is_found_and_sys_path_left_alone(weights: Path) -> None:
    before = list(sys.path)
    runtime = ModuleRuntime("userpkg.models:Net", {"width": 5}, weights)
    assert sys.path == before
    assert runtime.files == (weights, weights.parent / "userpkg" / "models.py")
    assert runtime.names() == ["conv"]
    answer = runtime(torch.rand(2, 3, 8, 8))
    assert answer["output"].shape == (2, 5, 6, 6)
    assert runtime.names() == ["conv", "output"]


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("userpkg.models", "'userpkg.models'.*`package.module:callable`"),
        (":Net", "':Net'.*`package.module:callable`"),
        ("userpkg.modelz:Net", "'userpkg.modelz'.*PYTHONPATH"),
        ("nowhere.models:Net", "'nowhere'.* nowhere.models"),
        ("userneeds:Net", "userneeds.*'a_package_that_is_missing'"),
        ("userscript:Net", "userscript.*SystemExit: usage: data"),
        ("userpkg.models:Nett", r"models\.py\) has no 'Nett'\. Did you mean 'Net'\?"),
        ("userpkg.models:built", r"userpkg\.models:built .*\ba Net\b"),
        ("userpkg.models:fail", r"userpkg\.models:fail\(\).*ValueError: no such size"),
        ("userpkg.models:leave", r"userpkg\.models:leave\(\).*SystemExit: usage"),
        ("userpkg.models:number", r"number\(\).* int\b.*torch\.nn\.Module"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(weights: Path, spec: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        ModuleRuntime(spec, {}, weights)


def test_arguments_that_the_callable_does_not_take_are_shown(weights: Path) -> None:
    with pytest.raises(UserError, match=r"Net\(wings=2\).*TypeError: .*wings"):
        ModuleRuntime("userpkg.models:Net", {"wings": 2}, weights)


def test_weights_of_other_arguments_are_refused(weights: Path) -> None:
    with pytest.raises(UserError, match=r"w\.safetensors[\s\S]*conv\.weight.*\[5, 3"):
        ModuleRuntime("userpkg.models:Net", {"width": 6}, weights)


@pytest.mark.parametrize(
    ("returns", "outputs"), [("tuple", ("output0", "output1")), ("dict", ("logits", "features"))]
)
def test_outputs_are_named_by_what_forward_returns(
    tmp_path: Path, returns: str, outputs: tuple[str, ...]
) -> None:
    network, batch = trained(Classifier(returns=returns)), images()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    runtime = ModuleRuntime("deployed:Classifier", {"returns": returns}, tmp_path / "w.pth")
    runtime.probe(batch)
    assert runtime.outputs == outputs
    runtime.tap(["bn", outputs[1]])
    answer = runtime(batch)
    assert tuple(answer) == (*outputs, "bn")
    assert torch.equal(answer[outputs[1]], inner(network, "act", batch))
    assert torch.equal(answer["bn"], inner(network, "bn", batch))


def test_a_returned_tensor_comes_before_a_layer_of_its_name(tmp_path: Path) -> None:
    network = nn.Sequential()
    network.add_module("output", nn.Conv2d(3, 2, 1))
    network.add_module("end", nn.Sigmoid())
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    sys.modules["usermade"] = type(sys)("usermade")
    sys.modules["usermade"].__file__ = __file__
    sys.modules["usermade"].make = lambda: network  # type: ignore[attr-defined]
    runtime = ModuleRuntime("usermade:make", {}, tmp_path / "w.safetensors")
    del sys.modules["usermade"]
    batch = images()
    runtime.tap(["output"])
    assert torch.equal(runtime(batch)["output"], network(batch))


def test_what_timm_says_of_the_input_is_declared(tmp_path: Path) -> None:
    args = {
        "model_name": "test_resnet",
        "num_classes": 2,
        "pretrained_cfg_overlay": {"input_size": (3, 48, 40)},
    }
    save_file(timm.create_model(**args).state_dict(), tmp_path / "w.safetensors")
    declared = ModuleRuntime("timm:create_model", args, tmp_path / "w.safetensors").declared
    assert (declared.size, declared.channels) == ((48, 40), 3)
    assert (declared.layout, declared.dtype, declared.batch) == (None, None, None)
