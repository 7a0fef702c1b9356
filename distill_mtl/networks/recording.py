"""Whether a forward pass is being recorded as a graph, for code that looks at sizes."""

import torch


def recorded() -> bool:
    """True while torch.export or torch.jit.trace records: a shortcut for one size would be all that the graph knows."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()
