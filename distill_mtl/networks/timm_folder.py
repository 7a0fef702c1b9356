"""A classifier in timm's local-dir form: config.json and model.safetensors, as `timm.models.save_for_hf`
writes them and as `timm.create_model("local-dir:FOLDER", pretrained=True)` reads them.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, NotRequired

import timm
from pydantic import ConfigDict, Field, FiniteFloat, PositiveInt
from typing_extensions import TypedDict

from distill_mtl.errors import UserError, brief, nearest
from distill_mtl.networks.backbone import LOGITS, POOLED, Backbone
from distill_mtl.networks.checkpoint_names import fitting
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.network import EMBEDDING, Network, NetworkFiles, TaskOutput
from distill_mtl.networks.task_network import BackboneNetwork
from distill_mtl.networks.weights import CONFIG, load_exactly, read_weights, refuse_larger_than_weights
from distill_mtl.reading import Remedy, fit, shown
from distill_mtl.recipe.command_line import task_name

_AGAIN = Remedy(
    "Save the network again with timm.models.save_for_hf(model, FOLDER, safe_serialization=True)."
)
_FORM = "timm's local-dir folder"


class _Pretrained(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    input_size: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]
    mean: list[FiniteFloat] | None
    std: list[FiniteFloat] | None
    interpolation: str | None
    num_classes: int
    label_names: list[str | None] | dict[str, str] | None


class _TimmConfig(TypedDict):
    """config.json as timm writes it."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    architecture: str
    num_classes: NotRequired[int]
    model_args: NotRequired[dict[str, Any] | None]
    label_names: NotRequired[list[str | None] | dict[str, str] | None]
    pretrained_cfg: NotRequired[_Pretrained]


def open_timm_folder(source: NetworkFiles, config: Mapping[str, Any]) -> Network:
    """Read the classifier; every weight in the file is loaded and every weight of the network comes from it.

    timm alone builds the network. The weights are loaded here, because timm leaves the head random when
    class counts differ, everything random without `pretrained=True`, and opens pickles.

    Raises:
        UserError: the folder is incomplete, or weights and architecture differ.
    """
    folder = source.place
    state = read_weights(folder)
    told: dict[str, Any] = fit(config, _TimmConfig, str(folder / CONFIG), remedy=_AGAIN)
    refuse_foreign_name(told["architecture"], f"{folder / CONFIG}, architecture")
    refuse_larger_than_weights(told.get("model_args") or {}, state, str(folder / CONFIG))
    try:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=False)
    # Whatever timm's constructors make of values that nobody gives.
    except Exception as error:
        raise UserError(f"timm cannot build the network of {folder / CONFIG}: {brief(error)}") from error
    readings = list(fitting(state, model.state_dict()).values())
    load_exactly(model, readings[0] if len(readings) == 1 else state, str(folder))
    if not model.num_classes:
        return _without_classifier(source, config, model)
    if model.pretrained_cfg["num_classes"] != model.num_classes:
        raise UserError(
            f"{folder / CONFIG} says {model.pretrained_cfg['num_classes']} classes, its weights have "
            f"{model.num_classes}. Correct num_classes."
        )
    names = _class_names(config, folder, model.num_classes)
    backbone, width = Backbone(model, InputContract.from_timm(_input(model))), model.num_classes
    return _network(
        source,
        config,
        backbone,
        TaskOutput(_FORM, classes=names),
        lambda task: BackboneNetwork(backbone, itemgetter(LOGITS), (LOGITS,), width=width, dense=False),
    )


def _without_classifier(source: NetworkFiles, config: Mapping[str, Any], model: Any) -> Network:
    """A network with num_classes 0, whose answer is its pooled vector."""
    backbone = Backbone(model, InputContract.from_timm(_input(model)))
    width = backbone.shapes[POOLED].channels
    return _network(
        source,
        config,
        backbone,
        TaskOutput(f"{_FORM} without a classifier", EMBEDDING),
        lambda task: BackboneNetwork(backbone, itemgetter(POOLED), (POOLED,), width=width, dense=False),
    )


def _network(
    source: NetworkFiles,
    config: Mapping[str, Any],
    backbone: Backbone,
    output: TaskOutput,
    view: Callable[[str], BackboneNetwork],
) -> Network:
    return Network(
        source,
        backbone.inputs,
        {task_name(str(source.place)): output},
        view,
        names_tasks=False,
        # Of the rest, timm's form can say nothing but this: [0, 1] RGB, channels first, any batch.
        told=(key for key in InputContract.__dataclass_fields__ if key not in ("resize", "crop")),
        trunk={"model": config["architecture"], "args": _trunk_arguments(config)},
    )


def refuse_foreign_name(name: str, where: str) -> None:
    """An architecture is one that the installed timm has: a name may not fetch or open anything.

    Raises:
        UserError: it is another.
    """
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        raise UserError(
            f"{where}: timm {timm.__version__} has no model {shown(architecture)}.{near} It names an architecture of "
            "timm; names that reach out (hf-hub:, local-dir:) are not followed."
        )


def _trunk_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `create_model` was given for all but the classifier."""
    return {key: value for key, value in (config.get("model_args") or {}).items() if key != "num_classes"}


def _input(model: Any) -> dict[str, Any]:
    """The network's pretrained_cfg; the number of channels is read from the network."""
    cfg = dict(model.pretrained_cfg)
    return cfg | {"input_size": (getattr(model, "in_chans", cfg["input_size"][0]), *cfg["input_size"][1:])}


def _class_names(config: Mapping[str, Any], folder: Path, count: int) -> tuple[str, ...] | None:
    """`label_names` in the order of the logits; None where the folder names no classes.

    A single logit may have two names: those of the class at 0 and of the class at 1.
    """
    listed = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    if not listed:
        return None
    if isinstance(listed, Mapping):
        listed = [listed.get(str(index)) for index in range(max(count, len(listed)))]
    if len(listed) not in ((1, 2) if count == 1 else (count,)) or None in listed:
        raise UserError(
            f"{folder / CONFIG} must name {count} classes in label_names, found {len(listed)} or gaps."
        )
    return tuple(str(name) for name in listed)
