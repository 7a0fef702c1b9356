"""Trunks from the user's own code: `student: {module: "my_nets:resnet20", trust: true}`.

A network that has timm's `forward_features` and `forward_head` is run by them. Of any other one a trial says what is
read: the last map of every size, and what goes into its last layer, which is taken away. The code is imported only
after `trust_code`.
"""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import StudentError, UserError, brief, nearest
from distill_mtl.machine_memory import within_memory
from distill_mtl.networks.backbone import POOLED, stage_names
from distill_mtl.networks.features import find_layout, fits
from distill_mtl.networks.file_contract import overridden
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.modes import evaluating
from distill_mtl.networks.runtimes.own_module import module_files, own_network
from distill_mtl.recipe.schema import InputSection
from distill_mtl.students.student import FAMILIES, OWN_CODE, Trunk

_TRUSTED: set[str] = set()
_PREFIXES = range(1, 9)  # class token and registers before the grid of a transformer
_OUTPUT = ""
"""The pooled vector is what the network gives."""


def trust_code(spec: str, *, trust: bool, say: str) -> None:
    """Let `module:callable` be imported and run from now on in this process.

    Args:
        spec: as `student.module` or a student's folder names it.
        trust: whether it may.
        say: the option that says so, for the message.

    Raises:
        UserError: it may not.
    """
    if trust:
        _TRUSTED.add(spec)
    elif spec not in _TRUSTED:
        raise UserError(
            f"the student is your own code, {spec}, which runs with all your rights on this machine. If you trust its "
            f"origin, write {say}."
        )


@FAMILIES.register(OWN_CODE)
class OwnTrunk(Trunk):
    """A network of the user's code, without its last layer where that is a classifier.

    `args` holds what the recipe says (`args` of the callable, `input`, `layers`), and what is read of the network:
    `maps` (None: its own `feature_info`), `pooled` (a layer; empty: the network's output; None: `forward_head`),
    `without`, the layer that is taken away, and `prefix`, the tokens before a grid.
    """

    family = OWN_CODE

    def __init__(self, model: nn.Module, inputs: InputContract, name: str, args: Mapping[str, Any]) -> None:
        self.args = dict(args)  # what the first dry forward reads is in it
        super().__init__(model, inputs, name, args)

    @classmethod
    def create(
        cls, name: str, args: Mapping[str, Any], size: tuple[int, int] | None, *, pretrained: bool
    ) -> "OwnTrunk":
        network = _make(name, args.get("args") or {})
        inputs = _inputs(name, network, args.get("input") or {}, size)
        settled = dict(args) if "prefix" in args else _reading(name, network, args, inputs)
        return cls(_prepared(name, network, settled), inputs, name, settled)

    @classmethod
    def build(cls, name: str, args: Mapping[str, Any]) -> nn.Module:
        return _prepared(name, _make(name, args["args"]), args)

    @classmethod
    def code_of(cls, name: str) -> dict[str, str]:
        files = module_files(name)
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        whole = f"{files[0].parent.name}/ ({len(files)} files)" if len(files) > 1 else ""
        return {
            "module": name,
            "file": whole or (files[0].name if files else ""),
            "sha256": digest.hexdigest(),
        }

    def reads(self) -> str:
        pooled, without = self.args["pooled"], self.args["without"]
        vector = (
            f"what goes into {without}"
            if without
            else "that of forward_head"
            if pooled is None
            else pooled or "its output"
        )
        width = self.shapes[POOLED].channels
        return f"maps {', '.join(self.stages) or 'none'}; vector: {vector} [{width}]"

    def classifier(self) -> tuple[str, ...]:
        return tuple(filter(None, [self.args["without"]])) or super().classifier()

    def _hooked(self, returns: Any) -> list[str]:
        pooled = [self.args["pooled"]] if self.args["pooled"] and POOLED in returns else []
        return list(dict.fromkeys([*super()._hooked(returns), *pooled]))

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        if self.args["pooled"] is None:
            return super()._run(pixels)
        answer = self.model(pixels.contiguous(memory_format=torch.channels_last))
        return {POOLED: _vector(answer)} if POOLED in self.returns and not self.args["pooled"] else {}

    def _with_ends(self, ends: dict[str, Tensor], taken: dict[str, Tensor]) -> dict[str, Tensor]:
        pooled = self.args["pooled"]
        if pooled and POOLED in self.returns:
            ends = {**ends, POOLED: _vector(taken[pooled])}
        return super()._with_ends(ends, taken)


