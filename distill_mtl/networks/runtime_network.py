"""A network behind a runtime: its input contract before it, one of its outputs read as the answer after it."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.networks.features import FeatureShape, Layout, find_layout, fits
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.runtime import Runtime
from distill_mtl.networks.task_network import AnswerKind, TaskNetwork, two_classes
from distill_mtl.recipe.schema import OutputSection

_PREFIXES = (0, 1, 2, 5)  # class and distillation tokens, registers
_DECIDED = (torch.int16, torch.int32, torch.int64, torch.bool)  # int8 and uint8 may be quantised logits
_LAST = 60  # names from the end among which the last map is looked for
_SHOWN = 20  # names in a message


class RuntimeNetwork(TaskNetwork):
    """Images in [0, 1] -> what a runtime makes of them, read in the one layout of the program.

    Args:
        runtime: loaded and frozen.
        inputs: what it wants to see.
        output: which of its outputs is the answer, and of what.
        answers: names of outputs that answer some task, so that none of them is a hidden feature.
        raw: the outputs of a trial, if there was one; None: it is run.

    Raises:
        UserError: it cannot run on such images, or its answer is neither [B, classes], a map of them, nor [B].
    """

    def __init__(
        self,
        runtime: Runtime,
        inputs: InputContract,
        output: OutputSection,
        *,
        answers: Sequence[str] = (),
        raw: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._answers = frozenset(answers)
        self.runtime, self.preprocess = runtime, Preprocess(inputs)
        self._layers: tuple[str, ...] = ()
        self._layouts: dict[str, Layout] = {}
        self._shapes: dict[str, FeatureShape] = {}
        self._logits_of: Callable[[Tensor], Tensor] = _as_it_is
        raw = trial(runtime, self.preprocess) if raw is None else raw
        self._outputs = {name: tuple(raw[name].shape[1:]) for name in runtime.outputs}
        self._find_answer(raw, output)
        self._last_map: str | None = None
        self._last_map_known = False

    def _find_answer(self, raw: Mapping[str, Tensor], output: OutputSection) -> None:
        """Which output is the answer, and its layout, from the outputs of a trial."""
        self.answer = self._choose(output.name)
        answer = raw[self.answer]
        self._layouts[LOGITS] = self._answer_layout(answer)
        answer = self._layouts[LOGITS](_squeezed(answer)).float()
        self.width, self.dense = answer.shape[1], answer.ndim == 4
        self._said, self._tried = output.gives, answer

    @property
    def inputs(self) -> InputContract:
        return self.preprocess.contract

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return self._shapes

    @property
    def last_map(self) -> str | None:  # type: ignore[override]
        """The last inner map or token sequence before the answer, or the last other output; found on a trial."""
        if not self._last_map_known:
            self._last_map_known = True
            others = [name for name in self.runtime.outputs if name not in {self.answer, *self._answers}]
            with self._kept():
                maps = (name for name in self._last_inner() if self._is_map(name))
                self._last_map = next(maps, None) or next(filter(self._readable, others), None)
        return self._last_map

    def read_as(self, kind: AnswerKind) -> None:
        self._two_where_one(kind, self._tried.shape[1])
        assert self._said != "boxes", "BoxNetwork reads them"
        self.gives = self._said or ("probabilities" if self._probable(kind) else "logits")
        of_logits = two_classes if self.one_logit else _as_it_is
        self._logits_of = kind.logits_of if self.gives == "probabilities" else of_logits
        self._logits_of(self._tried)

    def tap(self, layers: Sequence[str]) -> None:
        self._refuse_unknown(layers)
        raw = self._trial(layers)
        shapes, layouts = {}, {name: how for name, how in self._layouts.items() if name == LOGITS}
        for name in layers:
            layouts[name] = self._layout(name, raw[name])
            shapes[name] = FeatureShape.of(layouts[name](raw[name]))
        self._layers, self._layouts = tuple(layers), layouts
        self._shapes |= shapes

    @contextmanager
    def tapping(self, layers: Sequence[str]) -> Iterator[None]:
        with self._kept():
            self.tap(layers)
            yield

    def layer_names(self) -> list[str]:
        return [name for name in self.runtime.names() if name != self.answer]

    def features(self) -> dict[str, FeatureShape]:
        names, shapes = self.layer_names(), {}
        with self._kept():
            for name, raw in self._trial_of_each(names).items():
                # Indices, labels and other tasks' answers tell a student nothing that a hint could match.
                if raw.is_floating_point() and name not in self._answers:
                    with suppress(UserError):
                        shapes[name] = FeatureShape.of(self._layout(name, raw)(raw))
        picture = FeatureShape(
            3, self.inputs.size
        )  # the images themselves, on their way through the preprocessing
        return {name: shapes[name] for name in names if shapes.get(name, picture) != picture}

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        return self._outputs

    @property
    def answer_features(self) -> tuple[str, ...]:
        if self.dense:
            return () if self.last_map is None else (self.last_map,)
        with self._kept():
            # What is as wide as the answer is the answer, before its softmax.
            features = (
                name
                for name in self._last_inner()
                if self._readable(name) and self._shapes[name].channels != self._tried.shape[1]
            )
            found = next(features, None)
        return () if found is None else (found,)

    def with_inputs(self, inputs: InputContract) -> "RuntimeNetwork":
        # No new trial: other statistics of colours change neither names nor shapes.
        twin = copy.copy(self)
        twin._modules = {**self._modules, "preprocess": Preprocess(inputs).to(self.preprocess.mean.device)}
        twin._layers = ()
        return twin

    @property
    def trunk(self) -> nn.Module:
        return self.runtime

    def join(self, other: TaskNetwork) -> None:
        assert isinstance(other, RuntimeNetwork)
        self.runtime = other.runtime
        self._tap((*self.runtime.tapped, *self._layers))

    def pixels(self, images: Tensor) -> Tensor:
        return self.preprocess(images)

    def run_pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        """Any number of rows through a network that may take but one number of them."""
        fixed = self.inputs.batch
        if fixed is None:
            return self.runtime(pixels)
        missing = -len(pixels) % fixed
        filled = torch.cat([pixels, pixels[-1:].expand(missing, *pixels.shape[1:])]) if missing else pixels
        joined = self._joined([self.runtime(part) for part in filled.split(fixed)])
        return {name: values[: len(pixels)] for name, values in joined.items()}

    def _joined(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The outputs of several passes as those of one batch."""
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def read(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answer = self._logits_of(self._read_answer(features))
        return {LOGITS: answer} | {name: self._layouts[name](features[name]) for name in self._layers}

    def _read_answer(self, features: Mapping[str, Tensor]) -> Tensor:
        """float32 [R, C] or [R, C, h, w], logits or probabilities as the runtime gives them."""
        return self._layouts[LOGITS](_squeezed(features[self.answer])).float()

    def _trial(self, layers: Sequence[str]) -> dict[str, Tensor]:
        return trial(self.runtime, self.preprocess, layers)

    @torch.no_grad()
    def _probable(self, kind: AnswerKind) -> bool:
        """Whether the answer can only be probabilities of this kind.

        Two numbers may lie in [0, 1] by accident, so a single logit is also asked about pictures that differ much.
        """
        probable = kind.are_probabilities(self._tried)
        if self.dense or not self.one_logit or not probable:
            return probable
        images = torch.cat(
            [_contrasts(self.inputs.size), torch.rand(8, 3, *self.inputs.size, generator=_seeded())]
        )
        pixels = self.preprocess(images.to(self.preprocess.mean.device))
        return kind.are_probabilities(self._read_answer(self.run_pixels(pixels)))

    def _tap(self, names: Sequence[str]) -> None:
        tap(self.runtime, names)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Restore the tapped layers after the block."""
        layers, layouts, tapped = self._layers, self._layouts, self.runtime.tapped
        try:
            yield
        finally:
            self._layers, self._layouts = layers, layouts
            self._tap(tapped)

    def _trial_of_each(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The runtime's tensors for these names. Names that it cannot give are found by halving."""
        try:
            return self._trial(names)
        except UserError:
            if len(names) < 2:
                return {}
            middle = len(names) // 2
            return self._trial_of_each(names[:middle]) | self._trial_of_each(names[middle:])

    def _choose(self, name: str | int | None) -> str:
        outputs = self.runtime.outputs
        if name is None:
            return outputs[0]
        if isinstance(name, int) and name < len(outputs):
            return outputs[name]
        if name in outputs:
            return str(name)
        raise UserError(
            f"there is no output {name!r}.{nearest(str(name), outputs)} Outputs: {', '.join(outputs)}. Correct "
            "`output.name`."
        )

    def _answer_layout(self, answer: Tensor) -> Layout:
        if answer.dtype in _DECIDED:
            raise UserError(
                f"its output '{self.answer}' holds whole numbers ({str(answer.dtype).removeprefix('torch.')} "
                f"{list(answer.shape)}): classes already chosen (ArgMax), which say nothing of the others. "
                f"Export the logits, before ArgMax. Outputs: {', '.join(self.runtime.outputs)}. If one of them has the "
                "logits: `output: {name: ...}`."
            )
        plane = answer.ndim == 3 and fits((answer.shape[1], answer.shape[2]), self.inputs.size)
        if answer.ndim not in (1, 2, 4) and not plane:
            raise UserError(
                f"its output '{self.answer}' has the shape {list(answer.shape)}, which is neither [B, classes] nor a "
                f"map of them. {_choice([name for name in self.runtime.outputs if name != self.answer])}"
                + " If it finds boxes, `output: {gives: boxes}` lists the known forms."
                * (answer.ndim == 3)
            )
        return self._layout(self.answer, _squeezed(answer))

    def _layout(self, name: str, raw: Tensor) -> Layout:
        last = self.inputs.layout == "nhwc"
        for prefix in _PREFIXES:
            try:
                return find_layout(raw, self.inputs.size, prefix=prefix, channels_last=last)
            except ValueError as error:
                reason = error
        raise UserError(f"the feature '{name}' cannot be read: {reason}. Choose another layer.") from reason

    def _last_inner(self) -> list[str]:
        """The names before the answer and behind it, last first."""
        made = self.runtime.behind(self.answer)
        inner = [name for name in self.runtime.names() if name not in self.runtime.outputs]
        return [name for name in inner if made is None or name in made][-_LAST:][::-1]

    def _is_map(self, name: str) -> bool:
        if not self._readable(name) or self._shapes[name].size in (None, (1, 1)):
            return False
        # A map as wide as an answer that is a map is that answer, in another size or before its softmax.
        return not (self.dense and self._shapes[name].channels == self._tried.shape[1])

    def _refuse_unknown(self, layers: Sequence[str]) -> None:
        known = self.layer_names()
        unknown = [name for name in layers if name not in known]
        # Where nothing can be read, the runtime says why.
        if unknown and known:
            more = f", and {len(known) - _SHOWN} before them" if len(known) > _SHOWN else ""
            raise UserError(
                f"there is no layer '{unknown[0]}'.{nearest(unknown[0], known)} Layers: "
                f"{', '.join(known[-_SHOWN:])}{more} (distill-mtl teacher inspect shows all with their shapes)."
            )

    def _readable(self, name: str) -> bool:
        try:
            self.tap((name,))
        except UserError:
            return False
        return True


@torch.no_grad()
def trial(runtime: Runtime, preprocess: Preprocess, layers: Sequence[str] = ()) -> dict[str, Tensor]:
    """What a runtime gives for two random images; it says what shape each thing has.

    Args:
        runtime: loaded.
        preprocess: of its input contract, on its device.
        layers: that it is to give besides its outputs; it goes on giving them.

    Raises:
        UserError: it cannot run on such images, or has no such layer.
    """
    contract = preprocess.contract
    images = torch.rand(contract.batch or 2, 3, *contract.size, generator=_seeded())
    images = preprocess(images.to(preprocess.mean.device))
    if not runtime.outputs:
        runtime.probe(images)
    tap(runtime, layers)
    runtime.probe(images)
    return runtime(images)


def tap(runtime: Runtime, names: Sequence[str]) -> None:
    """Let a runtime give these names besides its outputs, and no others."""
    runtime.tapped = tuple(name for name in dict.fromkeys(names) if name not in runtime.outputs)
    runtime.tap(runtime.tapped)


def _choice(others: Sequence[str]) -> str:
    if not others:
        return "The file has no other output: export the network with logits as its output."
    return f"Other outputs: {', '.join(others)}. Choose one with `output: {{name: ...}}`."


def _squeezed(answer: Tensor) -> Tensor:
    """[B, C, 1, 1] or [B, 1, 1, C] of a convolution that classifies as [B, C], [B, h, w] of a network of depth as
    [B, 1, h, w], and one number for each picture, [B], as [B, 1]."""
    if answer.ndim < 2:  # without dimensions where `squeeze` also took that of a batch of 1
        return answer.reshape(-1, 1)
    if answer.ndim == 3:
        return answer.unsqueeze(1)
    one = answer.ndim == 4 and (1, 1) in (answer.shape[2:], answer.shape[1:3])
    return answer.flatten(1) if one else answer


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _contrasts(size: tuple[int, int]) -> Tensor:
    """Black, white and the six pure colours, [8, 3, H, W]."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    return corners[:, :, None, None].expand(-1, -1, *size)


def _as_it_is(answer: Tensor) -> Tensor:
    return answer
