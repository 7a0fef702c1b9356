"""The error for a network that was saved as it is while training; no later `eval()` reaches into such a file."""

from pathlib import Path

from distill_mtl.errors import UserError


def saved_while_training(path: Path, operation: str, export: str) -> UserError:
    """The error for a file whose answers depend on chance or on the rest of the batch.

    Args:
        path: the file.
        operation: the one that gave it away.
        export: how such a file is written.
    """
    return UserError(
        f"{path} was saved in training mode: its '{operation}' would use the statistics of each batch, or "
        f"chance. Call model.eval() before {export}, and save it again."
    )
