"""`--to hub`: the student's folder with its model card, as it lies in a repository of the Hugging Face hub."""

from pathlib import Path

import torch
from huggingface_hub import HfApi

from distill_mtl.errors import ExportError, brief
from distill_mtl.export.aside import export_folder
from distill_mtl.export.format import FORMATS, Format, Order
from distill_mtl.export.hub_card import UNKNOWN, hub_card
from distill_mtl.networks.weights import read_config
from distill_mtl.students.student_folder import load_student, save_student


@FORMATS.register("hub")
class Hub(Format):
    """The folder is written in any case; `--repo OWNER/NAME` pushes it."""

    name = "hub"
    ending = "-hub"
    options = frozenset({"repo", "private", "license"})

    def export(self, order: Order) -> None:
        if order.private and order.repo is None:
            raise ExportError("--private says who sees a repository. Name it with --repo OWNER/NAME.")
        with export_folder(order.out, overwrite=order.overwrite) as folder:
            extra = read_config(order.trained.folder).get("extra", {})
            save_student(order.student, folder, card=hub_card(order), extra=extra)
            _refuse_difference(order, folder)
        order.console.print(f"{order.out}: {', '.join(order.tasks)}", highlight=False, soft_wrap=True)
        if order.license is None:
            order.console.print(
                f"The card says `license: {UNKNOWN}`, unless the run's own names one. --license apache-2.0 does.",
                highlight=False,
                soft_wrap=True,
            )
        if order.repo is None:
            order.console.print("Not pushed: --repo OWNER/NAME names where to.", highlight=False)
            return
        url = push(
            order.out, order.repo, private=order.private, message=f"A student for {', '.join(order.tasks)}"
        )
        order.console.print(f"pushed to {url}", highlight=False, soft_wrap=True)
        order.console.print(f'load_student("hf_hub:{order.repo}") opens it.', highlight=False, soft_wrap=True)


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


def _refuse_difference(order: Order, folder: Path) -> None:
    """Raise ExportError where the folder does not hold the very weights."""
    written = load_student(folder, trust=order.trained.trust).student.state_dict()
    for name, value in order.student.state_dict().items():
        if not torch.equal(value, written[name]):
            raise ExportError(f"{folder}: {name} is not the student's. Is the disk damaged?")
