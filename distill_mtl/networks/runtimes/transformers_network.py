"""A network of Hugging Face transformers, from the folder of its `save_pretrained`; needs the extra [transformers].

Its config says the task and the classes, its image processor is the input contract. No code of a repository runs, and
no pickle is opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, brief, nearest
from distill_mtl.extras import extra
from distill_mtl.networks.eager_runtime import LIBRARIES, FoundNetwork, LibraryRuntime
from distill_mtl.networks.hub_repository import fetch_folder
from distill_mtl.networks.processor import Interpolation, contract_of_processor
from distill_mtl.networks.runtime import DeclaredInput
from distill_mtl.networks.weights import CONFIG, HUB, WEIGHTS, pickle_note, read_config
from distill_mtl.reading import read_json, shown
from distill_mtl.recipe.schema import InputSection, TeacherSection

PROCESSOR = "preprocessor_config.json"
_INDEX = "model.safetensors.index.json"
_TASKS = {
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": "AutoModelForImageClassification",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES": "AutoModelForSemanticSegmentation",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES": "AutoModelForDepthEstimation",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES": "AutoModelForObjectDetection",
}
"""Tables of transformers: type of a config -> class of the network that answers such a task; and what builds it."""
_KINDS = {
    "AutoModelForSemanticSegmentation": "segmentation",
    "AutoModelForDepthEstimation": "depth",
    "AutoModelForObjectDetection": "heatmap",
}
_PROBLEMS = {"multi_label_classification": "multilabel", "regression": "regression"}
_MODES: dict[int, Interpolation] = {
    0: "nearest",
    1: "bicubic",
    2: "bilinear",
    3: "bicubic",
    4: "bilinear",
    5: "bilinear",
}
"""PIL's numbers of the ways to resize; of those that torch does not have (lanczos, box, hamming) the nearest."""


@LIBRARIES.register("transformers")
class TransformersRuntime(LibraryRuntime):
    """Layers have the dotted names of the network's modules: `vit.layers.3`, `segformer.encoder.block.2`."""

    words = "a network of transformers"

    def call(self, images: Tensor) -> Any:
        answer = self.network(pixel_values=images)
        # Detectors also return what the boxes of all their layers were, which could be taken for the answer.
        boxes = {key: answer[key] for key in ("logits", "pred_boxes") if key in answer}
        return boxes if len(boxes) == 2 else answer

    @classmethod
    def find(cls, section: TeacherSection) -> FoundNetwork:
        name = str(section.transformers)
        folder = Path(name)
        if not folder.is_dir():
            if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
                raise UserError(
                    f"{name} does not exist. `transformers` names a folder, or `owner/name` on the hub."
                )
            folder = fetch_folder(name.partition(":")[2] if name.startswith(HUB) else name)
        read_config(folder)
        notes = [folder / name for name in (CONFIG, PROCESSOR) if (folder / name).is_file()]
        return FoundNetwork(folder, (*_weights(folder), *notes))

    @classmethod
    def load(cls, section: TeacherSection, found: FoundNetwork) -> "TransformersRuntime":
        library = extra("transformers", "transformers", "a network of transformers")
        folder, config = found.place, read_config(found.place)
        builder = _builder(config, folder)
        _refuse_kernels(config, folder)
        network = _network(getattr(library, builder), folder)
        declared = _declared(library, network.config, builder, folder, verify=section.input == InputSection())
        return cls(network, found.files, declared)


