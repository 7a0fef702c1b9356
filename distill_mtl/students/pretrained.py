"""timm's pretrained weights: from the local cache, else from the hub, else an error within seconds.

Left to itself the hub's client retries for most of a minute when there is no network.
"""

import urllib.error
import urllib.request
from typing import Any

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg
from torch import nn

from distill_mtl.errors import StudentError

PROBE_SECONDS = 5


def pretrained_model(name: str, cfg: PretrainedCfg, args: dict[str, Any]) -> nn.Module:
    """The network `name`, built with `args`, with the weights that timm's `cfg` of it knows.

    Raises:
        StudentError: timm knows no weights, they do not fit `args`, or they cannot be fetched; the message
            offers the other ways to begin.
    """
    overlay: dict[str, Any] | None = None
    if not cfg.has_weights:
        raise StudentError(_offer(name, "timm has none"))
    if cfg.hf_hub_id:
        cached = try_to_load_from_cache(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors")
        if isinstance(cached, str) and not cfg.custom_load:
            overlay = {"file": cached}
        elif not isinstance(cached, str) and (silence := _hub_silence()):
            raise StudentError(_offer(name, f"they are not in the cache, and {silence}"))
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **args)
    except (RuntimeError, OSError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise StudentError(_offer(name, str(error))) from error
    return model


def _hub_silence() -> str | None:
    """Why the hub cannot be asked; None where it answers, with whatever status."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return f"{constants.ENDPOINT} does not answer ({error})"
    return None


def _offer(name: str, why: str) -> str:
    return (
        f"student.init: the pretrained weights of {name} could not be loaded: {why}. "
        "Begin with `init: teacher:TASK` (the trunk of that task's teacher), a folder or .safetensors file, "
        "or `init: random`."
    )
