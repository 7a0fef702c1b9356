"""MGDA-UB: the direction that hurts no task, found at the shared features in one pass."""

from distill_mtl.balance.min_norm_rule import MinNormRule
from distill_mtl.balance.registry import register


@register("mgda_ub")
class MGDAUB(MinNormRule):
    """Sener & Koltun 2018, section 3.3: one backward through the heads, one through the trunk.

    Decides on gradients at the shared features, an upper bound of those in the parameters: where the
    trunk is ill-conditioned its direction may still hurt a task, which `mgda`'s cannot; `measure_harm`
    tells how often. It means nothing where tasks have losses on different rows, for then no two
    gradients ever meet.

    The weights belong to the backward pass they were chosen in: with gradient accumulation each
    micro-batch has its own.
    """

    needs_coverage = True
