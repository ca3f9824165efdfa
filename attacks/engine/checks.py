"""Is this net fit to be attacked? Faults that make an attack fail and look like robustness, found before it starts.

After the checks of AutoAttack (Croce and Hein 2020, https://arxiv.org/abs/2003.01690) and the catalogue of masked
gradients of Athalye et al. 2018 (https://arxiv.org/abs/1802.00420).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dxray.attacks.engine.lattice import LEVELS
from dxray.attacks.engine.query import Query, margin, two_class

IMAGES = 16  # looked at, each with its negative; the figures of a fault are never subtle
SAME = 1e-4  # two logits are alike when they differ by less than this share of the largest: more than rounding
STEPS = (1, 2, 4, 8, 16, 32, 64)  # grey levels of the changes tried


@dataclass(frozen=True)
class Finding:
    """A fault: what was measured, what it does to an attack's figures, and what puts it right; a sentence each."""

    name: str
    evidence: str
    consequence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. {self.consequence}. {self.remedy}."


def check(net: nn.Module, inputs: Tensor, labels: Tensor | None = None) -> list[Finding]:
    """What is wrong with `net` as a victim; nothing, for a healthy one, trained or not.

    Args:
        net: pixels in [0, 1] to logits; left as it was, its running statistics and torch's random state too.
        inputs: float32 (N, C, H, W) in [0, 1]; the first 16 are looked at, for the accuracy all.
        labels: true classes int64 (N,), -1 where unknown; without them the accuracy is not checked.
    """
    if len(inputs) == 0:
        return []
    device = next(net.parameters(), inputs).device
    inputs, labels = inputs.to(device), None if labels is None else labels.to(device)
    few = inputs[:IMAGES]
    batch = torch.cat([few, 1 - few])
    nothing = torch.zeros(len(batch), dtype=torch.int64)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        as_given = _as_given(net, batch)
        with Query(net, nothing):
            logits = net(batch)
            broken = _not_logits(logits, len(batch))
            if broken:
                return [broken]
            random = _random(logits, net(batch))
            found = [_training_mode(as_given, logits) if not random else None, random]
            found.append(_probabilities(net, batch, logits))
            if not random:  # to it, every comparison would look like a fault too
                found.append(_batch_mates(net, batch, logits))
                if not found[-2]:  # a probability alone, taken as a logit, is always of one class
                    found.append(_constant_or_range(net, inputs, batch, logits, labels))
            named = {finding.name for finding in found if finding}
            if not named & {"constant", "input_range"}:
                found.append(_gradients(net, batch, logits, saturated="probabilities" in named, still=not random))
                found.append(_accuracy(net, inputs, labels, two_class(logits).shape[1]))
    return [finding for finding in found if finding]


def _as_given(net: nn.Module, batch: Tensor) -> Tensor | None:
    """Logits in the mode that the net came in; None where that is eval mode."""
    if not any(module.training for module in net.modules()):
        return None
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        logits = net(batch)
    finally:
        for buffer, value in kept:  # a look in training mode moves the running statistics of batch norm
            buffer.copy_(value)
    return logits if isinstance(logits, Tensor) else None


def _not_logits(logits: object, count: int) -> Finding | None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        return Finding(
            "output",
            f"the net gave {got} for {count} images where logits ({count}, classes) are expected",
            "No attack can start",
            "Wrap it in a module that returns the logits alone",
        )
    bad = int((~torch.isfinite(logits)).any(dim=1).sum())
    if not bad:
        return None
    return Finding(
        "output",
        f"the net gave NaN or infinite logits for {bad} of {count} images and negatives",
        "An attack cannot compare such answers and stops",
        "Look for a division by zero, an overflow in half precision or a damaged weight",
    )


def _training_mode(as_given: Tensor | None, logits: Tensor) -> Finding | None:
    if as_given is None or as_given.shape != logits.shape or not _apart(as_given, logits):
        return None
    return Finding(
        "training_mode",
        f"the net came in training mode, where its logits differ by up to {_gap(as_given, logits):.2g} from eval mode",
        "dxray attacks it in eval mode, so an accuracy that was measured in training mode is that of another net",
        "Call net.eval() before it is measured or handed over",
    )


def _random(first: Tensor, second: Tensor) -> Finding | None:
    if not _apart(first, second):
        return None
    flipped = int((two_class(first).argmax(1) != two_class(second).argmax(1)).sum())
    return Finding(
        "random",
        f"two looks at the same {len(first)} images gave logits up to {_gap(first, second):.2g} apart, and another "
        f"class for {flipped}",
        "An image that fools once may not fool again, and single gradients point anywhere",
        "Switch off what draws random numbers in eval mode, or attack the mean of many looks",
    )


