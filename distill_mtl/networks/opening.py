"""`open_network`: the one way to open a trained network, whatever form it was saved in.

A folder (timm's local-dir form, or a form that registers with `FORMS`), the folder of a run, a repository of the
Hugging Face hub, a file that a runtime reads, a network that a library builds, or the user's own code. Teachers, the
comparison of models, `predict`, `inspect` and the parity check of an export all come here.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.box_network import BoxNetwork
from distill_mtl.networks.box_recognition import find_reading, may_be_boxes
from distill_mtl.networks.detector_note import read_detector_note
from distill_mtl.networks.eager_runtime import LIBRARIES
from distill_mtl.networks.file_contract import contract_of, overridden, read_note, with_statistics
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.network import Network, NetworkFiles, TaskOutput
from distill_mtl.networks.runtime import RUNTIMES, Runtime
from distill_mtl.networks.runtime_network import RuntimeNetwork, trial
from distill_mtl.networks.task_network import TaskNetwork
from distill_mtl.networks.weights import CONFIG, HUB, WEIGHTS, network_folder, read_config, sha256
from distill_mtl.reading import shown
from distill_mtl.recipe.command_line import read_teacher, task_name, teacher_values
from distill_mtl.recipe.load import absolute_teacher
from distill_mtl.recipe.schema import (
    LIBRARY_KEYS,
    NETWORK_KEYS_IN_WORDS,
    InputSection,
    TeacherSection,
)
from distill_mtl.registry import Registry

_LIBRARY_MARKS = {"transformers": "architectures", "smp": "_model_class"}
"""Keys of a config.json by which the folder of a library is known."""


class FolderForm(ABC):
    """A form in which a network lies in a folder, registered under the `format` that its config.json says."""

    @classmethod
    @abstractmethod
    def open(cls, source: NetworkFiles, config: Mapping[str, Any]) -> Network:
        """Read the network.

        Args:
            source: its files; `place` is the folder, `section.trust` lets code run that the folder names.
            config: its config.json.

        Raises:
            UserError: the folder is incomplete.
        """


FORMS: Registry[type[FolderForm]] = Registry("form of a network's folder", "distill_mtl.students")
"""A student's folder registers from students/, so that nothing here knows students."""


def open_network(where: str | Path | TeacherSection, *, trust: bool = False) -> Network:
    """Open a trained network, on the CPU, in evaluation mode.

    Args:
        where: the folder of a run, of a student or of a trained network, `hf_hub:owner/name`, a .onnx, .xml, .tflite,
            .pte, .pt2 or .ts file; or all that a recipe can say of a teacher, as its section or as YAML:
            `{module: models:net, weights: net.safetensors, input: {size: 64}}`.
        trust: let it run code: .pt2, .ts, `module`, and kinds of task of the user's own.

    Raises:
        UserError: it is not there, cannot be opened, or is a program that is not trusted.
    """
    return find_network(as_section(where, trust=trust)).open()


def as_section(where: str | Path | TeacherSection, *, trust: bool = False) -> TeacherSection:
    """The argument of `open_network` as the section of a recipe; paths on the command line become absolute.

    Raises:
        UserError: it is not YAML, or has keys that a teacher does not have.
    """
    if isinstance(where, TeacherSection):
        return where
    values = teacher_values(str(where)) | ({"trust": True} if trust else {})
    return absolute_teacher(read_teacher(values, (), "network"))


def exists(where: str) -> bool:
    """Whether a folder or file of that name is on this machine; what lies elsewhere, only opening it tells."""
    return where.startswith((*HUB, "{")) or os.path.exists(where)


def find_network(section: TeacherSection) -> NetworkFiles:
    """Where a network lies. It is not opened, but fetched where it lies on the hub.

    Raises:
        UserError: it is not there, is a program that is not trusted, or is not the pinned file.
    """
    source = _find(section)
    if source.program is not None and not section.trust:
        raise UserError(
            f"{section.module or source.place} is {source.program}: code, which runs with all your rights on this "
            "machine. If you trust its origin, write `trust: true` (on the command line: --trust). "
            "Folders with safetensors and .onnx files are only data and need no trust."
        )
    if section.sha256 is not None and not os.path.isfile(source.files[0]):
        raise UserError(f"{source.files[0]} does not exist.")
    if section.sha256 is not None and (found := sha256(source.files[0])) != section.sha256:
        raise UserError(
            f"{source.files[0]} is not the file that the recipe pins: its sha256 is {found}, expected "
            f"{section.sha256}. Fetch the right file, or correct `sha256`."
        )
    return source


