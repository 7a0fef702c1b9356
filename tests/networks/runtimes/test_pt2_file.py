import copy
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import Classifier, images, inner, save_exported, trained
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.runtimes.pt2_file import ExportedRuntime


def export(folder: Path, network: nn.Module, **options: Any) -> ExportedRuntime:
    return ExportedRuntime(save_exported(network, folder / "n.pt2", **options))


class Wrapped(nn.Module):
    """Any function of images as a network."""

    def __init__(self, function: Any, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images, *self.parts)


def test_outputs_have_the_names_of_their_nodes(tmp_path: Path) -> None:
    runtime = export(tmp_path, trained(Classifier(returns="tuple")))
    assert runtime.outputs == ("linear", "relu_")


def test_outputs_in_a_dict_have_its_keys(tmp_path: Path) -> None:
    network, batch = trained(Classifier(returns="dict")), images()
    runtime = export(tmp_path, network)
    assert runtime.outputs == ("logits", "features")
    runtime.tap(["features", "linear"])
    answer = runtime(batch)
    assert list(answer) == ["logits", "features", "linear"]
    assert torch.equal(answer["logits"], answer["linear"])
    assert torch.allclose(answer["features"], inner(network, "act", batch), atol=1e-5)


def test_dicts_within_dicts_have_dotted_names_and_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    network = Wrapped(lambda x: {"a": {"b": x + 1, "count": 3}, "c": x * 2, "d": None})
    assert export(tmp_path, network).outputs == ("a.b", "c")


def test_a_tap_holds_what_the_operation_gave_although_views_of_it_are_written_to(tmp_path: Path) -> None:
    def write_into_a_view(x: Tensor) -> Tensor:
        doubled = x * 2
        doubled.flatten(1)[:, 0].zero_()
        return doubled.sum((1, 2, 3))

    runtime, batch = export(tmp_path, Wrapped(write_into_a_view)), images()
    runtime.tap(["mul"])
    answer = runtime(batch)
    assert torch.equal(answer["mul"], batch * 2)
    assert torch.allclose(answer[runtime.outputs[0]], write_into_a_view(batch), atol=1e-4)


def test_what_the_graph_makes_of_weights_alone_has_no_name(tmp_path: Path) -> None:
    network = Wrapped(lambda x, conv: nn.functional.conv2d(x, conv.weight * 2), nn.Conv2d(3, 4, 3))
    assert export(tmp_path, network).names() == ["conv2d"]


def test_a_program_that_counts_its_calls_goes_on_counting(tmp_path: Path) -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.calls.add_(1)
            return images.mean((1, 2, 3)) + self.calls

    for decompose in (False, True):
        batch = images(2)
        program = torch.export.export(Counting(), (batch,))
        torch.export.save(program.run_decompositions() if decompose else program, tmp_path / "n.pt2")
        runtime = ExportedRuntime(tmp_path / "n.pt2")
        runtime.tap(["mean"])
        for calls in (1, 2):
            answer = runtime(batch)
            assert torch.allclose(answer["mean"], batch.mean((1, 2, 3)))
            assert torch.allclose(answer[runtime.outputs[0]], answer["mean"] + calls)


def test_regions_with_a_graph_of_their_own_run_and_move(tmp_path: Path) -> None:
    def region(x: Tensor) -> Tensor:
        with torch.no_grad():
            x = x + torch.arange(16, device=x.device)
        return x.mean((2, 3))

    runtime, batch = export(tmp_path, Wrapped(region)), images()
    assert any("wrap_with_set_grad" in str(node.target) for node in runtime.network.graph.nodes)
    twin = copy.deepcopy(runtime).to("meta")
    assert torch.allclose(runtime(batch)[runtime.outputs[0]], region(batch), atol=1e-5)
    assert twin(batch.to("meta"))[twin.outputs[0]].device.type == "meta"


def test_a_decomposed_program_runs_too(tmp_path: Path) -> None:
    network, batch = trained(Classifier()), images(2)
    program = torch.export.export(network, (batch,)).run_decompositions()
    torch.export.save(program, tmp_path / "n.pt2")
    runtime = ExportedRuntime(tmp_path / "n.pt2")
    runtime.tap(["relu"])
    answer = runtime(batch)
    assert torch.allclose(answer["addmm"], network(batch), atol=1e-5)
    assert torch.allclose(answer["relu"], inner(network, "act", batch), atol=1e-5)