def _make(name: str, args: Mapping[str, Any]) -> nn.Module:
    """The network as the user's code makes it.

    Raises:
        StudentError: it is not trusted, not there, or fails.
    """
    try:
        trust_code(name, trust=False, say="`trust: true` in `student`")
        with within_memory(f"student: {name} with args {dict(args)}", "Choose a smaller one."):
            return own_network(name, args)[0]
    except UserError as error:
        raise StudentError(f"student.module: {error}") from error


def _inputs(
    name: str, network: nn.Module, said: Mapping[str, Any], size: tuple[int, int] | None
) -> InputContract:
    """What the network is trained on: as the recipe says, as its own `pretrained_cfg` does, else timm's usual."""
    cfg = next(
        (
            dict(cfg)
            for key in ("pretrained_cfg", "default_cfg")
            if isinstance(cfg := getattr(network, key, None), Mapping)
        ),
        {},
    )
    made_for: Any = cfg.get("input_size")
    if size is None and made_for is None:
        raise StudentError(f"student.input_size: {name} does not say its image size. Add it.")
    depth = int(made_for[0]) if made_for else _channels(network)
    known = {key: cfg[key] for key in ("mean", "std", "interpolation") if key in cfg}
    if depth not in (1, 3):
        raise StudentError(
            f"student.module: {name} takes pictures of {depth} channels, and there are some of 3, or 1 that is grey."
        )
    base = InputContract.from_timm({**known, "input_size": (depth, *(size or made_for[1:]))})
    try:
        return overridden(base, InputSection(**said))
    except UserError as error:
        raise StudentError(f"student.input: {error}") from error


def _channels(network: nn.Module) -> int:
    """Of its images: those of its first convolution; 3 where it has none."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


# What is read of it -----------------------------------------------------------------------------------


@dataclass
class _Seen:
    """A layer on a trial.

    Attributes:
        output: what it gave last.
        inputs: what it was given.
        place: when it ended, from 0.
        runs: how often it ran.
    """

    output: Any
    inputs: tuple[Any, ...] = field(default=())
    place: int = 0
    runs: int = 1


def _reading(name: str, network: nn.Module, args: Mapping[str, Any], inputs: InputContract) -> dict[str, Any]:
    """`args` of the trunk, with what is read of the network."""
    said = args.get("layers") or {}
    pooled, without = said.get("pooled"), ""
    pixels = torch.zeros(2, 1 if inputs.channels == "grey" else 3, *inputs.size)
    answer, seen = _trial(name, network, pixels)
    if pooled is not None and pooled not in seen:
        raise StudentError(_no_layer("pooled", pooled, name, network, seen))
    if pooled is None and not _like_timm(network):
        without = _last_layer(network, answer, seen)
        pooled = without or (_OUTPUT if isinstance(answer, Tensor) else None)
    end = seen[without].place if without else len(seen)
    maps = {layer: one for layer, one in seen.items() if one.runs == 1 and one.place < end}
    prefix = 0 if hasattr(network, "num_prefix_tokens") else _prefix(maps, inputs.size)
    if (wanted := said.get("maps")) is not None:
        for layer in wanted:
            if layer not in seen:
                raise StudentError(_no_layer("maps", layer, name, network, seen))
        chosen = list(wanted)
    else:
        chosen = _last_of_each_size(maps, inputs.size, prefix)
    if pooled is None and not _like_timm(network):
        if not chosen:
            raise StudentError(
                f"student.module: {name} returns a {type(answer).__name__}, and no layer of it gives a map. Name the "
                "layer with its vector: `layers: {pooled: LAYER}`."
            )
        pooled = chosen[-1]
    return {
        **{key: dict(args.get(key) or {}) for key in ("args", "input", "layers")},
        "maps": chosen if wanted is not None or not stage_names(network) else None,
        "pooled": pooled,
        "without": without,
        "prefix": prefix,
    }


def _prepared(name: str, network: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    """The network with its last layer taken away, and with the names that `Backbone` asks for."""
    if without := args["without"]:
        parent, _, child = without.rpartition(".")
        try:
            setattr(network.get_submodule(parent), child, nn.Identity())
        except AttributeError as error:
            raise StudentError(
                f"student.module: {name} has no layer {without} any more: {brief(error)}. Has its code changed?"
            ) from error
    elif callable(reset := getattr(network, "reset_classifier", None)) and args["pooled"] is None:
        reset(0)
    marks: Any = network
    if args["maps"] is not None:
        marks.feature_info = [{"module": layer} for layer in args["maps"]]
    if args["prefix"]:
        marks.num_prefix_tokens = args["prefix"]
    return network


def _like_timm(network: nn.Module) -> bool:
    """Whether it has the two methods that timm's networks have."""
    head = getattr(network, "forward_head", None)
    if not callable(getattr(network, "forward_features", None)) or not callable(head):
        return False
    try:
        return "pre_logits" in inspect.signature(head).parameters
    except (TypeError, ValueError):
        return False


