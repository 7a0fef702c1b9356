"""Muon (Jordan 2024): steps along the orthogonal part of each matrix's momentum, for the matrices inside a trunk.

The steps are those of timm's `Muon`, and so is NAdamW for what is no such matrix. On a CPU timm's products cost a small
student more than a tenth of its step; these cost less than half of that.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from timm.optim.muon import zeropower_via_newtonschulz
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
TOGETHER = 2**18
"""Entries of the Gram matrices of one size that are multiplied at a time: calls cost more than products where these are
small, and memory more where they are large."""


class Muon(Optimizer):
    """Muon with Nesterov momentum; groups with `use_fallback` are stepped by NAdamW.

    Args:
        groups: of parameters; in those without `use_fallback` each is a matrix, or a convolution's weight
            [out, in, ...], which is taken as the matrix [out, in * ...].
        lr: of all groups.
        momentum: of the matrices of all groups.
        betas: of the others, in all groups.
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
        matrices: list[tuple[dict[str, Any], Tensor]] = []
        others: list[tuple[dict[str, Any], Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (others if group["use_fallback"] else matrices).append((group, parameter))
        if matrices:
            self._step_matrices(matrices)
        if others:
            self._step_others(others)
        return loss

    def _step_matrices(self, of_groups: list[tuple[dict[str, Any], Tensor]]) -> None:
        groups, parameters = zip(*of_groups, strict=True)
        gradients = [parameter.grad for parameter in parameters]
        momenta = self._state(parameters, "momentum_buffer")
        momentum = self.defaults["momentum"]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, momenta, momentum)
        weights = [short_and_wide(parameter, like=parameter) for parameter in parameters]
        xs = [short_and_wide(*of_one) for of_one in zip(updates, parameters, strict=True)]
        rates = [
            group["lr"] * LIKE_ADAM * max(w.shape) ** 0.5 for group, w in zip(groups, weights, strict=True)
        ]
        keeps = [1 - group["lr"] * group["weight_decay"] for group in groups]
        # A GPU's half precision is many times faster, so that timm's steps multiply X itself in bf16.
        if xs[0].is_cuda:
            for weight, x, keep, rate in zip(weights, xs, keeps, rates, strict=True):
                step = zeropower_via_newtonschulz(x, len(COEFFICIENTS), COEFFICIENTS)
                weight.mul_(keep).add_(step, alpha=-rate)
        else:
            for at, factor in orthogonalisers(xs):
                weights[at].addmm_(factor, xs[at], beta=keeps[at], alpha=-rates[at])

    def _step_others(self, of_groups: list[tuple[dict[str, Any], Tensor]]) -> None:
        """NAdamW as timm's, for all groups at once."""
        groups, parameters = zip(*of_groups, strict=True)
        gradients = [parameter.grad for parameter in parameters]
        means, squares = self._state(parameters, "exp_avg"), self._state(parameters, "exp_avg_sq")
        steps = [self.state[parameter].setdefault("step", torch.zeros(())) for parameter in parameters]
        torch._foreach_add_(steps, 1)
        taken = [int(step) for step in steps]
        beta1, beta2 = self.defaults["betas"]
        torch._foreach_mul_(parameters, [1 - group["lr"] * group["weight_decay"] for group in groups])
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        looking_ahead = torch._foreach_lerp(means, gradients, 1 - beta1)
        lengths = torch._foreach_sqrt(squares)
        torch._foreach_div_(lengths, [(1 - beta2**count) ** 0.5 for count in taken])
        torch._foreach_add_(lengths, EPS)
        rates = [-group["lr"] / (1 - beta1**count) for group, count in zip(groups, taken, strict=True)]
        torch._foreach_addcdiv_(parameters, looking_ahead, lengths, rates)

    def _state(self, parameters: Iterable[Tensor], name: str) -> list[Tensor]:
        """What is kept for each parameter under a name, zero at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


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


def orthogonalisers(xs: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """For each X = U S Vᵀ [m, n], m <= n, its place and a matrix Q [m, m] such that Q X is about U Vᵀ.

    A step of Newton and Schulz multiplies X / |X| by a polynomial in its Gram matrix A = X Xᵀ / |X|². All these
    commute, so steps are taken with A, and X, which is the wider of both, is not multiplied until Q is known. That
    needs single precision. Gram matrices of one size are multiplied together.
    """
    alike: dict[tuple[int, torch.dtype], list[int]] = {}
    for place, x in enumerate(xs):
        alike.setdefault((len(x), x.dtype), []).append(place)
    for (size, _), places in alike.items():
        count = max(1, TOGETHER // size**2)
        for start in range(0, len(places), count):
            some = places[start : start + count]
            yield from zip(some, _orthogonalisers([xs[place] for place in some]), strict=True)


def _orthogonalisers(xs: Sequence[Tensor]) -> Tensor:
    """[k, m, m], of k matrices of as many rows."""
    gram = torch.stack([x @ x.T for x in xs])
    length = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt_().clamp_(min=EPS)[:, None, None]
    gram.div_(length * length)
    factor, product = gram, gram
    for number, (a, b, c) in enumerate(COEFFICIENTS):
        if number:
            gram = factor @ gram @ factor
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product if number else factor
    return product / length
