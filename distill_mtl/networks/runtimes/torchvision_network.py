"""A network of torchvision, whose weights enum is its contract: `resnet50.IMAGENET1K_V2`.

The weights are those of the enum, or a state dict of the user's that was trained from them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import nn

from distill_mtl.errors import UserError, brief, nearest
from distill_mtl.networks.eager_runtime import LIBRARIES, FoundNetwork, LibraryRuntime
from distill_mtl.networks.processor import contract_of_processor
from distill_mtl.networks.runtime import DeclaredInput
from distill_mtl.networks.runtimes.own_module import load_checkpoint
from distill_mtl.recipe.schema import InputSection, TeacherSection

_AS_RELEASED = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}
"""What torchvision's builders set where they load released weights."""
_OTHERS = {
    ".video": "answers for videos",
    ".optical_flow": "compares two pictures",
    ".quantization": "is quantised",
}
"""Parts of torchvision.models whose networks are of another kind."""


@LIBRARIES.register("torchvision")
class TorchvisionRuntime(LibraryRuntime):
    """Layers have the dotted names of the network's modules: `layer4`, `backbone.layer3`."""

    words = "a network of torchvision"

    @classmethod
    def find(cls, section: TeacherSection) -> FoundNetwork:
        name, enum = _named(str(section.torchvision))
        if section.weights is not None:
            file = Path(section.weights)
            if not file.is_file():
                raise UserError(f"{file} does not exist. `weights` names the state dict of `torchvision`.")
        elif enum is None:
            raise UserError(
                f"`torchvision: {name}` names no weights. Add them: `torchvision: {name}.{_enums(name)[0].name}`, or "
                "`weights:` with a state dict."
            )
        else:
            file = _fetched(enum)
        return FoundNetwork(file, (file,))

    @classmethod
    def load(cls, section: TeacherSection, found: FoundNetwork) -> "TorchvisionRuntime":
        name, enum = _named(str(section.torchvision))
        network = _build(name, enum, section.args)
        load_checkpoint(network, found.place)
        if _is_detector(name):
            declared = _declared_boxes(network, enum, section.args)
        else:
            declared = _declared(name, enum, section.args, verify=section.input == InputSection())
        return cls(network, found.files, declared)


def _named(text: str) -> tuple[str, Any]:
    """Name of the network and its weights enum; None where none is named.

    Raises:
        UserError: torchvision has no such network or weights, or it is for videos.
    """
    from torchvision.models import get_model_weights, list_models

    name, _, weights = text.partition(".")
    known = list_models()
    if name not in known:
        raise UserError(f"torchvision has no network '{name}'.{nearest(name, known)}")
    module = get_model_weights(name).__module__
    for part, what in _OTHERS.items():
        if part in module:
            raise UserError(
                f"torchvision's {name} {what}, which is not read here. Name a classifier, a segmenter or a detector."
            )
    if not weights:
        return name, None
    enums = {entry.name: entry for entry in _enums(name)}
    if weights == "DEFAULT":
        return name, get_model_weights(name).DEFAULT
    if weights not in enums:
        raise UserError(
            f"torchvision's {name} has no weights '{weights}'.{nearest(weights, enums)} It has {', '.join(enums)}."
        )
    return name, enums[weights]


def _enums(name: str) -> Any:
    from torchvision.models import get_model_weights

    return list(get_model_weights(name))


def _fetched(enum: Any) -> Path:
    """The file of released weights, from torch's cache where it is there already."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / os.path.basename(urlparse(enum.url).path)
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            digest = torch.hub.HASH_REGEX.search(file.name)
            torch.hub.download_url_to_file(enum.url, str(file), digest and digest.group(1), progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"{enum} cannot be fetched: {brief(error)}. Where {urlparse(enum.url).netloc} cannot be reached, fetch "
                f"{enum.url} elsewhere and name the file: `weights: {file.name}`."
            ) from error
    return file


def _build(name: str, enum: Any, args: Mapping[str, Any]) -> nn.Module:
    """The network, with random weights."""
    from torchvision.models import get_model

    said: dict[str, Any] = dict(_AS_RELEASED.get(name, {})) if enum is not None else {}
    if enum is not None and "categories" in enum.meta:
        said["num_classes"] = len(enum.meta["categories"])
    if _is_dense(name) or _is_detector(name):
        said |= {"weights_backbone": None}
    if _is_dense(name):
        # Released segmenters have the auxiliary head of their training.
        said |= {"aux_loss": True} if enum is not None and not name.startswith("lraspp") else {}
    try:
        network: nn.Module = get_model(name, weights=None, **{**said, **args})
    # Whatever torchvision's builders make of arguments that they do not know.
    except Exception as error:
        raise UserError(f"torchvision's {name} cannot be built with {dict(args)}: {brief(error)}.") from error
    return network


def _is_dense(name: str) -> bool:
    from torchvision.models import segmentation

    return hasattr(segmentation, name)


def _is_detector(name: str) -> bool:
    from torchvision.models import detection

    return hasattr(detection, name)


def _declared(name: str, enum: Any, args: Mapping[str, Any], *, verify: bool) -> DeclaredInput:
    """What the enum says; without one its transforms are not known."""
    dense = _is_dense(name)
    kind = "segmentation" if dense else "classification"
    if enum is None:
        return DeclaredInput(kind=kind)
    transform = enum.transforms()
    mode = transform.interpolation.value
    contract = contract_of_processor(
        transform,
        mode if mode in ("nearest", "bilinear", "bicubic") else "bicubic",
        str(enum),
        dense=dense,
        verify=verify,
    )
    classes = tuple(enum.meta.get("categories", ()))
    same = args.get("num_classes", len(classes)) == len(classes)
    return DeclaredInput(contract=contract, kind=kind, classes=classes if same and classes else None)


def _declared_boxes(network: Any, enum: Any, args: Mapping[str, Any]) -> DeclaredInput:
    """Detectors resize and normalise by themselves; their labels count the background, which is no class."""
    own = network.transform
    size = own.fixed_size[::-1] if own.fixed_size is not None else (own.min_size[-1],) * 2
    contract = {"size": size, "mean": (0.0,) * 3, "std": (1.0,) * 3, "white": 1.0, "channels": "rgb"}
    named = (
        list(enum.meta.get("categories", ()))[1:] if enum is not None and "num_classes" not in args else []
    )
    # COCO's numbers have gaps, which are all called N/A.
    classes = tuple(name if name != "N/A" else f"N/A {number}" for number, name in enumerate(named, start=1))
    return DeclaredInput(contract=contract, kind="heatmap", classes=classes or None)