@torch.no_grad()
def _trial(name: str, network: nn.Module, pixels: Tensor) -> tuple[Any, dict[str, _Seen]]:
    """What the network gives, and its layers in the order they ended."""
    seen: dict[str, _Seen] = {}

    def note(layer: str, inputs: tuple[Any, ...], output: Any) -> None:
        before = seen.pop(layer, None)
        seen[layer] = _Seen(output, inputs, 0, before.runs + 1 if before else 1)

    handles = [
        module.register_forward_hook(lambda _, inputs, output, layer=layer: note(layer, inputs, output))
        for layer, module in network.named_modules()
        if layer
    ]
    try:
        with evaluating(network):
            answer = network(pixels)
    # Whatever the user's code makes of the size.
    except Exception as error:
        size = " x ".join(map(str, pixels.shape[2:]))
        raise StudentError(
            f"student.module: {name} cannot run on {pixels.shape[1]} x {size} pixels: {brief(error)}. Correct "
            "`input_size` or `args`."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    for place, one in enumerate(seen.values()):
        one.place = place
    return answer, seen


def _last_layer(network: nn.Module, answer: Any, seen: Mapping[str, _Seen]) -> str:
    """The linear layer or convolution that makes the answer; empty where something else does."""
    if not isinstance(answer, Tensor):
        return ""
    for layer, one in reversed(list(seen.items())):
        module = network.get_submodule(layer)
        if not list(module.parameters(recurse=False)):
            continue
        linear = isinstance(module, nn.Linear) and one.output.ndim == 2
        makes = (linear or isinstance(module, nn.Conv2d)) and one.output.shape[1] == answer.shape[1]
        return layer if makes and one.runs == 1 else ""
    return ""


def _prefix(seen: Mapping[str, _Seen], image: tuple[int, int]) -> int:
    """Tokens before the grid of a transformer of the user's own."""
    tokens = [one.output for one in seen.values() if isinstance(one.output, Tensor) and one.output.ndim == 3]
    if not tokens:
        return 0
    for prefix in (0, *_PREFIXES):
        try:
            if find_layout(tokens[-1][:, prefix:], image).form == "tokens":
                return prefix
        except ValueError:
            continue
    return 0


def _last_of_each_size(seen: Mapping[str, _Seen], image: tuple[int, int], prefix: int) -> list[str]:
    """Of the layers that give maps larger than one pixel the last of every size, in the order they run."""
    last: dict[tuple[int, ...], str] = {}
    for layer, one in seen.items():
        if not isinstance(one.output, Tensor) or one.output.ndim not in (3, 4):
            continue
        try:
            found = find_layout(one.output, image, prefix=prefix)(one.output)
        except ValueError:
            continue
        size = tuple(found.shape[2:])
        if max(size) > 1 and fits((size[0], size[1]), image):
            last.pop(size, None)
            last[size] = layer
    return list(last.values())


def _no_layer(key: str, layer: str, name: str, network: nn.Module, seen: Mapping[str, Any]) -> str:
    known = layer in dict(network.named_modules())
    why = "does not run" if known else f"is not one of its layers.{nearest(layer, seen)}"
    return f"student.layers.{key}: '{layer}' of {name} {why}{' Choose another.' if known else ''}"


def _vector(feature: Any) -> Tensor:
    """[B, C] from a vector, a map [B, C, h, w] or tokens [B, N, C]: the mean over pixels or tokens."""
    if not isinstance(feature, Tensor) or feature.ndim not in (2, 3, 4):
        shape = list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise UserError(
            f"what stands for its vector is {shape}. Name another layer: `layers: {{pooled: LAYER}}`."
        )
    if feature.ndim == 4:
        return feature.mean((2, 3))
    return feature.mean(1) if feature.ndim == 3 else feature
