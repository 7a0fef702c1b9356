"""`--to hub`: the student's folder as it lies in a repository of the Hugging Face hub.

Its README.md is the run's model card, with what the hub asks for on top.
"""

from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelCard

from distill_mtl.errors import ExportError, brief
from distill_mtl.evaluation import Evaluation
from distill_mtl.export.export_format import FORMATS, ExportRequest, Format, export_folder
from distill_mtl.networks.weights import CARD, read_config
from distill_mtl.reading import Remedy, read_text
from distill_mtl.recipe.schema import task_of
from distill_mtl.report.markdown import markdown_table
from distill_mtl.report.model_card import model_card
from distill_mtl.report.sections.scores import short_table
from distill_mtl.run_files import RunFiles
from distill_mtl.run_notes import read_teachers
from distill_mtl.students.student_folder import load_student, save_student

PLACE = "path/to/this/folder"
"""What the run's card says for the folder in its example."""
UNKNOWN = "unknown"
"""The hub's name for an unknown licence."""


@FORMATS.register("hub")
class Hub(Format):
    """The folder is written in any case; `--repo OWNER/NAME` pushes it."""

    name = "hub"
    ending = "-hub"
    options = frozenset({"repo", "private", "license"})

    def export(self, request: ExportRequest) -> None:
        if request.private and request.repo is None:
            raise ExportError("--private says who sees a repository. Name it with --repo OWNER/NAME.")
        with export_folder(request.out, overwrite=request.overwrite) as folder:
            extra = read_config(request.source.folder).get("extra", {})
            save_student(request.student, folder, card=hub_card(request), extra=extra)
            _refuse_difference(request, folder)
        request.console.print(f"{request.out}: {', '.join(request.tasks)}", highlight=False, soft_wrap=True)
        if request.license is None:
            request.console.print(
                f"The card says `license: {UNKNOWN}`, unless the run's own names one. --license apache-2.0 does.",
                highlight=False,
                soft_wrap=True,
            )
        if request.repo is None:
            request.console.print("Not pushed: --repo OWNER/NAME names where to.", highlight=False)
            return
        url = push(
            request.out,
            request.repo,
            private=request.private,
            message=f"A student for {', '.join(request.tasks)}",
        )
        request.console.print(f"pushed to {url}", highlight=False, soft_wrap=True)
        request.console.print(
            f'load_student("hf_hub:{request.repo}") opens it.', highlight=False, soft_wrap=True
        )


def push(folder: Path, repo: str, *, private: bool, message: str) -> str:
    """Upload a folder to a model repository, which is made if it is not there; gives its address.

    The client finds its credentials by itself: `hf auth login`, or $HF_TOKEN.

    Raises:
        ExportError: the hub cannot be reached, or refuses.
    """
    try:
        api = HfApi()
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message=message)
    # The client's errors, those of its network library and of its checks have no common type in all versions.
    except Exception as error:
        raise ExportError(
            f"{repo} cannot be pushed: {brief(error)}. Credentials come from `hf auth login` or $HF_TOKEN. What would "
            f"have been pushed is in {folder}; `hf upload {repo} {folder}` pushes it later."
        ) from error
    return str(url)


def hub_card(request: ExportRequest) -> str:
    """The card with its YAML front matter: library_name, licence, tags.

    The run's own card where the whole student is exported; else a new one, with the scores of the tasks that are.

    Raises:
        ExportError: the run's card has a front matter that is not YAML.
    """
    card = ModelCard(_text(request))
    card.data["library_name"] = "distill_mtl"
    card.data["license"] = request.license or card.data.get("license") or UNKNOWN
    text = str(card)
    return text.replace(PLACE, f"hf_hub:{request.repo}") if request.repo is not None else text


def _refuse_difference(request: ExportRequest, folder: Path) -> None:
    """Raise ExportError where the folder does not hold the very weights."""
    written = load_student(folder, trust=request.source.trust).student.state_dict()
    for name, value in request.student.state_dict().items():
        if not torch.equal(value, written[name]):
            raise ExportError(f"{folder}: {name} is not the student's. Is the disk damaged?")


def _text(request: ExportRequest) -> str:
    """The card as the run wrote it, or a new one."""
    whole = set(request.source.load().student.kinds) == set(request.tasks)
    path = request.source.folder / CARD
    if whole and path.is_file():
        text = read_text(path, remedy=Remedy("Correct it.", ExportError))
        try:
            ModelCard(text, ignore_metadata_errors=False)
        # Whatever a YAML reader stumbles over.
        except Exception as error:
            raise ExportError(
                f"{path}: its front matter cannot be read: {brief(error)}. Correct it."
            ) from error
        return text
    trunk = request.student.trunk
    text = model_card(
        name=request.source.name,
        architecture=trunk.name,
        size=trunk.inputs.size,
        kinds=request.student.kinds,
        teachers=_teachers(request),
        recipe_digest=request.source.recipe_sha256,
        needs=trunk.code,
    )
    scores = _scores(request)
    return text + (f"\n## Student against teachers\n\n{scores}\n" if scores else "")


def _teachers(request: ExportRequest) -> dict[str, str]:
    """What taught each task, as the run's teachers.json says."""
    found = read_teachers(RunFiles(request.source.run).teachers)
    said: dict[str, list[str]] = {}
    for name, entry in found.items():
        if task_of(name) in request.tasks and {"file", "sha256"} <= entry.keys():
            said.setdefault(task_of(name), []).append(
                f"{Path(entry['file']).parent.name} {entry['sha256'][:12]}"
            )
    return {task: ", ".join(said[task]) for task in request.tasks if task in said}


def _scores(request: ExportRequest) -> str:
    """A table of the run's results.json, of the tasks that are exported; empty where there is none."""
    path = request.source.run / "results.json"
    if not path.is_file():
        return ""
    results = Evaluation.read(path)
    columns = ("task", "metric", "rows", "teacher", "student", "delta")
    only = [task for task in request.tasks if task in results.tasks]
    return markdown_table(short_table(results, columns, only)) if only else ""
