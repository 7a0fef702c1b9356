"""A network that answers as it did in training, by the statistics of the batch: the commonest mistake of all."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import colors
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distill_mtl.errors import TeacherError

CODE = """
from torch import nn

def network():
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), head)
"""


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
    )


def exported(path: Path) -> None:
    free = {0: torch.export.Dim("batch")}
    program = torch.export.export(network().train(), (torch.rand(4, 3, 8, 8),), dynamic_shapes=(free,))
    torch.export.save(program, path)


def traced(path: Path) -> None:
    torch.jit.trace(network().train(), torch.rand(4, 3, 8, 8), check_trace=False).save(str(path))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("save", "name"), [(exported, "net.pt2"), (traced, "net.ts")])
def test_a_file_saved_while_training_is_refused_before_it_is_measured(
    world: Path, tmp_path: Path, save: Callable[[Path], None], name: str
) -> None:
    save(tmp_path / name)
    teacher = colors.line(tmp_path / name, trust=True, input={"size": 8})
    with pytest.raises(TeacherError, match=rf"{name}.*model\.eval\(\)"):
        colors.check(world, teacher)


def test_code_that_normalises_by_the_batch_is_named_by_the_check(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mode of the network's undoes it: its norms have no running statistics."""
    (tmp_path / "by_the_batch.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    save_file(import_module("by_the_batch").network().state_dict(), tmp_path / "w.safetensors")
    teacher = (
        "{module: 'by_the_batch:network', weights: w.safetensors, trust: true, expect: 0, input: {size: 8}}"
    )
    with pytest.raises(TeacherError, match=r"batch.*model\.eval\(\)"):
        colors.check(world, teacher)