def _batch_mates(net: nn.Module, batch: Tensor, logits: Tensor) -> Finding | None:
    """The first half of a batch of the same shape, with other images in the second."""
    half = len(batch) // 2
    strangers = torch.rand(batch[half:].shape, generator=torch.Generator().manual_seed(0))
    moved = net(torch.cat([batch[:half], strangers]))
    if not _apart(moved[:half], logits[:half]):
        return None
    return Finding(
        "batch_mates",
        f"the logits of {half} images moved by up to {_gap(moved[:half], logits[:half]):.2g} when other images "
        "shared their batch, in eval mode",
        "What fools in an attack's batch need not fool alone: the saved file can miss",
        "Let batch norm use its running statistics (track_running_stats=True, then eval mode)",
    )


def _constant_or_range(
    net: nn.Module, inputs: Tensor, batch: Tensor, logits: Tensor, labels: Tensor | None
) -> Finding | None:
    wide = net(batch * LEVELS)
    told = f"on [0, 1] the net says class {int(two_class(logits)[0].argmax())} to all {len(batch)} images and negatives"
    right = _right_in_bytes(net, inputs, labels)
    if not _wants_bytes(two_class(logits), two_class(wide)) and right is None:
        if _gap(logits, logits[:1]) > 1e-6 * float(logits.abs().max()):
            return None
        return Finding(
            "constant",
            f"{told}, with the same logits",
            "There is no border to cross: nothing fools it and no accuracy means anything",
            "Look for a layer that died in training, or weights that were not loaded",
        )
    apart = len(two_class(wide).argmax(1).unique())
    return Finding(
        "input_range",
        f"{told}, but tells {apart} classes apart when they are given on [0, 255]"
        if right is None
        else f"the net is right on {right[0]:.0%} on [0, 1], and on {right[1]:.0%} on [0, 255]",
        "It sees nearly black images, and what changes within them is lost: it looks robust and is blind",
        "Multiply by 255 in its first layer, for dxray hands pixels in [0, 1] to every net",
    )


def _wants_bytes(logits: Tensor, wide: Tensor) -> bool:
    """One answer on [0, 1], different and sure ones on [0, 255], of the same order of size.

    A net that was never trained says one class too, and any net answers otherwise 255 times further out; it is
    neither sure of itself nor of that order.
    """
    small, large = (margin(values, logits.argmax(1)) for values in (logits, wide))
    flat = len(logits.argmax(1).unique()) == 1 and small.std() < 0.1 * small.abs().mean()
    counts = wide.argmax(1).bincount()
    varied = len(wide) - int(counts.max()) >= 0.1 * len(wide)
    sure = wide.softmax(1).amax(1).mean() > 0.8
    return bool(flat and varied and sure and large.abs().mean() < 50 * small.abs().mean() + 1e-9)


def _right_in_bytes(net: nn.Module, inputs: Tensor, labels: Tensor | None) -> tuple[float, float] | None:
    """The shares that it has right on [0, 1] and [0, 255], where the latter is far above both the former and chance."""
    on_unit, on_bytes = _right(net, inputs, labels), _right(net, inputs * LEVELS, labels)
    if labels is None or on_unit is None or on_bytes is None or len(on_unit) < IMAGES:
        return None
    # One answer to everything would do as well as that; with labels the wrong way round it beats the net on [0, 1].
    chance = float(labels[labels >= 0].bincount().max() / (labels >= 0).sum())
    shares = float(on_unit.mean()), float(on_bytes.mean())
    return shares if shares[1] > max(shares[0], chance) + 0.25 else None


def _probabilities(net: nn.Module, batch: Tensor, logits: Tensor) -> Finding | None:
    """One output is a probability when nothing, however far out, leaves [0, 1]; several, when rows sum to 1."""
    extreme = logits
    if logits.shape[1] == 1:
        noise = torch.randn(batch.shape, generator=torch.Generator().manual_seed(0)).to(batch.device)
        extreme = torch.cat([logits, net(1e4 * noise), net(-1e4 * noise)])
    inside = bool(((extreme > -1e-5) & (extreme < 1 + 1e-5)).all())
    if not inside or (logits.shape[1] > 1 and float((logits.sum(1) - 1).abs().max()) > 1e-4):
        return None
    one = logits.shape[1] == 1
    rows = "its only output never leaves [0, 1]" if one else "each row of outputs lies in [0, 1] and sums to 1"
    flat = float(((logits < 1e-4) | (logits > 1 - 1e-4)).all(dim=1).float().mean())
    return Finding(
        "probabilities",
        f"{rows} ({'sigmoid' if one else 'softmax'}), and {flat:.0%} of them are within 0.0001 of certainty",
        "A single output is taken as the logit of the second class, which is never below 0 here: to every image the "
        "answer is the second class, and nothing below means anything"
        if one
        else "Where it is certain the gradient vanishes, attacks stand still and the net looks robust",
        "Return the logit, without the closing sigmoid" if one else "Return the logits, without the closing softmax",
    )


