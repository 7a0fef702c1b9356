"""Which networks of timm can be cut into stages: the smallest of every module, and the table in docs/students.md.

python benchmarks/stages.py                  # the whole table, some minutes
python benchmarks/stages.py resnet eva       # these modules only
"""

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch

from distill_mtl.errors import UserError
from distill_mtl.networks.stages import find_chain

# Networks with two streams, side inputs to their blocks, or code between their layers that is no layer.
NOT_CUT = (
    *(
        "cait",
        "coat",
        "convit",
        "crossvit",
        "efficientvim",
        "hiera",
        "levit",
        "mvitv2",
        "pit",
        "tnt",
        "twins",
    ),
    *("visformer", "volo", "xcit"),
    # Too large to try.
    *(
        "beit",
        "deepseek_vit",
        "gemma4_vit",
        "mobilenetv5",
        "naflexvit",
        "nasnet",
        "pnasnet",
        "qwen3_vit",
        "vgg",
    ),
    "vision_transformer_sam",
)
LARGEST = 80e6
SMALL = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "_xs",
    "tiny",
    "micro",
    "mini",
    "small",
    "_s",
    "b0",
    "18",
)


@dataclass(frozen=True)
class Row:
    """One module of timm: `steps` 0 where its smallest network cannot be cut."""

    module: str
    network: str
    steps: int
    stages: int
    why_not: str = ""


def rows(modules: Sequence[str] = ()) -> Iterator[Row]:
    """The smallest network of every module, or of those named."""
    for module in modules or sorted(timm.list_modules()):
        name = smallest(module)
        if name:
            yield try_one(module, name)


def try_one(module: str, name: str) -> Row:
    """Find the chain of one network with random weights."""
    with torch.device("meta"):
        parameters = sum(value.numel() for value in timm.create_model(name, num_classes=0).parameters())
    if parameters > LARGEST:
        return Row(module, name, 0, 0, f"{parameters / 1e6:.0f} million parameters: not tried")
    model: Any = timm.create_model(name, num_classes=0)
    channels, *made_for = model.pretrained_cfg["input_size"]
    size = made_for if model.pretrained_cfg.get("fixed_input_size") else [min(64, side) for side in made_for]
    for side in (tuple(size), tuple(made_for)):
        try:
            chain = find_chain(model, side, channels, name)
            return Row(module, name, len(chain), len(chain.depths(model)))
        except UserError as error:
            why = str(error)
        except (RuntimeError, AssertionError) as error:  # too small an image for this network
            why = str(error)
    return Row(module, name, 0, 0, why)


@functools.cache
def smallest(module: str) -> str:
    """The network of a module with the fewest parameters among those whose names promise it."""

    def rank(name: str) -> tuple[int, int, str]:
        return next((at for at, word in enumerate(SMALL) if word in name), 99), len(name), name

    sizes: dict[str, int] = {}
    for name in sorted(timm.list_models(module=module), key=rank)[:4]:
        try:
            with torch.device("meta"):
                network = timm.create_model(name, num_classes=0)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            continue
        sizes[name] = sum(value.numel() for value in network.parameters())
    return min(sizes, key=lambda name: sizes[name], default="")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="modules of timm; default: all")
    torch.set_num_threads(1)
    print("| module of timm | network | steps | stages |\n|---|---|---:|---:|")
    cut, behind, total = 0, 0, 0
    for row in rows(parser.parse_args().modules):
        count = len(timm.list_models(module=row.module))
        print(
            f"| {row.module} | {row.network} | {row.steps or '-'} | {row.stages or row.why_not[:60]} |",
            flush=True,
        )
        cut, behind, total = cut + (row.steps > 0), behind + count * (row.steps > 0), total + count
    print(f"\nCut: {cut} modules, with {behind} of {total} architectures.")


if __name__ == "__main__":
    main()
