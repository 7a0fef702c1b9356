"""Trunks from timm: every architecture that `timm.list_models()` names."""

from collections.abc import Mapping
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import nn

from distill_mtl.errors import StudentError, nearest
from distill_mtl.networks.inputs import InputContract
from distill_mtl.students.pretrained import pretrained_model
from distill_mtl.students.student import FAMILIES, Trunk

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
        inputs = InputContract.from_timm({**cfg, "input_size": (args.get("in_chans", depth), *size)})
        return cls(model, inputs, name, args)

    @classmethod
    def build(cls, name: str, args: Mapping[str, Any]) -> nn.Module:
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **_arguments(args))
        except (TypeError, ValueError, RuntimeError, KeyError, AssertionError) as error:
            raise StudentError(f"student: timm cannot build {name} with args {args}: {error}") from error
        return model


def _arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `create_model` for a trunk."""
    if taken := [key for key in _OURS if key in args]:
        raise StudentError(f"student.args: {taken[0]} follows from tasks and student.init. Remove it.")
    return {**args, "num_classes": 0}


def _known_cfg(name: str) -> PretrainedCfg:
    """timm's pretrained_cfg of an architecture, with or without a tag."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models())
        raise StudentError(f"student.model: timm {timm.__version__} has no model '{architecture}'.{hint}")
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        known = ", ".join(timm.list_models(f"{architecture}.*", pretrained=True)) or "none"
        raise StudentError(
            f"student.model: {architecture} has no weights tagged '{tag}'. Known: {known}."
        ) from None
    return cfg or PretrainedCfg()


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
