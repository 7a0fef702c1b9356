"""A teacher in a file of its own, or in the user's own code: whatever a runtime can run."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from distill_mtl.errors import UserError
from distill_mtl.networks.file_contract import answered_task, contract_of, read_note
from distill_mtl.networks.runtime import Runtime
from distill_mtl.networks.runtime_network import RunNetwork
from distill_mtl.networks.task_network import Opened, Origin
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import admit_kind, shaping_options

PROGRAMS = {".pt2": "a torch.export program", ".ts": "TorchScript", ".onnx": None}
"""Endings of files that a teacher may be, and what of them is code."""
_DATA = "an ONNX file"
_OWN_CODE = "your own code"


class RunOrigin(Origin):
    """A network behind a `Runtime`.

    Args:
        place: the file that holds the weights.
        files: what decides the answers, `place` first.
        program: what of it is code; None where it is data alone.
        load: makes the runtime, which nobody has looked at yet.
        section: the recipe's word on input, output and classes.
        task: that it is to teach.
    """

    def __init__(
        self,
        place: Path,
        files: tuple[Path, ...],
        program: str | None,
        load: Callable[[], Runtime],
        section: TeacherSection,
        task: str,
    ) -> None:
        self.place, self.files, self.program = place, files, program
        self.load, self._section, self._task = load, section, task

    def open(self) -> Opened:
        runtime = self.load()
        inputs, told, assumed = contract_of(runtime.declared, self._section.input)
        note = read_note(runtime.declared)
        task = answered_task(note, self._section.task, self._task, self.place)
        output, said, form = self._section.output, note, self.program or _DATA
        if task is not None:
            said, form = note["tasks"][task], f"'{task}' of {form}"
            output = output.model_copy(
                update={
                    "name": task if output.name is None else output.name,
                    "gives": output.gives or "logits",
                }
            )
            admit_kind(
                said["kind"], trust=self._section.trust, say="`trust: true` (on the command line: --trust)"
            )
        network = RunNetwork(runtime, inputs, output, answers=note.get("outputs", ()))
        return Opened(
            network,
            _named(said.get("classes")),
            said.get("kind"),
            form,
            # Also where they are numbers, which name nothing that could be matched.
            (*told, "classes") if said.get("classes") else told,
            assumed,
            options=shaping_options(said["kind"], said) if task is not None else {},
        )


def _named(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names that say something; numbers in their order do not."""
    names = tuple(str(name) for name in classes or ())
    return names if names and names != tuple(str(index) for index in range(len(names))) else None


def file_origin(path: Path, section: TeacherSection, task: str) -> RunOrigin:
    """The origin of a .pt2, .ts or .onnx file that is to teach `task`.

    Raises:
        UserError: no such file, or one of another form.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    ending = path.suffix.lower()
    if ending in (".pt", ".pth", ".torchscript", ".jit") and _is_torchscript(path):
        ending = ".ts"
    if ending == ".safetensors":
        raise UserError(
            f"{path} holds weights without their network. Name the folder with its config.json (timm's local-dir "
            "form), or the code: `teacher: {module: 'package.module:callable', weights: ..., trust: true}`."
        )
    if ending not in PROGRAMS:
        raise UserError(
            f"{path} is no form of teacher that is known: a folder, or a file that ends in {', '.join(PROGRAMS)}. A "
            "state dict needs its code: `teacher: {module: 'package.module:callable', weights: ..., trust: true}`."
        )
    if ending == ".onnx":
        from distill_mtl.networks.runtimes.onnx_file import OnnxRuntime, external_files, read_graph

        files = (path, *external_files(read_graph(path), path))
        return RunOrigin(path, files, None, lambda: OnnxRuntime(path), section, task)
    if ending == ".pt2":
        from distill_mtl.networks.runtimes.pt2_file import ExportedRuntime

        return RunOrigin(path, (path,), PROGRAMS[ending], lambda: ExportedRuntime(path), section, task)
    from distill_mtl.networks.runtimes.torchscript_file import TorchScriptRuntime

    return RunOrigin(path, (path,), PROGRAMS[ending], lambda: TorchScriptRuntime(path), section, task)


def module_origin(section: TeacherSection, task: str) -> RunOrigin:
    """The origin of a network in the user's own code."""
    from distill_mtl.networks.runtimes.own_module import ModuleRuntime, module_files

    spec, weights = str(section.module), Path(str(section.weights))
    if not weights.is_file():
        raise UserError(f"{weights} does not exist. `weights` names the state dict of `module`.")
    files = (weights, *(module_files(spec) if section.trust else ()))
    return RunOrigin(
        weights, files, _OWN_CODE, lambda: ModuleRuntime(spec, section.args, weights), section, task
    )


def _is_torchscript(path: Path) -> bool:
    """TorchScript often ends in .pt, as pickles do; only the former holds code beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
