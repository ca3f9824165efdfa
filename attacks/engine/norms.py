"""Sizes of a change, one number per image, in [0, 1] pixel units."""

from collections.abc import Callable

from torch import Tensor


def l0(change: Tensor) -> Tensor:
    """Changed positions of (N, C, H, W): a pixel counts once however many of its channels moved. Returns float (N,)."""
    return (change != 0).any(dim=1).flatten(1).sum(dim=1).to(change.dtype)


def l1(change: Tensor) -> Tensor:
    """Sum of absolute values of (N, C, H, W). Returns (N,)."""
    return change.abs().flatten(1).sum(dim=1)


def l2(change: Tensor) -> Tensor:
    """Euclidean length of (N, C, H, W). Returns (N,)."""
    return change.flatten(1).square().sum(dim=1).sqrt()


def linf(change: Tensor) -> Tensor:
    """Largest absolute value of (N, C, H, W). Returns (N,)."""
    return change.abs().flatten(1).amax(dim=1)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {"l0": l0, "l1": l1, "l2": l2, "linf": linf}


def find_norm(name: str) -> Callable[[Tensor], Tensor]:
    """The norm called `name`; ValueError with the known names for any other."""
    if name not in NORMS:
        raise ValueError(f"unknown norm {name!r}; known norms: {', '.join(NORMS)}")
    return NORMS[name]
