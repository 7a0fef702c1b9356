"""An ONNX file, run by ONNX Runtime; needs the extra [onnx].

Reading and running it executes no code of the file's: operators that ONNX Runtime does not have are
refused, and libraries with more of them are never loaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError, brief, nearest
from distill_mtl.teachers.freeze import freeze
from distill_mtl.teachers.runtime import Runtime
from distill_mtl.teachers.runtimes.declared import declared
from distill_mtl.teachers.runtimes.onnx_graph import (
    ELEMENTS,
    dtype_of,
    external_files,
    ingredients,
    inner_tensors,
    learned_numbers,
    only_input,
    package,
    read_graph,
    refuse_training,
    returned_tensors,
    shape_of,
)

_CUDA = "CUDAExecutionProvider"


class OnnxRuntime(Runtime):
    """Names are those of the graph's tensors, as Netron shows them on the arrows between its nodes.

    The session is started for the device of the first image, and again after a change of device or taps;
    a copy of the runtime starts its own. Weights in a file beside it (`model.onnx.data`) are found.

    Args:
        path: the file.

    Raises:
        UserError: onnx or onnxruntime is not installed, no such file, a broken one, one that takes
            something else than one batch of images, or one that was exported in training mode.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        package("onnxruntime")
        model = read_graph(path)
        self.files = (path, *external_files(model, path))
        image = only_input(model, path)
        refuse_training(model, image.name, path)
        notes = {entry.key: entry.value for entry in model.metadata_props}
        self.declared = declared(shape_of(image), dtype_of(image, path), notes, file=path, name=image.name)
        self.outputs = returned_tensors(model, path)
        self._names = list(dict.fromkeys((*inner_tensors(model, image.name), *self.outputs)))
        self._ingredients = ingredients(model)
        self._learned = learned_numbers(model)
        self._input = image.name
        self._taps: tuple[str, ...] = ()
        self._device = torch.device("cpu")
        self._session: Any = None
        freeze(self)

    @property
    def parameter_count(self) -> int | None:
        return self._learned[0] or None

    @property
    def parameter_bytes(self) -> int | None:
        return self._learned[1] or None

    def names(self) -> list[str]:
        return list(self._names)

    def behind(self, output: str) -> frozenset[str] | None:
        if self._ingredients is None:
            return None
        found, waiting = set[str](), [output]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self._ingredients.get(name, ()))
        return frozenset(found)

    def tap(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._names:
                raise UserError(f"{self.files[0]} has no tensor '{name}'.{nearest(name, self._names)}")
        taps = tuple(name for name in dict.fromkeys(names) if name not in self.outputs)
        if set(taps) != set(self._taps):
            self._session = None
        self._taps = taps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.moved(images.device)
        if self._session is None:
            self._session = self._start()
        # Both ends are bound to memory where they lie, so nothing is copied between torch and the session.
        images = images.contiguous()
        where = (images.device.type, images.device.index or 0)
        binding = self._session.io_binding()
        binding.bind_input(
            self._input, *where, ELEMENTS[images.dtype], tuple(images.shape), images.data_ptr()
        )
        names = (*self.outputs, *self._taps)
        for name in names:
            binding.bind_output(name, *where)
        if images.is_cuda:
            # The session works on a stream of its own and waits for it before it returns, but knows nothing
            # of torch's: the images must be there, and nobody may still read memory that it takes again.
            torch.cuda.current_stream(images.device).synchronize()
        self._session.run_with_iobinding(binding)
        return {
            name: torch.from_dlpack(value) for name, value in zip(names, binding.get_outputs(), strict=True)
        }

    def moved(self, device: torch.device) -> None:
        if device == self._device:
            return
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"{self.files[0]}: ONNX Runtime is used on cpu and cuda, not on {device.type}.")
        if device.type == "cuda" and _CUDA not in package("onnxruntime").get_available_providers():
            raise UserError(
                f"{self.files[0]} cannot run on the GPU: the installed onnxruntime works on the CPU alone. "
                "Run `pip uninstall onnxruntime; pip install onnxruntime-gpu`, or write `teacher.device: cpu`."
            )
        self._device, self._session = device, None

    def __getstate__(self) -> dict[str, Any]:
        # A session can be neither copied nor sent to another process.
        return {**self.__dict__, "_session": None}

    def _start(self) -> Any:
        path, onnxruntime = self.files[0], package("onnxruntime")
        model = read_graph(path)
        # Inner tensors become outputs, which also keeps the optimiser from fusing them away. Their types
        # are left out: the session infers them.
        model.graph.output.extend(package("onnx").ValueInfoProto(name=name) for name in self._taps)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would otherwise spin between two batches, on the cores that the student needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
        )
        providers: list[Any] = ["CPUExecutionProvider"]
        if self._device.type == "cuda":
            # Batches vary in size with the rows that lack a label; the default would search for the
            # fastest convolution anew for each size.
            how = {"device_id": self._device.index or 0, "cudnn_conv_algo_search": "HEURISTIC"}
            providers.insert(0, (_CUDA, how))
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        # Its errors have no common type of their own.
        except Exception as error:
            raise UserError(f"ONNX Runtime cannot run {path}: {brief(error)}.") from error
        if self._device.type == "cuda" and _CUDA not in session.get_providers():
            raise UserError(
                f"{path} cannot run on the GPU: onnxruntime-gpu found no CUDA and cuDNN of the versions it was "
                "built for. Install an onnxruntime-gpu that fits this PyTorch's CUDA "
                f"({torch.version.cuda}), or write `teacher.device: cpu`."
            )
        return session
