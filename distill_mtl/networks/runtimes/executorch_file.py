"""An ExecuTorch program (.pte), run by ExecuTorch; needs the extra [executorch].

Reading and running it executes no code of the file's: kernels that the installed ExecuTorch does not have are refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError, brief
from distill_mtl.extras import extra
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.modes import freeze
from distill_mtl.networks.runtime import (
    RUNTIMES,
    Runtime,
    declared_input,
    not_one_input,
)
from distill_mtl.reading import Remedy, open_regular, parse_json

_METHOD = "forward"
_MARK = b"ET"
"""Bytes 4 and 5 of a program, before the number of its version."""
_DTYPES = {0: torch.uint8, 5: torch.float16, 6: torch.float32}
"""Numbers of `ScalarType` in ExecuTorch's schema."""


@RUNTIMES.register(".pte")
class ExecuTorchRuntime(Runtime):
    """Outputs have the names of our note, else `output0`, `output1`, ... Inner tensors are not given.

    Args:
        path: the file.

    Raises:
        UserError: executorch is not installed, no such file, a broken one, or one that takes something else than one
            batch of images.
    """

    words = "an ExecuTorch program"
    is_program = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.files = (path,)
        self._program, self._method = _load(path)
        told = self._method.metadata
        if told.num_inputs() != 1:
            raise not_one_input(path, (f"input{at}" for at in range(told.num_inputs())))
        image = told.input_tensor_meta(0)
        if image.dtype() not in _DTYPES:
            raise UserError(f"{path} takes another type than images: float32, float16, uint8.")
        notes = _notes(self._program)
        self.declared = declared_input(
            list(image.sizes()), _DTYPES[image.dtype()], notes, file=path, name="input0"
        )
        number = told.num_outputs()
        named = parse_json(
            notes.get(NOTE, "{}"), dict[str, Any], f"the note in {path}", remedy=Remedy("Export it again.")
        )
        self.outputs = tuple(named.get("outputs", ()))
        if len(self.outputs) != number:
            self.outputs = tuple(f"output{at}" for at in range(number))
        freeze(self)

    def names(self) -> list[str]:
        return list(self.outputs)

    def tap(self, names: Sequence[str]) -> None:
        if inner := [name for name in names if name not in self.outputs]:
            raise UserError(
                f"{self.files[0]} cannot give '{inner[0]}': ExecuTorch gives only what the program returns "
                f"({', '.join(self.outputs)}). Ask for no hints: `hints: []`."
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.moved(images.device)
        if self._method is None:
            self._program, self._method = _load(self.files[0])
        try:
            answers = self._method.execute([images.contiguous()])
        except RuntimeError as error:
            raise UserError(f"ExecuTorch cannot run {self.files[0]}: {brief(error)}.") from error
        # The next pass writes into the same memory.
        return {name: answer.clone() for name, answer in zip(self.outputs, answers, strict=True)}

    def moved(self, device: torch.device) -> None:
        if device.type != "cpu":
            raise UserError(
                f"{self.files[0]}: ExecuTorch is used on the CPU, not on {device.type}. Write `teacher.device: cpu`."
            )

    def __getstate__(self) -> dict[str, Any]:
        # A program can be neither copied nor sent to another process.
        return {**self.__dict__, "_program": None, "_method": None}


def _load(path: Path) -> tuple[Any, Any]:
    runtime = extra("executorch.runtime", "executorch", "an ExecuTorch program")
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with open_regular(path) as file:
        mark = file.read(8)[4:6]
    if mark != _MARK:  # ExecuTorch ends the process on some files that are no programs
        raise UserError(f"{path} is no ExecuTorch program. Name a .pte file, or export it again.")
    try:
        program = runtime.Runtime.get().load_program(path)
        method = program.load_method(_METHOD)
    # Its errors have no common type of their own.
    except Exception as error:
        raise UserError(
            f"{path} is no ExecuTorch program that can be read, or it is truncated: {brief(error)}. Export it again."
        ) from error
    if method is None:
        raise UserError(f"{path} has no method '{_METHOD}'. Export the network again.")
    return program, method


def _notes(program: Any) -> dict[str, str]:
    """Our note, which a method of its own returns."""
    if NOTE not in program.method_names:
        return {}
    (text,) = program.load_method(NOTE).execute([])
    return {NOTE: bytes(text.tolist()).decode("utf-8", "replace")}