def _find(section: TeacherSection) -> NetworkFiles:
    library = next((key for key in LIBRARY_KEYS if getattr(section, key) is not None), None)
    if library is not None:
        return _of_library(section, library)
    if section.module is not None:
        return _own_module(section)
    if section.timm is not None:
        from distill_mtl.networks.hub_repository import fetch_folder, timm_repository

        return _folder(section, fetch_folder(timm_repository(section.timm)))
    if section.path is None:
        raise UserError(f"no network is named. Add {NETWORK_KEYS_IN_WORDS}.")
    if section.path.startswith(HUB):
        from distill_mtl.networks.hub_repository import fetch_folder

        return _folder(section, fetch_folder(section.path.partition(":")[2]))
    path = Path(section.path)
    if os.path.isdir(path) or not path.suffix:
        return _folder(section, network_folder(path))
    return _file(section, path)


def _folder(section: TeacherSection, folder: Path) -> NetworkFiles:
    config = read_config(folder) if os.path.isfile(folder / CONFIG) else {}
    for library, mark in _LIBRARY_MARKS.items():
        if mark in config:
            named = section.model_copy(update={"path": None, "timm": None, library: str(folder)})
            return _of_library(named, library)
    return NetworkFiles(section, folder, (folder / WEIGHTS, folder / CONFIG), None, _open_folder)


def _open_folder(source: NetworkFiles) -> Network:
    section, config = source.section, read_config(source.place)
    feature = section.output.name
    if section.output.gives is not None or isinstance(feature, int):
        raise UserError(
            f"{source.place} is a folder, whose network gives logits. Remove `output`, which is for files; of a folder "
            "only `output: {name: pooled}`, or a layer's name, makes sense: its features teach an embedding."
        )
    if "format" in config:
        if not isinstance(config["format"], str):
            raise UserError(
                f"{source.place / CONFIG}, format: found {shown(config['format'])}, expected a name."
            )
        network = FORMS[config["format"]].open(source, config)
    elif "architecture" in config:
        from distill_mtl.networks.timm_folder import open_timm_folder

        network = open_timm_folder(source, config)
    else:
        raise UserError(
            f"{source.place / CONFIG} is neither timm's (no `architecture`), transformers' (no `architectures`), "
            "segmentation-models-pytorch's (no `_model_class`) nor a student's of ours (no `format`). Save the network "
            "with timm.models.save_for_hf(model, FOLDER, safe_serialization=True), or with the library's "
            "save_pretrained."
        )
    if feature is not None:
        network = network.giving(str(feature))
    inputs = overridden(network.inputs, section.input)
    return network if inputs == network.inputs else network.with_inputs(inputs)


def _file(section: TeacherSection, path: Path) -> NetworkFiles:
    """The file of a runtime.

    Raises:
        UserError: no such file, or one of another form.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist.")
    for ending in RUNTIMES.names():
        runtime = RUNTIMES[ending]
        if path.suffix.lower() == ending or runtime.also_reads(path):
            program = runtime.words if runtime.is_program else None
            opener = partial(_open_runtime, load=partial(runtime, path), words=runtime.words)
            return NetworkFiles(section, path, runtime.files_of(path), program, opener)
    code = "`teacher: {module: 'package.module:callable', weights: ..., trust: true}`."
    if path.suffix.lower() == ".safetensors":
        raise UserError(
            f"{path} holds weights without their network. Name the folder with its config.json (timm's local-dir "
            f"form), or the code: {code}"
        )
    raise UserError(
        f"{path} is not a known form of network. Known are folders, and files that end in "
        f"{', '.join(RUNTIMES.names())}. A state dict needs its code: {code}"
    )


def _own_module(section: TeacherSection) -> NetworkFiles:
    """A network in the user's own code."""
    from distill_mtl.networks.runtimes.own_module import ModuleRuntime, module_files

    spec, weights = str(section.module), Path(str(section.weights))
    if not os.path.isfile(weights):
        raise UserError(f"{weights} does not exist. `weights` names the state dict of `module`.")
    files = (weights, *(module_files(spec) if section.trust else ()))
    load = partial(ModuleRuntime, spec, section.args, weights)
    words = ModuleRuntime.words
    return NetworkFiles(section, weights, files, words, partial(_open_runtime, load=load, words=words))


