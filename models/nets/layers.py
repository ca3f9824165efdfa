"""Layers that every net of the project shares: the normalisation in front and the dense head behind."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """`(x - mean) / std` per channel, as the net's first layer, so that everything outside the net stays in [0, 1].

    The statistics are buffers: they travel in the checkpoint; `train.fit` sets them from the training images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, channels, 1, 1), 0.25))

    def forward(self, images: Tensor) -> Tensor:
        features = (images - self.mean) / self.std
        kind = images.device.type
        # Under autocast a float32 image would be concatenated with bfloat16 features, and the whole first dense block,
        # the largest, would be float32 again.
        return features.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else features


class Dropout(nn.Module):
    """Drops a `share` of values, in [0, 1), while training, and scales the rest so that the mean stays.

    On a CPU torch draws a random number for each value, one after the other: at 48x48 that takes longer than
    the convolution before it. Here one draw of 64 bits serves four values, so `share` is exact to 1/32,768.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return features
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return nn.functional.dropout(features, self.share)
        if features.device.type != "cpu":
            return nn.functional.dropout(features, self.share)
        draws = torch.empty(-(-features.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        # Laid out in memory as the features are, or what follows would be slow.
        draws = draws.view(torch.int16).as_strided(features.size(), features.stride())
        # 15 bits of each draw, compared by a subtraction whose sign fills all bits: 0 where dropped, else -1. Whole
        # numbers of 16 bits are what a CPU does fastest; a comparison takes ten times as long.
        kept = draws.bitwise_right_shift_(1).neg_().add_(round(self.share * 2**15) - 2**14 - 1).bitwise_right_shift_(15)
        return _Drop.apply(features, kept, 1 / (1 - self.share))

    def extra_repr(self) -> str:
        return f"share={self.share}"


class _Drop(torch.autograd.Function):
    """`features * scale` where `kept` (int16) is -1, and 0 where it is 0."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _where_kept(features, kept, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return _where_kept(gradient, kept, ctx.scale), None, None


def _where_kept(values: Tensor, kept: Tensor, scale: float) -> Tensor:
    if values.dtype == torch.bfloat16:
        return (values.view(torch.int16) & kept).view(torch.bfloat16).mul_(scale)
    return values * kept.to(values.dtype).mul_(-scale)


class JoinedConv2d(nn.Conv2d):
    """A convolution of the concatenation of its inputs: `conv(a, b)` is `Conv2d`'s `conv(cat([a, b], dim=1))`.

    The concatenation is not kept for the backward pass, so the memory of a dense block grows with its convolutions and
    not with their square (as in Pleiss et al. 2017, https://arxiv.org/abs/1707.06990), and each input gets its
    gradient as a tensor of its own: as a slice of a larger one every further step of the backward pass took several
    times as long on a CPU.
    """

    folds = True  # it is linear, so what asks a net may put the batch norm behind it into its weights

    def forward(self, *inputs: Tensor) -> Tensor:
        if len(inputs) == 1 or not torch.is_grad_enabled():
            return super().forward(inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1))
        kind = inputs[0].device.type
        # Autocast does not reach into a function of our own.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        inputs = tuple(features.to(dtype) for features in inputs)
        return _JoinedConv2d.apply(self.weight.to(dtype), bias, *inputs)


