"""Which of some trees learns its teachers' features best: each is trained for a moment by hints alone, from scratch.

FitNets' hints (Romero et al. 2015) speed up the search for an architecture: no head, no label and no answer is needed
to see which sharing fits the teachers' features.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from distill_mtl.networks.stages import Chain, tensors_in
from distill_mtl.students.student import Body
from distill_mtl.training.branching.depths import Depth
from distill_mtl.training.branching.search import Group, TaskTree
from distill_mtl.training.branching.teacher_features import TeacherLayers, on_grid, row_batches

STEPS = 240
ROWS = 64
RATE = 1e-3

Hints = dict[tuple[int, str], Tensor]
"""Depth and task -> features [R, C, h, w], centred and of total variance 1."""


class ProbeTree(nn.Module):
    """A tree of the trunk's stages, with a 1x1 adapter to each task's teacher at each depth behind the first.

    Args:
        trunk: in one piece, its depths' layers tapped; its weights begin every part.
        chain, depths: of it.
        tree: which tasks share what.
        widths: depth and task -> channels of the teacher's features.
    """

    def __init__(
        self,
        trunk: Body,
        chain: Chain,
        depths: Sequence[Depth],
        tree: TaskTree,
        widths: Mapping[tuple[int, str], int],
    ) -> None:
        super().__init__()
        self._trunk, self._chain, self._depths, self._groups = (trunk,), chain, depths, tree.groups
        self.parts = nn.ModuleList(
            nn.ModuleList(chain.cut(trunk.model, depth.start, depth.stop) for _ in groups)
            for depth, groups in zip(depths, tree.groups, strict=True)
        )
        self.adapters = nn.ModuleList(
            nn.Conv2d(depths[k].shape.channels, width, 1) for (k, _), width in widths.items()
        )
        self._places = {place: number for number, place in enumerate(widths)}

    def forward(self, pixels: Tensor) -> Hints:
        """From normalised pixels [R, C, H, W]."""
        states: dict[Group, object] = {tuple(t for group in self._groups[0] for t in group): pixels}
        found: Hints = {}
        for k, groups in enumerate(self._groups):
            before, states = states, {}
            for group, part in zip(groups, cast(nn.ModuleList, self.parts[k]), strict=True):
                given = next(state for parent, state in before.items() if set(group) <= set(parent))
                depth = self._depths[k]
                states[group] = self._chain.run(part, given, depth.start, depth.stop)
                if k:
                    first = next(tensors_in(states[group]))
                    maps = on_grid(self._trunk[0].layout_of(depth.layer)(first), depth.shape)
                    for task in group:
                        found[k, task] = self.adapters[self._places[k, task]](maps)
        return found


def probe(
    trees: Sequence[TaskTree],
    trunk: Body,
    chain: Chain,
    depths: Sequence[Depth],
    teachers: Mapping[str, TeacherLayers],
    fitted: Tensor,
    judged: Tensor,
    device: torch.device,
) -> list[float]:
    """The hint error of each tree in the rows that judge: the share of the teachers' features that it does not give.

    Args:
        trees: to compare.
        trunk, chain, depths: of the student, its random weights on the CPU.
        teachers: by task, on the device.
        fitted, judged: rows, float [R, 3, H, W] in [0, 1].
        device: to train on.
    """
    trunk.tap(tuple(depth.layer for depth in depths))
    hints = _hints(teachers, fitted, judged, device)
    widths = {place: features.shape[1] for place, features in hints[0].items()}
    errors = []
    for tree in trees:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(0)
            net = ProbeTree(trunk, chain, depths, tree, widths).to(device)
            pixels = [trunk.preprocess(rows) for rows in (fitted, judged)]
            _train(net, pixels[0], hints[0], device)
            errors.append(_error(net, pixels[1], hints[1], device))
    return errors


def _train(net: ProbeTree, pixels: Tensor, hints: Hints, device: torch.device) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), RATE, fused=True)
    for step in range(STEPS):
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        rows = torch.randint(len(pixels), (min(ROWS, len(pixels)),))
        given = net(pixels[rows].to(device))
        lost = [
            (features - hints[place][rows].to(device)).pow(2).sum(1).mean()
            for place, features in given.items()
        ]
        optimizer.zero_grad()
        torch.stack(lost).mean().backward()
        optimizer.step()


@torch.no_grad()
def _error(net: ProbeTree, pixels: Tensor, hints: Hints, device: torch.device) -> float:
    net.eval()
    lost, size = dict.fromkeys(hints, 0.0), dict.fromkeys(hints, 0.0)
    for rows in torch.arange(len(pixels)).split(ROWS):
        for place, features in net(pixels[rows].to(device)).items():
            wanted = hints[place][rows].to(device)
            lost[place] += float((features - wanted).pow(2).sum())
            size[place] += float(wanted.pow(2).sum())
    return sum(lost[place] / max(size[place], 1e-12) for place in hints) / len(hints)


def _hints(
    teachers: Mapping[str, TeacherLayers],
    fitted: Tensor,
    judged: Tensor,
    device: torch.device,
) -> tuple[Hints, Hints]:
    """The teachers' features behind the first depth in both kinds of rows, standardised by the first."""
    found: list[Hints] = []
    for rows in (fitted, judged):
        parts: dict[tuple[int, str], list[Tensor]] = {}
        for task, layers in teachers.items():
            with layers.tapped():
                for batch in row_batches(rows, device):
                    for k, features in enumerate(layers.answered(batch).maps):
                        if k:
                            parts.setdefault((k, task), []).append(features.cpu())
        found.append({place: torch.cat(of) for place, of in parts.items()})
    for place in found[0]:
        mean = found[0][place].mean((0, 2, 3), keepdim=True)
        scale = (found[0][place] - mean).pow(2).sum(1).mean().sqrt().clamp(min=1e-12)
        for hints in found:
            hints[place] = (hints[place] - mean) / scale
    return found[0], found[1]