def _of_library(section: TeacherSection, name: str) -> NetworkFiles:
    """A network that a library builds."""
    library = LIBRARIES[name]
    found = library.find(section)
    opener = partial(_open_runtime, load=partial(library.load, section, found), words=library.words)
    return NetworkFiles(section, found.place, found.files, None, opener)


def _is_grey(runtime: Runtime, inputs: InputContract) -> bool:
    """Whether the network takes pictures of one channel, and none of three, as a trial shows."""
    try:
        of_three, of_one = (
            _takes(runtime, Preprocess(contract)(torch.zeros(inputs.batch or 2, 3, *inputs.size)))
            for contract in (
                inputs,
                replace(inputs, channels="grey", mean=inputs.mean[:1], std=inputs.std[:1]),
            )
        )
    except ValueError:
        return False
    return of_one and not of_three


@torch.no_grad()
def _takes(runtime: Runtime, pixels: Tensor) -> bool:
    try:
        runtime.probe(pixels)
    except UserError:
        return False
    return True


def _open_runtime(source: NetworkFiles, *, load: Callable[[], Runtime], words: str) -> Network:
    """A network behind a runtime; the note of `distill-mtl export` says its tasks, where it has one."""
    runtime, section = load(), source.section
    note, beside = read_note(runtime.declared), read_detector_note(runtime.declared)
    declared = replace(runtime.declared, size=runtime.declared.size or beside.size)
    inputs, told, assumed = contract_of(declared, section.input)
    if "channels" in assumed and _is_grey(runtime, inputs):
        grey = section.input.model_copy(update={"channels": "grey"})
        inputs, told, assumed = contract_of(declared, grey)
    described = note.get("tasks") or {}
    tasks = {task: TaskOutput.of_entry(f"'{task}' of {words}", entry) for task, entry in described.items()}
    kind = note.get("kind") or runtime.declared.kind
    classes = tuple(map(str, note.get("classes") or ())) or runtime.declared.classes or beside.classes
    output, answers = section.output, note.get("outputs", ())
    raw, reading, count = None, None, _class_count(section, classes)
    if may_be_boxes(output, known=bool(tasks) or kind not in (None, "heatmap")):
        raw = trial(runtime, Preprocess(inputs))
        reading = find_reading(raw, inputs.size, output, count)
    if reading is not None and not declared.proposed:
        inputs = with_statistics(inputs, assumed, reading.kind.mean, reading.kind.std)
    if reading is not None and inputs.resize == "pad" and "pad" not in told and section.input.pad is None:
        inputs = replace(inputs, pad=reading.kind.pad)
        assumed = (*assumed, *(["pad"] if reading.kind.pad else []))

    def view(task: str) -> TaskNetwork:
        if reading is not None:
            return BoxNetwork(runtime, inputs, reading, count, answers=answers, raw=raw)
        said = {"name": task if output.name is None else output.name, "gives": output.gives or "logits"}
        chosen = output.model_copy(update=said) if task in described else output
        return RuntimeNetwork(runtime, inputs, chosen, answers=answers, raw=raw)

    return Network(
        source,
        inputs,
        tasks or {task_name(str(source.place)): TaskOutput(words, kind, classes)},
        view,
        names_tasks=bool(tasks),
        told=told,
        assumed=assumed,
        resize=note.get("resize") or ("pad" if reading is not None else None),
        any_size=bool(note.get("preprocess")) and section.input == InputSection(),
    )


def _class_count(section: TeacherSection, named: Sequence[str] | None) -> int | None:
    """How many classes recipe or file name for a network; None: they do not."""
    said = section.classes if section.classes is not None else named
    return said if said is None or isinstance(said, int) else len(said)