class _JoinedConv2d(torch.autograd.Function):
    """Of odd square kernels that keep height and width, as all of the nets here."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *inputs)
        return nn.functional.conv2d(torch.cat(inputs, dim=1), weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        of_weight, of_bias, *of_inputs = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        padding = [weight.shape[-1] // 2] * 2
        weights: list[Tensor] = []
        found: list[Tensor | None] = []
        bias, first = None, 0
        for group in _groups(inputs, of_inputs):
            features = torch.cat(group, dim=1) if len(group) > 1 else group[0]
            part = weight[:, first : first + features.shape[1]].contiguous(memory_format=torch.channels_last)
            wanted = [of_inputs[len(found)], of_weight, of_bias and first == 0]
            of_group, of_part, of_first = torch.ops.aten.convolution_backward(
                gradient, features, part, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, wanted
            )
            first += features.shape[1]
            weights.append(of_part)
            bias = of_first if bias is None else bias
            if len(group) == 1:
                found.append(of_group)
            else:
                pieces = of_group.split([features.shape[1] for features in group], dim=1)
                found += [piece.contiguous(memory_format=torch.channels_last) for piece in pieces]
        return torch.cat(weights, dim=1) if of_weight else None, bias, *found


def _groups(inputs: Sequence[Tensor], need_gradient: Sequence[bool], *, width: int = 16) -> list[list[Tensor]]:
    """Neighbours together until they have the `width` in channels that a CPU computes at once anyway.

    Only inputs that need a gradient: an image has one channel and needs none, and would make a group's last few
    channels cost as much as another `width`.
    """
    groups: list[list[Tensor]] = []
    open_group = False
    for features, needed in zip(inputs, need_gradient, strict=True):
        if open_group and needed:
            groups[-1].append(features)
        else:
            groups.append([features])
        open_group = needed and sum(member.shape[1] for member in groups[-1]) < width
    return groups


class Halve(nn.Module):
    """2x2 max-pooling: `(N, C, H, W) -> (N, C, H // 2, W // 2)`; of values that are not negative unless `signed`."""

    def __init__(self, *, signed: bool = False) -> None:
        super().__init__()
        self.signed = signed

    def forward(self, features: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return nn.functional.max_pool2d(features, 2)
        needs_gradient = features.requires_grad and torch.is_grad_enabled()
        if features.device.type != "cpu" or (needs_gradient and (self.signed or features.dtype != torch.bfloat16)):
            return nn.functional.max_pool2d(features, 2)
        height, width = features.shape[2] // 2 * 2, features.shape[3] // 2 * 2
        even = features[:, :, :height, :width]
        if needs_gradient:
            return _Halve.apply(even)
        rows = torch.maximum(even[..., 0::2], even[..., 1::2])  # of any values, and a third of max_pool2d's time
        return torch.maximum(rows[..., 0::2, :], rows[..., 1::2, :])


class _Halve(torch.autograd.Function):
    """Max-pooling in bfloat16 as whole numbers of 16 bits, which for values from zero up have the same order.

    A CPU pools those several times as fast. As in torch, the first of equal values gets the gradient.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        bits = features.view(torch.int16)
        left, right = bits[..., 0::2], bits[..., 1::2]
        from_right = (left - right).bitwise_right_shift_(15)  # -1 where right is larger, else 0
        rows = torch.maximum(left, right)
        upper, lower = rows[..., 0::2, :], rows[..., 1::2, :]
        from_lower = (upper - lower).bitwise_right_shift_(15)
        ctx.save_for_backward(from_right, from_lower)
        return torch.maximum(upper, lower).view(torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        from_right, from_lower = ctx.saved_tensors
        bits = gradient.contiguous(memory_format=torch.channels_last).view(torch.int16)
        rows = torch.empty_like(from_right)
        _deal(bits, from_lower, rows[..., 0::2, :], rows[..., 1::2, :])
        n, channels, height, width = rows.shape
        found = torch.empty((n, channels, height, 2 * width), dtype=torch.int16, memory_format=torch.channels_last)
        _deal(rows, from_right, found[..., 0::2], found[..., 1::2])
        return found.view(torch.bfloat16)


def _deal(bits: Tensor, to_second: Tensor, first: Tensor, second: Tensor) -> None:
    """Write each value into `second` where the mask is -1, into `first` where it is 0, and 0 into the other."""
    torch.bitwise_and(bits, to_second, out=second)
    torch.bitwise_xor(bits, second, out=first)


class JoinedStage(nn.Sequential):
    """A `JoinedConv2d` and what follows it: `(a, b, ...) -> features`."""

    folds = True  # one after the other, as in any sequence

    def forward(self, *inputs: Tensor) -> Tensor:
        features: Tensor = self[0](*inputs)
        for layer in islice(self, 1, None):
            features = layer(features)
        return features


def convolution(
    inputs: int, outputs: int, kernel: int, *, batch_norm: bool, dropout: float, joined: bool = False
) -> nn.Sequential:
    """A convolution that keeps height and width, then batch norm (optional), ReLU and dropout (a share in [0, 1)).

    With `joined` it takes several tensors, which have `inputs` channels together.
    """
    kind = JoinedConv2d if joined else nn.Conv2d
    layers: list[nn.Module] = [kind(inputs, outputs, kernel, padding=kernel // 2, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    layers.append(nn.ReLU(inplace=True))
    if dropout > 0:
        layers.append(Dropout(dropout))
    return JoinedStage(*layers) if joined else nn.Sequential(*layers)


class Logits(nn.Linear):
    """The last dense layer, `(N, features) -> (N, classes)`: on a CPU the logits of a row are its own alone.

    Matrix products for few classes round a row by its place in the batch on some processors (seen: MKL with 50 features
    and 2 classes), and an attack of the same face in another order would then end elsewhere.
    """

    def forward(self, features: Tensor) -> Tensor:
        if features.device.type != "cpu" or self.out_features > 16:
            return nn.functional.linear(features, self.weight, self.bias)
        return (features[:, None] * self.weight).sum(-1) + self.bias


class Dense(nn.Linear):
    """`nn.Linear` on `(N, features)` whose answer for a row is the same to the bit, however many are asked about.

    Products of matrices round otherwise at other numbers of rows; on a CPU rows of zeros make them a multiple of 16.
    """

    ROWS = 16

    def forward(self, features: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return nn.functional.linear(features, self.weight, self.bias)
        if torch.compiler.is_compiling():
            return nn.functional.linear(features, self.weight, self.bias)
        missing = -len(features) % self.ROWS
        if missing == 0 or features.device.type != "cpu":
            return nn.functional.linear(features, self.weight, self.bias)
        return nn.functional.linear(nn.functional.pad(features, (0, 0, 0, missing)), self.weight, self.bias)[:-missing]


def head(features: int, classes: int) -> nn.Sequential:
    """`(N, C, H, W)` with `C*H*W == features` -> logits `(N, classes)`, through one dense layer of 50 units."""
    return nn.Sequential(nn.Flatten(), Dense(features, 50), nn.ReLU(inplace=True), Logits(50, classes))


def check_grid(
    size: tuple[int, int], *, blocks: int, convs: int, filters: int, dropout: float, out_channels: int = 1
) -> tuple[int, int]:
    """Height and width after `blocks` halvings; ValueError in one sentence where the parameters make no net."""
    for name, value in (("blocks", blocks), ("convs", convs), ("filters", filters), ("out_channels", out_channels)):
        if value < 1:
            raise ValueError(f"{name}={value}: a net needs at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: it is the share of values dropped, in [0, 1)")
    height, width = size[0] >> blocks, size[1] >> blocks
    if height < 1 or width < 1:
        raise ValueError(f"blocks={blocks}: images of {size[0]}x{size[1]} can be halved fewer times than that")
    return height, width
