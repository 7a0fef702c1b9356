"""A timm network that gives its inner features by name. Teachers and students are both built on it.

Besides dotted layer names there are two features that every network has: `pooled`, the vector before
the classifier, and `logits`, what the classifier gives.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape, Layout, find_layout
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.modes import evaluating
from distill_mtl.networks.taps import Taps, tensor_parts

POOLED = "pooled"
LOGITS = "logits"


class Backbone(nn.Module):
    """Images in [0, 1] of any size -> named features, with the network's own preprocessing inside.

    It asks three things of the network it wraps, timm's conventions: `forward_features(x)`,
    `forward_head(features, pre_logits=...)` and, for the stages, `feature_info`.

    Args:
        model: the network.
        inputs: what it was trained on.

    Attributes:
        stages: dotted names of the stages, in the order they run; of a stage that gives several maps (HRNet's
            branches) `stage4[0]`, `stage4[1]`, ... in its place.
        shapes: shape of every feature that can be read: `pooled`, the stages, and whatever `tap` added.
        returns: names of the features that a forward pass gives; `pooled` and the stages to begin with.
        ends_with_features: nothing behind `forward_features` is read, nor need run (`export.deployable.remove_unread`).

    Raises:
        UserError: the network cannot run on images of `inputs.size`.
    """

    model: Any

    def __init__(self, model: nn.Module, inputs: InputContract) -> None:
        super().__init__()
        # Convolutions with channels last in memory take 0.6 to 1.0 of the time on a CPU, forward and
        # backward (timm's test_resnet, mobilenetv3, resnet18 and vit at 32 to 64 px, torch 2.15).
        self.model = model.to(memory_format=torch.channels_last)
        self.preprocess = Preprocess(inputs).to(next(model.parameters()).device)
        self.stages = stage_names(model)
        self.shapes: dict[str, FeatureShape] = {}
        self.returns: tuple[str, ...] = ()
        self.ends_with_features = False
        self._layouts: dict[str, Layout] = {}
        self._taps = Taps(model, ())
        self._find_stages()

    @property
    def inputs(self) -> InputContract:
        """What the network was trained on."""
        return self.preprocess.contract

    @property
    def last(self) -> str:
        """Name of the last stage; `pooled` where the network has no stages."""
        return self.stages[-1] if self.stages else POOLED

    @property
    def layers_of_stages(self) -> list[str]:
        """The stages that give one map each."""
        return [stage for stage in self.stages if not stage.endswith("]")]

    def tap(self, returns: Iterable[str]) -> None:
        """Make forward passes return these features; finds their shapes in a dry forward.

        Raises:
            UserError: no such layer, or its output is neither a map, tokens nor a vector.
        """
        returns = tuple(dict.fromkeys(returns))
        taps = Taps(self.model, self._hooked(returns))
        self._taps.remove()
        self._taps, self.returns, self._layouts = taps, returns, {}
        for name, output in self._dry_forward().items():
            layer = self.layer_of(name)
            self._layouts[name] = self._layout(layer, output)
            self.shapes[layer] = FeatureShape.of(self._layouts[name](output), pyramid=layer in self.stages)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] in [0, 1] -> the features in `returns`, maps [B, C, h, w] or vectors [B, C]."""
        return self.read(self.preprocess(images))

    def read(self, pixels: Tensor) -> dict[str, Tensor]:
        """The same from what `preprocess` gave."""
        ends = self._run(pixels)
        raw = self._with_ends(ends, self._taps.read())
        return {name: self._layouts[name](raw[name]) for name in self.returns}

    def layer_of(self, name: str) -> str:
        """The layer of the network that a feature of `returns` is."""
        return name

    def layout_of(self, name: str) -> Layout:
        """How the raw output of a tapped layer is read."""
        return self._layouts[name]

    def layer_names(self) -> list[str]:
        """Every name that `tap` knows."""
        parts = [stage for stage in self.stages if stage.endswith("]")]
        return [POOLED, *(name for name, _ in self.model.named_modules() if name), *parts]

    def features(self) -> dict[str, FeatureShape]:
        """Every layer that `tap` can read, with its shape, in the order they run; `pooled` is the last."""
        shapes: dict[str, FeatureShape] = {}

        def note(name: str, output: Any) -> None:
            for part, tensor in {name: output, **tensor_parts(name, output)}.items():
                shapes.pop(part, None)  # a layer that runs several times keeps its last output
                if isinstance(tensor, Tensor) and (part == name or part in self.stages):
                    with suppress(UserError):
                        shapes[part] = FeatureShape.of(self._layout(part, tensor)(tensor))

        handles = [
            module.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
            for name, module in self.model.named_modules()
            if name
        ]
        try:
            self._dry_forward()
        finally:
            for handle in handles:
                handle.remove()
        return {**shapes, POOLED: self.shapes[POOLED]}

    def _hooked(self, returns: Sequence[str]) -> list[str]:
        """Those features that are taken where a layer runs; the others are what `_run` gives."""
        return [name for name in returns if self.layer_of(name) not in (POOLED, LOGITS)]

    def _find_stages(self) -> None:
        """Return `pooled` and every stage; of a stage that gives a list of maps, those of different sizes."""
        try:
            self.tap((POOLED, *self.stages))
        except UserError:
            parts = (part for stage in self.stages for part in self._parts(stage))
            self.stages = tuple(part for part in parts if self._readable(part))
            self.tap((POOLED, *self.stages))

    def _parts(self, stage: str) -> tuple[str, ...]:
        """The names under which a stage's output is tapped: its own, or those of the maps in its list.

        Of maps of one size the first is the stage's output, further ones go with it (SelecSLS); what is no map is
        its class token (PiT).
        """
        found = [stage]

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            maps: dict[torch.Size, str] = {}
            for name, part in tensor_parts(stage, output).items():
                if part.ndim == 4:
                    maps.setdefault(part.shape[2:], name)
            found[:] = maps.values() or [stage]

        handle = self.model.get_submodule(stage).register_forward_hook(note)
        try:
            self.tap(())
        finally:
            handle.remove()
        return tuple(found)

    def _readable(self, layer: str) -> bool:
        try:
            self.tap((layer,))
        except UserError:
            return False
        return True

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        """One forward pass; gives what the network ends in, the taps take the rest."""
        inputs = pixels.contiguous(memory_format=torch.channels_last)
        final = self.model.forward_features(inputs)
        ends: dict[str, Tensor] = {}
        if LOGITS in self.returns:
            ends[LOGITS] = self.model.forward_head(final)
        # One of the two runs unless that is known to be in vain: layers of the head may be tapped too.
        if POOLED in self.returns or not (LOGITS in self.returns or self.ends_with_features):
            ends[POOLED] = self.model.forward_head(final, pre_logits=True)
        return ends

    def _with_ends(self, ends: dict[str, Tensor], taken: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the network ends in, and the outputs of the tapped layers."""
        return ends | taken

    @torch.no_grad()
    def _dry_forward(self) -> dict[str, Tensor]:
        """Every feature in `returns`, raw, of one black image."""
        height, width = self.inputs.size
        image = torch.zeros(1, 3, height, width, device=self.preprocess.mean.device)
        ends: dict[str, Tensor] = {}
        try:
            with evaluating(self):
                raw = self._taps.dry_run(lambda: ends.update(self._run(self.preprocess(image))))
        except (
            RuntimeError,
            AssertionError,
            ValueError,
            AttributeError,
        ) as error:  # the last: arguments left out parts
            raise UserError(f"the network cannot run on {height}x{width} pixels: {error}") from error
        raw = self._with_ends(ends, raw)
        return {name: raw[name] for name in self.returns}

    def _layout(self, name: str, raw: Tensor) -> Layout:
        prefix = int(getattr(self.model, "num_prefix_tokens", 0) or 0)
        channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        try:
            return find_layout(raw, self.inputs.size, prefix=prefix, channels_last=channels_last)
        except ValueError as error:
            raise UserError(f"the feature '{name}' cannot be read: {error}. Choose another layer.") from error


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of the stages in timm's `feature_info`, a list of dicts or an object that holds one."""
    listed: Any = getattr(model, "feature_info", None) or ()
    entries: Sequence[dict[str, Any]] = listed if isinstance(listed, list | tuple) else listed.info
    known = {name for name, _ in model.named_modules()}
    return tuple(entry["module"] for entry in entries if entry.get("module") in known)
