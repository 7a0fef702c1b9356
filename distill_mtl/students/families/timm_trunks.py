"""Trunks from timm: every architecture that `timm.list_models()` names, with its pretrained weights.

These come from the local cache, else from the hub, else there is an error within seconds: left to itself the hub's
client retries for most of a minute when there is no network.
"""

import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg
from torch import nn

from distill_mtl.errors import StudentError, UserError, brief, nearest
from distill_mtl.machine_memory import refuse_beyond_memory, within_memory
from distill_mtl.networks.inputs import InputContract
from distill_mtl.students.student import FAMILIES, Trunk

PROBE_SECONDS = 5


# What `create_model` takes besides the architecture's own arguments; each would undo what we decide.
_OURS = (
    "checkpoint_path",
    "features_only",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
)


@FAMILIES.register("timm")
class TimmTrunk(Trunk):
    """A timm network without its classifier; layers between last stage and classifier stay in it."""

    family = "timm"

    @classmethod
    def create(
        cls, name: str, args: Mapping[str, Any], size: tuple[int, int] | None, *, pretrained: bool
    ) -> "TimmTrunk":
        known = _known_cfg(name)
        cfg = known.to_dict()
        depth, *made_for = cfg["input_size"]
        args = dict(args)
        given = _pair(args["img_size"]) if "img_size" in args else None
        if given and size and given != size:
            raise StudentError(f"student.input_size is {size}, student.args.img_size {given}. Remove one.")
        size = size or given or (made_for[0], made_for[1])
        if given or (cfg.get("fixed_input_size") and size != tuple(made_for)):
            # Transformers build position tables for one size; timm resamples pretrained ones to it.
            args["img_size"] = list(size)
        model = pretrained_model(name, known, _arguments(args)) if pretrained else cls.build(name, args)
        _refuse_large_images(model, size)
        inputs = InputContract.from_timm({**cfg, "input_size": (args.get("in_chans", depth), *size)})
        return cls(model, inputs, name, args)

    @classmethod
    def build(cls, name: str, args: Mapping[str, Any]) -> nn.Module:
        _refuse_unknown(name)  # a name that reaches out (hf-hub:, local-dir:), too
        try:
            with within_memory(f"student: {name} with args {args}", "Choose a smaller one."):
                model: nn.Module = timm.create_model(name, pretrained=False, **_arguments(args))
        except UserError:
            raise
        # Whatever timm's constructors make of values that nobody gives.
        except Exception as error:
            raise StudentError(
                f"student: timm cannot build {name} with args {args}: {brief(error)}"
            ) from error
        return model


def _refuse_large_images(model: nn.Module, size: tuple[int, int]) -> None:
    """Refuse a size of which a single image is too large: its float pixels, and what the first convolution makes of
    them, once as it is and once normalised or activated."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    made = 0 if first is None else 2 * first.out_channels / math.prod(first.stride)
    height, width = size
    needed = round(4 * height * width * (3 + made))
    refuse_beyond_memory(
        needed, f"student: an image of {height} x {width} pixels", "Choose a smaller `input_size`."
    )


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
        elif not isinstance(cached, str) and (why := why_offline()):
            raise StudentError(_offer(name, f"they are not in the cache, and {why}"))
    try:
        with within_memory(f"student: {name}", "Choose a smaller one."):
            model: nn.Module = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, **args
            )
    except (RuntimeError, OSError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise StudentError(_offer(name, str(error))) from error
    return model


def why_offline() -> str | None:
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


def _arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `create_model` for a trunk."""
    if taken := [key for key in _OURS if key in args]:
        raise StudentError(f"student.args: {taken[0]} follows from tasks and student.init. Remove it.")
    return {**args, "num_classes": 0}


def _known_cfg(name: str) -> PretrainedCfg:
    """timm's pretrained_cfg of an architecture, with or without a tag."""
    _refuse_unknown(name)
    architecture, _, tag = name.partition(".")
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        known = ", ".join(timm.list_models(f"{architecture}.*", pretrained=True)) or "none"
        raise StudentError(
            f"student.model: {architecture} has no weights tagged '{tag}'. Known: {known}."
        ) from None
    return cfg or PretrainedCfg()


def _refuse_unknown(name: str) -> None:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models())
        raise StudentError(f"student.model: timm {timm.__version__} has no model '{architecture}'.{hint}")


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