def _weights(folder: Path) -> list[Path]:
    """The file or files of the weights.

    Raises:
        UserError: there are none as safetensors.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / _INDEX).is_file():
        raise UserError(
            f"{folder} has no {WEIGHTS}.{pickle_note(folder)} "
            f"Or save the network again: model.save_pretrained({str(folder)!r})."
        )
    index: dict[str, Any] = read_json(folder / _INDEX, dict[str, Any])
    table = index.get("weight_map")
    names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise UserError(
                f"{folder / _INDEX} names {shown(name)}, which is not a .safetensors file beside it."
            )
    return [folder / name for name in names]


def _builder(config: dict[str, Any], folder: Path) -> str:
    """Name of the class of transformers that builds the network.

    Raises:
        UserError: transformers has no such network, or it answers another kind of task.
    """
    tables = extra("transformers.models.auto.modeling_auto", "transformers", "a network of transformers")
    architectures = config.get("architectures") or [None]
    architecture = str(architectures[0]) if isinstance(architectures, list) else str(architectures)
    known: dict[str, str] = {}
    for table, builder in _TASKS.items():
        for names in dict(getattr(tables, table)).values():
            known |= dict.fromkeys([names] if isinstance(names, str) else names, builder)
    if architecture in known:
        return known[architecture]
    if "auto_map" in config:
        raise UserError(
            f"{folder / CONFIG} names code of its own (`auto_map`), which is not run. Name the network as your own "
            "code: `teacher: {module: 'package.module:callable', weights: ..., trust: true}`."
        )
    raise UserError(
        f"{folder / CONFIG}, architectures: {shown(architecture)} is not a network of transformers for image "
        f"classification, semantic segmentation, depth or objects.{nearest(architecture, known)}"
    )


def _refuse_kernels(config: Any, folder: Path) -> None:
    """Raises UserError: the config names a repository of native code for its attention, which transformers would
    fetch and run."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if key.endswith("attn_implementation") and any("/" in str(one) for one in _values(value)):
            raise UserError(
                f"{folder / CONFIG}, {key}: {shown(value)} is code from a repository, which is not run. Remove the key."
            )
        _refuse_kernels(value, folder)


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


def _network(builder: Any, folder: Path) -> nn.Module:
    """The network, every weight of which comes from the files."""
    try:
        with _quiet():
            network, notes = builder.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    # Whatever the library makes of a config or weights that it did not write.
    except Exception as error:
        mismatched = "mismatched" in str(
            error
        )  # the library's own text points to a table that is not shown here
        why = "the weights have other shapes than its config.json says" if mismatched else brief(error)
        raise UserError(f"transformers cannot open {folder}: {why}.") from error
    missing = [*notes["missing_keys"], *(entry[0] for entry in notes["mismatched_keys"])]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"the weights of {folder} lack {', '.join(sorted(missing)[:3])}{more}, which would be random. Fetch or "
            "save the network again; a network that was trained without its head cannot teach."
        )
    return network


def _declared(library: Any, config: Any, builder: str, folder: Path, *, verify: bool) -> DeclaredInput:
    kind = _KINDS.get(builder) or _PROBLEMS.get(config.problem_type, "classification")
    side = getattr(config, "image_size", None)
    size = (side, side) if isinstance(side, int) else tuple(side) if side and len(side) == 2 else None
    contract = _contract(library, folder, dense=builder in _KINDS, verify=verify)
    names = dict(sorted(config.id2label.items())) if kind != "depth" else {}
    # transformers' own names of classes that have none.
    numbered = all(name == f"LABEL_{number}" for number, name in names.items())
    return DeclaredInput(
        size=size,
        channels=getattr(config, "num_channels", 3),
        contract=contract,
        kind=kind,
        classes=None if numbered else tuple(map(str, names.values())),
    )


def _contract(library: Any, folder: Path, *, dense: bool, verify: bool) -> dict[str, Any]:
    """What the image processor says; empty where the folder has none.

    Args:
        library: transformers.
        folder: of the network.
        dense, verify: as of `contract_of_processor`; without `verify` nothing is said by a processor that cannot be
            run, or that no contract describes.
    """
    if not (folder / PROCESSOR).is_file():
        return {}
    try:
        with _quiet():
            processor = library.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )

        def process(picture: Tensor) -> Tensor:
            pixels: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"][0]
            return pixels

        resample = getattr(processor, "resample", None) if getattr(processor, "do_resize", True) else None
        mode = "bilinear" if resample is None else _MODES.get(int(resample), "bicubic")
        name = f"{folder / PROCESSOR} ({type(processor).__name__})"
        return contract_of_processor(process, mode, name, dense=dense, verify=verify)
    # Whatever the library makes of a file that it did not write.
    except Exception as error:
        if not verify:
            return {}
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"transformers cannot run the image processor of {folder / PROCESSOR}: {brief(error)}. Correct the file, "
            "or give the network `input: {size: ..., mean: ..., std: ...}`."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and warnings: what matters of them becomes an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