def _gradients(net: nn.Module, batch: Tensor, logits: Tensor, *, saturated: bool, still: bool) -> Finding | None:
    """Of the margin against the class that the net says."""
    point = batch.clone().requires_grad_(True)
    with torch.enable_grad():
        answer = two_class(net(point))
        total = margin(answer, answer.detach().argmax(1)).sum()
    slope = torch.autograd.grad(total, point, allow_unused=True)[0] if total.requires_grad else None
    slope = torch.zeros_like(batch) if slope is None else slope
    bad = int((~torch.isfinite(slope)).flatten(1).any(dim=1).sum())
    if bad:
        return Finding(
            "nan_gradient",
            f"the gradient holds NaN or infinity for {bad} of {len(batch)} images and negatives",
            "dxray takes such pixels as 0, so they never change and distances come out too large",
            "Keep sqrt, log, division and norms away from 0, by a small constant inside",
        )
    dead = int((slope == 0).flatten(1).all(dim=1).sum())
    steps = _steps(net, batch, logits, slope) if still and not saturated else None
    if steps:
        return steps
    if dead and not saturated:
        return Finding(
            "dead_gradient",
            f"the gradient is exactly 0 everywhere for {dead} of {len(batch)} images and negatives",
            "Gradient attacks cannot start on them: they will be missed, which is no robustness",
            "Look for detach, no_grad, argmax or a saturated layer, or attack by scores (square, hopskipjump)",
        )
    zero = float((slope == 0).float().mean())
    if zero > 0.5 and not saturated:
        return Finding(
            "blocky_gradient",
            f"{zero:.0%} of the pixels have a gradient of exactly 0",
            "Attacks move the other pixels only, and need larger changes there than the net deserves",
            "Look for subsampling or max-pooling before the first convolution, or for a cut-out",
        )
    return None


def _steps(net: nn.Module, batch: Tensor, logits: Tensor, slope: Tensor) -> Finding | None:
    """Whether small changes move no logit and larger ones do; a net that only rounds to 8 bits has lost nothing.

    With a gradient, the pixel that it says matters most is changed: of many, one would always cross a step. Without,
    all are, by less than a level: an 8-bit image lies in the middle of its step.
    """
    dead = int((slope == 0).flatten(1).all(dim=1).sum()) >= len(batch) / 2
    inwards = torch.where(batch < 0.5, 1.0, -1.0)
    strongest = slope.abs().flatten(1).argmax(dim=1, keepdim=True)
    where = torch.zeros_like(batch).flatten(1).scatter(1, strongest, 1.0).view_as(batch)
    direction = inwards if dead else inwards * where

    def stuck(levels: float) -> int:
        return int((net(batch + direction * levels / LEVELS) == logits).all(dim=1).sum())

    first = 0.25 if dead else 1
    held = stuck(first)
    if held < len(batch) / 2:
        return None
    enough = next((levels for levels in STEPS if stuck(levels) < len(batch) / 2), None)
    if enough is None:
        return None
    changed = "every pixel" if dead else "the pixel of largest gradient"
    return Finding(
        "quantised",
        f"changing {changed} by {first:g} of 255 levels moves no logit of {held} of {len(batch)} images and "
        f"negatives, by {enough} it does" + (", and the gradient is 0" if dead else ""),
        "The net answers in steps: small changes are lost and gradients do not lead to the larger ones",
        "Attack the net without its rounding and score with it, or attack by scores (square, hopskipjump)",
    )


def _accuracy(net: nn.Module, inputs: Tensor, labels: Tensor | None, classes: int) -> Finding | None:
    right = _right(net, inputs, labels)
    if right is None or len(right) < IMAGES:
        return None
    chance, share = 1 / classes, float(right.mean())
    if share > chance + (chance * (1 - chance) / len(right)) ** 0.5:
        return None
    return Finding(
        "chance",
        f"the net is right on {share:.0%} of {len(right)} labelled images, and guessing among {classes} classes gives "
        f"{chance:.0%}",
        "Images that it has wrong are not attacked, and to fool a net that guesses shows nothing",
        "Compare the order of its classes, its normalisation and its image size with those of its training",
    )


def _right(net: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor | None:
    """1 where the net gives the label, 0 where not, of the labelled images."""
    if labels is None or not bool((labels >= 0).any()):
        return None
    known = labels >= 0
    said = torch.cat([two_class(net(part)).argmax(1) for part in inputs[known].split(2 * IMAGES)])
    return (said == labels[known]).float()


def _gap(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def _apart(first: Tensor, second: Tensor) -> bool:
    return _gap(first, second) > SAME * float(torch.maximum(first.abs().max(), second.abs().max()))
