"""A network of segmentation-models-pytorch, from the folder of its `save_pretrained`; needs the extra [smp]."""

from pathlib import Path
from typing import Any

import timm
from huggingface_hub import try_to_load_from_cache

from distill_mtl.errors import UserError, brief, nearest
from distill_mtl.extras import extra
from distill_mtl.networks.eager_runtime import LIBRARIES, FoundNetwork, LibraryRuntime
from distill_mtl.networks.hub_repository import fetch_folder
from distill_mtl.networks.runtime import DeclaredInput
from distill_mtl.networks.weights import CONFIG, HUB, WEIGHTS, load_exactly, read_config, read_weights
from distill_mtl.reading import read_json
from distill_mtl.recipe.schema import TeacherSection

_PACKAGE = "segmentation_models_pytorch"


@LIBRARIES.register("smp")
class SmpRuntime(LibraryRuntime):
    """Layers have the dotted names of the network's modules: `encoder.layer4`, `decoder.blocks.2`."""

    words = "a network of segmentation-models-pytorch"

    @classmethod
    def find(cls, section: TeacherSection) -> FoundNetwork:
        name = str(section.smp)
        folder = Path(name)
        if not folder.is_dir():
            if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
                raise UserError(f"{name} does not exist. `smp` names a folder, or `owner/name` on the hub.")
            folder = fetch_folder(name.partition(":")[2] if name.startswith(HUB) else name)
        return FoundNetwork(folder, (folder / WEIGHTS, folder / CONFIG))

    @classmethod
    def load(cls, section: TeacherSection, found: FoundNetwork) -> "SmpRuntime":
        library = extra(_PACKAGE, "smp", "a network of segmentation-models-pytorch")
        folder = found.place
        state, config = read_weights(folder), read_config(folder)
        name = config.get("_model_class")
        known = {entry.__name__: entry for entry in library.MODEL_ARCHITECTURES_MAPPING.values()}
        if name not in known:
            raise UserError(
                f"{folder / CONFIG}, _model_class: segmentation-models-pytorch has no {name!r}."
                f"{nearest(str(name), known)} It has {', '.join(known)}."
            )
        said = {key: value for key, value in config.items() if not key.startswith("_")}
        try:
            network = known[name](**{**said, "encoder_weights": None})
        # Whatever the library makes of a config that it did not write.
        except Exception as error:
            raise UserError(f"segmentation-models-pytorch cannot build {folder}: {brief(error)}.") from error
        load_exactly(network, state, str(folder))
        declared = DeclaredInput(
            channels=said.get("in_channels", 3), kind="segmentation", contract=_statistics(library, said)
        )
        return cls(network, found.files, declared)


def _statistics(library: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Mean, std, range and order of the colours that the encoder's first weights were trained with.

    They lie on the hub, and count where they are in its cache already, or timm knows them; else they are not known.
    """
    encoder, weights = str(config.get("encoder_name")), config.get("encoder_weights") or "imagenet"
    cfg = timm.get_pretrained_cfg(encoder[3:]) if timm.is_model_pretrained(encoder[3:]) else None
    if encoder.startswith("tu-") and cfg is not None:
        said: dict[str, Any] = {"mean": cfg.mean, "std": cfg.std}
    else:
        settings = library.encoders.encoders.get(encoder, {}).get("pretrained_settings", {}).get(weights, {})
        if "repo_id" not in settings:
            return {}
        file = try_to_load_from_cache(settings["repo_id"], CONFIG, revision=settings["revision"])
        if not isinstance(file, str):
            return {}
        said = read_json(Path(file), dict[str, Any])
    if config.get("in_channels", 3) != 3 or len(said.get("mean", ())) != 3:
        return {}
    white = float(max(said.get("input_range", (0, 1))))
    return {
        "mean": [float(value) for value in said["mean"]],
        "std": [float(value) for value in said["std"]],
        "white": white,
        "channels": str(said.get("input_space", "RGB")).lower(),
    }
