"""A network on the Hugging Face hub: the files of its folder, fetched once, and the folder they are in.

Only config.json, preprocessor_config.json, score.json and weights as safetensors are fetched: a pickle is never
opened.
"""

from pathlib import Path

import timm
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.weights import CONFIG, HUB, SCORE, WEIGHTS

_WANTED = (CONFIG, "preprocessor_config.json", SCORE, "model*.safetensors", "model.safetensors.index.json")


def timm_repository(name: str) -> str:
    """The repository of a pretrained network of timm: "resnet50.a1_in1k" -> "timm/resnet50.a1_in1k".

    Raises:
        UserError: timm has no such network, or no weights of it on the hub.
    """
    if name.startswith(HUB):
        return name.partition(":")[2]
    known = timm.list_pretrained()
    cfg = timm.get_pretrained_cfg(name) if name.split(".")[0] in timm.list_models() else None
    if cfg is None or not cfg.has_weights:
        near = nearest(name, known)
        raise UserError(
            f"timm has no pretrained network '{name}'.{near} To list them: timm.list_pretrained()."
        )
    if not cfg.hf_hub_id:
        raise UserError(
            f"timm's weights of '{name}' are not on the hub but a pickle at {cfg.url}. Load them, save a folder with "
            "timm.models.save_for_hf(model, FOLDER, safe_serialization=True), and name that."
        )
    repository = str(cfg.hf_hub_id)
    return f"{repository}{name}" if repository.endswith("/") else repository


def fetch_folder(repository: str) -> Path:
    """The folder of a network on the hub, from the hub's local cache where it is there already.

    Raises:
        UserError: there is no such repository, no way to the hub, or no safetensors in it.
    """
    repository, _, revision = repository.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hf_hub:{repository} cannot be fetched: {said} Where the hub cannot be reached, fetch it elsewhere "
            f"(`hf download {repository}`), copy the folder here and name that."
        ) from error
    if not any(folder.glob("model*.safetensors")):
        raise UserError(
            f"hf_hub:{repository} has no {WEIGHTS}; its other forms of weights are pickles, which are never opened."
        )
    return folder
