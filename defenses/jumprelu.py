"""JumpReLU (Erichson et al. 2019, https://arxiv.org/abs/1904.03750): units with a threshold."""

import copy

from torch import Tensor, nn


class JumpReLU(nn.Module):
    """`z` where it is above `kappa`, else 0; with `kappa` 0, ReLU."""

    def __init__(self, kappa: float) -> None:
        super().__init__()
        self.kappa = kappa

    def forward(self, features: Tensor) -> Tensor:
        return features * (features > self.kappa) + 0.0  # for what is cut off would be -0.0, and `Halve` sees its sign

    def extra_repr(self) -> str:
        return f"kappa={self.kappa}"


def jumprelu(net: nn.Module, *, kappa: float = 0.1) -> nn.Module:
    """A copy of `net` whose every ReLU jumps at `kappa` (of the features' own scale, not negative); nothing is trained.

    Raises:
        ValueError: `kappa` is negative, or the net has no module `nn.ReLU` to take the place of.
    """
    if not kappa >= 0:
        raise ValueError(f"kappa={kappa}: a threshold is not negative")
    if isinstance(net, nn.ReLU) or not any(isinstance(module, nn.ReLU) for module in net.modules()):
        raise ValueError(
            f"jumprelu takes the place of ReLUs inside a net, and {type(net).__name__} has none that it sees"
        )
    changed = copy.deepcopy(net)
    for module in list(changed.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, JumpReLU(kappa).train(child.training))
    return changed