def test_a_fixed_batch_is_declared_and_holds(tmp_path: Path) -> None:
    network = trained(Classifier())
    runtime = export(tmp_path, network, fixed=True)
    assert runtime.declared.batch == 2
    batch = images(2)
    assert torch.allclose(runtime(batch)["linear"], network(batch), atol=1e-5)
    with pytest.raises(UserError, match=r"shape \[3, 3, 16, 16\]: Guard failed"):
        copy.deepcopy(runtime).probe(images(3))


def test_channels_last_and_bytes_are_declared(tmp_path: Path) -> None:
    program = torch.export.export(
        Wrapped(lambda x: x.float().mean((1, 2))), (torch.zeros(2, 9, 7, 3).byte(),)
    )
    torch.export.save(program, tmp_path / "n.pt2")
    declared = ExportedRuntime(tmp_path / "n.pt2").declared
    assert (declared.size, declared.channels, declared.layout) == ((9, 7), 3, "NHWC")
    assert declared.dtype == torch.uint8


def test_notes_are_the_extra_files(tmp_path: Path) -> None:
    extra = {"classes.json": '["cat", "owl"]', "deep/note.txt": "größer"}
    runtime = export(tmp_path, trained(Classifier()), extra_files=extra)
    assert runtime.declared.notes == extra


def test_a_move_reaches_tensors_that_the_graph_makes(tmp_path: Path) -> None:
    def count(x: Tensor, conv: nn.Module) -> Tensor:
        numbers = torch.arange(14, device=x.device).to(x.device)
        return conv(x) + numbers + torch.tensor(0.5)

    runtime = export(tmp_path, Wrapped(count, nn.Conv2d(3, 4, 3)))
    runtime.tap(["conv2d"])
    answer = runtime.to("meta")(images().to("meta"))
    assert {value.device.type for value in answer.values()} == {"meta"}


@pytest.mark.parametrize(
    ("part", "decomposed", "operation"),
    [
        (nn.BatchNorm2d(3), False, "batch_norm"),
        (nn.BatchNorm2d(3), True, "batch_norm"),
        (nn.Dropout(0.1), False, "dropout"),
        (nn.Dropout(0.1), True, "dropout"),
        (nn.Dropout2d(0.1), False, "dropout"),
    ],
)
def test_a_program_exported_in_training_mode_is_refused(
    tmp_path: Path, part: nn.Module, decomposed: bool, operation: str
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), part).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (images(2),))
        torch.export.save(program.run_decompositions() if decomposed else program, tmp_path / "n.pt2")
    with pytest.raises(UserError, match=rf"training mode.*'\w*{operation}\w*' .*model\.eval\(\)"):
        ExportedRuntime(tmp_path / "n.pt2")


def test_an_instance_normalisation_is_not_taken_for_training(tmp_path: Path) -> None:
    network, batch = (
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3), nn.Dropout(0.0)).eval(),
        images(2),
    )
    runtime = export(tmp_path, network)
    assert torch.allclose(next(iter(runtime(batch).values())), network(batch), atol=1e-5)


def test_a_program_of_several_inputs_is_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor, mask: Tensor) -> Tensor:
            return images * mask

    torch.export.save(torch.export.export(Two(), (images(2), images(2))), tmp_path / "n.pt2")
    with pytest.raises(UserError, match=r"\.pt2 .*inputs images, mask;"):
        ExportedRuntime(tmp_path / "n.pt2")


def test_an_archive_without_a_program_is_refused_with_the_cause_and_no_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "n.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("n/data.txt", "nothing")
    with pytest.raises(UserError, match=r"n\.pt2.*exported program: .+"):
        ExportedRuntime(path)
    assert not caplog.records
    assert "Traceback" not in capfd.readouterr().err


def test_a_program_of_another_version_is_refused_with_the_cause(tmp_path: Path) -> None:
    path = save_exported(Classifier().eval(), tmp_path / "old.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "n.pt2", "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            new.writestr(entry, content.replace(b"aten.conv2d", b"aten.conv9d"))
    with pytest.raises(UserError, match=r"exported program: .*conv9d"):
        ExportedRuntime(tmp_path / "n.pt2")
