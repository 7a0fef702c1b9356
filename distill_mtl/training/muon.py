"""Muon (Jordan 2024): steps along the orthogonal part of each matrix's momentum, for the matrices inside a trunk.

The steps are those of timm's `Muon`, and so is NAdamW for what is no such matrix. On a CPU timm's products cost a small
student more than a tenth of its step; these cost less than half of that.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from timm.optim.nadamw import nadamw
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
"""a, b and c of each step X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X (timm's "quintic")."""
LIKE_ADAM = 0.2
"""Root mean square of a step at rate 1, about that of Adam's, so that both take one rate (Liu et al. 2025,
arXiv:2502.16982, section 2.2)."""
EPS = 1e-7


class Muon(Optimizer):
    """Muon with Nesterov momentum; groups with `use_fallback` are stepped by NAdamW.

    Args:
        groups: of parameters; in those without `use_fallback` each is a matrix, or a convolution's weight
            [out, in, ...], which is taken as the matrix [out, in * ...].
        lr: of all groups.
        momentum: of matrices.
        betas: of the others.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, betas: tuple[float, float]
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": betas,
            "weight_decay": 0.0,
            "use_fallback": False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._step_others if group["use_fallback"] else self._step_matrices)(group, parameters)
        return loss

    def _step_matrices(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients, momenta = self._with_state(parameters, "momentum_buffer")
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        for parameter, update in zip(parameters, updates, strict=True):
            weight, x = (short_and_wide(tensor, like=parameter) for tensor in (parameter, update))
            size = LIKE_ADAM * max(weight.shape) ** 0.5
            keep = 1 - group["lr"] * group["weight_decay"]
            step_orthogonally(weight, x, keep=keep, rate=group["lr"] * size)

    def _step_others(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients, means, squares = self._with_state(parameters, "exp_avg", "exp_avg_sq")
        for parameter in parameters:
            self.state[parameter].setdefault("step", torch.zeros(()))
        nadamw(
            parameters,
            gradients,
            means,
            squares,
            [self.state[parameter]["step"] for parameter in parameters],
            foreach=True,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPS,
            caution=False,
            maximize=False,
            max_lr=None,
        )

    def _with_state(self, parameters: list[Tensor], *names: str) -> list[list[Tensor]]:
        """The gradients, and for each name what is kept for each parameter, zero at first."""
        found = [[parameter.grad for parameter in parameters if parameter.grad is not None]]
        for name in names:
            for parameter in parameters:
                if name not in self.state[parameter]:
                    self.state[parameter][name] = torch.zeros_like(parameter)
            found.append([self.state[parameter][name] for parameter in parameters])
        return found


def short_and_wide(tensor: Tensor, like: Tensor) -> Tensor:
    """A matrix, or a convolution's weight [out, in, ...], as a matrix [m, n], m <= n; of `like` itself a view.

    Args:
        tensor: in the shape of `like`.
        like: whose memory says in which order columns are: for an orthogonal step they may be in any.
    """
    own = tensor is like
    if like.movedim(1, -1).is_contiguous():
        tensor = tensor.movedim(1, -1)
    # A step into a copy of the weight would be lost.
    matrix = tensor.view(len(tensor), -1) if own else tensor.flatten(1)
    return matrix if len(matrix) <= matrix.shape[1] else matrix.T


def step_orthogonally(weight: Tensor, x: Tensor, *, keep: float, rate: float) -> None:
    """weight <- keep * weight - rate * U Vᵀ for X = U S Vᵀ, about; both [m, n].

    On a GPU, whose half precision is many times faster, by timm's steps, which multiply X itself in bf16.
    """
    if x.is_cuda:
        step = zeropower_via_newtonschulz(x, len(COEFFICIENTS), COEFFICIENTS)
        weight.mul_(keep).add_(step, alpha=-rate)
    else:
        weight.addmm_(orthogonaliser(x), x, beta=keep, alpha=-rate)


def orthogonaliser(x: Tensor) -> Tensor:
    """[m, m]: Q such that Q X is about U Vᵀ for X = U S Vᵀ [m, n], by five steps of Newton and Schulz.

    A step multiplies X / |X| by a polynomial in its Gram matrix A = X Xᵀ / |X|². All these commute, so steps are taken
    with A, and X, which is the wider of both, is not multiplied until Q is known. That needs single precision.
    """
    gram = x @ x.T
    length = gram.trace().sqrt().clamp(min=EPS)
    gram.div_(length * length)
    factor, product = gram, gram
    for number, (a, b, c) in enumerate(COEFFICIENTS):
        if number:
            gram = factor @ gram @ factor
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product if number else factor
    return product / length
