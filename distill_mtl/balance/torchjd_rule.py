"""The weightings of TorchJD (https://torchjd.org) through the one-pass Gramian; needs the extra [torchjd]."""

import difflib
from collections.abc import Sequence
from typing import Any

from distill_mtl.balance.gramian_rule import Normalize, Scale, Weighting
from distill_mtl.balance.rule import register

KNOWN = ("AlignedMTL", "CAGrad", "DualProj", "FairGrad", "IMTLG", "Krum", "MGDA", "PCGrad", "UPGrad")
"""Those that need nothing but a Gramian and keep nothing from step to step, for that could not be resumed."""


@register("torchjd:")
class TorchJD(Weighting):
    """`torchjd:UPGrad`, `torchjd:CAGrad` and the like: `torchjd.aggregation.<name>Weighting(**options)`.

    Args:
        tasks: names of all tasks.
        name: one of `KNOWN`.
        normalize, scale: see `GramianRule`.
        options: arguments of that class.

    Raises:
        ImportError: torchjd, or what that class needs besides it, is not installed.
        ValueError: a name that is not one of `KNOWN`, or options that the class refuses.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        name: str,
        *,
        normalize: Normalize = "none",
        scale: Scale = 1.0,
        **options: Any,
    ) -> None:
        if name not in KNOWN:
            close = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f" Did you mean 'torchjd:{close[0]}'?" if close else ""
            raise ValueError(f"unknown balancing rule 'torchjd:{name}'.{hint} Known: {', '.join(KNOWN)}.")
        try:
            from torchjd import aggregation
        except ImportError as error:
            raise ImportError(
                f"the balancing rule 'torchjd:{name}' needs torchjd: pip install 'distill_mtl[torchjd]'"
            ) from error
        try:
            weighting = getattr(aggregation, f"{name}Weighting")(**options)
        except TypeError as error:
            raise ValueError(f"balancing rule 'torchjd:{name}': {error}") from error
        super().__init__(weighting, tasks, normalize=normalize, scale=scale)
