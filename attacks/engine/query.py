"""The only way an attack looks at a net: one fixed batch shape, frozen weights, every look counted.

Kernels round differently at other batch shapes, so a face attacked alone would end elsewhere than the same face in a
crowd. Every evaluation here is padded to the same shape, whoever asks and for however many images; to three quarters, a
half or less of it where the net is seen to answer the same there, to the bit: that is tried once, on noise, and not
counted.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dxray.attacks.engine.batch_invariance import Ask, BatchInvariance
from dxray.attacks.engine.folding import Swap, fold, unfold
from dxray.attacks.engine.low_precision import low_precision_suffices

FLOOR = 1e-3  # a margin (in logits) that another batch shape, layout or thread count does not round away
KEPT = 64  # answers of an image
# Points at which a net is asked at once. On a CPU a gradient of a DenseNet at 48x48 takes a tenth less by 32 than by
# 16, and the fewer, the fewer places are empty while the last images are done. A GPU wants hundreds: `batch=256`.
BATCH = 32
LEAST = 2  # a single point is done by other kernels everywhere (products of a matrix with a vector)

Score = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass
class Ledger:
    """What each image cost: `gradients` and `forwards`, int64 (N,). A gradient's own forward is not counted again."""

    gradients: Tensor
    forwards: Tensor

    @classmethod
    def empty(cls, count: int) -> "Ledger":
        return cls(torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64))

    def note(self, points: Tensor, rows: Tensor, logits: Tensor) -> None:
        """Told of each look: points (M, C, H, W), of which images `rows` (M,) they are, -1: of none, logits (M, K)."""


@dataclass
class Answers(Ledger):
    """Also keeps what the net answered, so that the points an attack begins and ends at need not be asked about again.

    kept: for each image, by the hash of a point, its logits: those of the first look, and of the latest.
    """

    kept: list[dict[int, list[float]]]

    @classmethod
    def empty(cls, count: int) -> "Answers":
        nothing = Ledger.empty(count)
        return cls(nothing.gradients, nothing.forwards, [{} for _ in range(count)])

    def note(self, points: Tensor, rows: Tensor, logits: Tensor) -> None:
        for point, row, said in zip(points.cpu(), rows.tolist(), logits.tolist(), strict=True):
            if row >= 0:
                kept = self.kept[row]
                kept[_hash(point)] = said
                if len(kept) > KEPT:  # an attack by decisions alone looks thousands of times
                    del kept[next(islice(kept, 1, None))]

    def grow(self, count: int) -> None:
        """Take in so many further images."""
        more = Answers.empty(count)
        self.gradients = torch.cat([self.gradients, more.gradients])
        self.forwards = torch.cat([self.forwards, more.forwards])
        self.kept += more.kept

    def let_go(self, rows: Tensor) -> "Answers":
        """What is held of images `rows` (M,), which are as if never looked at then."""
        gone = Answers(self.gradients[rows], self.forwards[rows], [self.kept[row] for row in rows.tolist()])
        self.gradients[rows] = self.forwards[rows] = 0
        for row in rows.tolist():
            self.kept[row] = {}
        return gone

    def at(self, points: Tensor) -> list[list[float] | None]:
        """The logits at a point of each image, (N, C, H, W) in all, None where they are not known."""
        return [kept.get(_hash(point)) for kept, point in zip(self.kept, points.cpu(), strict=True)]


def _hash(point: Tensor) -> int:
    return hash(point.numpy().tobytes())  # 64 bits, for the few points of one image in one process


class Look(NamedTuple):
    """What the net shows at M points: `margin` (M,), `predicted` (M,), and of what was asked for, the margin or another
    score, `score` (M,) and its `slope` (M, C, H, W) per [0, 1] pixel unit."""

    margin: Tensor
    slope: Tensor
    predicted: Tensor
    score: Tensor


def two_class(logits: Tensor) -> Tensor:
    """Logits (N, 1) of a one-logit net as those of its two-class equal, [0, z]; other logits as they are."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """How far each image (N,) is over the border, in logits; > 0 means fooled.

    Targeted: the target's logit minus the largest other. Untargeted: the largest other minus the label's.
    """
    wanted = labels if targets is None else targets
    column = wanted.unsqueeze(1)
    own = logits.gather(1, column).squeeze(1)
    other = logits.scatter(1, column, -torch.inf).amax(dim=1)
    return other - own if targets is None else own - other


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """What a loss-driven attack climbs, (N,): the label's cross-entropy, or minus the target's."""
    if targets is None:
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    return -nn.functional.cross_entropy(logits, targets, reduction="none")


def validate(inputs: Tensor, labels: Tensor, targets: Tensor | None, mask: Tensor | None) -> None:
    """Raise ValueError, saying what came and what was expected, for arguments no attack can work with."""
    if inputs.dim() != 4 or inputs.dtype != torch.float32:
        raise ValueError(f"inputs must be float32 (N, C, H, W), got {inputs.dtype} {tuple(inputs.shape)}")
    if not bool(((inputs >= 0) & (inputs <= 1)).all()):
        bad = (~((inputs >= 0) & (inputs <= 1))).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"inputs must lie in [0, 1]; images {bad[:10]} hold NaN or values outside")
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None and (classes.shape != inputs.shape[:1] or classes.dtype != torch.int64):
            raise ValueError(
                f"{name} must be int64 ({len(inputs)},), one per image, got {classes.dtype} {tuple(classes.shape)}"
            )
    if targets is not None and bool((targets == labels).any()):
        same = (targets == labels).nonzero().flatten().tolist()
        raise ValueError(f"a target must differ from the label to leave; they are equal for images {same[:10]}")
    if mask is not None and (
        mask.dtype != torch.bool
        or mask.dim() != 4
        or mask.shape[0] not in (1, len(inputs))
        or mask.shape[1] != 1
        or mask.shape[2:] != inputs.shape[2:]
    ):
        height, width = inputs.shape[2:]
        raise ValueError(
            f"mask must be bool (1 or {len(inputs)}, 1, {height}, {width}), got {mask.dtype} {tuple(mask.shape)}"
        )


def log_likelihood(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Log-probability (N,) of the target, or of any class but the label; with two classes the same thing."""
    if targets is not None:
        return -nn.functional.cross_entropy(logits, targets, reduction="none")
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return others.logsumexp(dim=1) - logits.logsumexp(dim=1)


class Query:
    """Evaluates one net on points that belong to the images of one attack; use it as a context manager.

    Inside the context the net is in eval mode and its weights are frozen (only the inputs' gradient is computed);
    outside, every module's training flag and every weight's `requires_grad` are what they were.

    `rows` says to which image each point belongs, int64 (M,); -1 is padding: not counted, its answer means nothing.
    """

    def __init__(
        self,
        net: nn.Module,
        labels: Tensor,
        targets: Tensor | None = None,
        *,
        batch: int = BATCH,
        ledger: Ledger | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.net, self.labels, self.targets, self.batch = net, labels, targets, batch
        self.ledger = ledger if ledger is not None else Ledger.empty(len(labels))
        self._training: list[tuple[nn.Module, bool]] = []
        self._trainable: list[nn.Parameter] = []
        self._folded: list[Swap] = []
        self._invariance = BatchInvariance(net)

    def __enter__(self) -> "Query":
        self._training = [(module, module.training) for module in self.net.modules()]
        self._trainable = [weight for weight in self.net.parameters() if weight.requires_grad]
        self.net.eval()
        for weight in self._trainable:
            weight.requires_grad_(False)
        self._folded = fold(self.net)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        unfold(self._folded)
        for module, training in self._training:
            module.training = training
        for weight in self._trainable:
            weight.requires_grad_(True)

    def logits(self, points: Tensor, rows: Tensor) -> Tensor:
        """Logits (M, classes) at points (M, C, H, W) in [0, 1], counted as one forward each."""
        real, found = _real(rows), []
        for chunk, owner, asked in self._chunks(points[real], rows[real], "logits", self._said):
            logits = self._checked(self._said(chunk)[0].to(points.device), owner, len(chunk))[: len(owner)]
            self.ledger.note(asked, owner, logits)
            found.append(logits)
        self._count(self.ledger.forwards, rows)
        return _spread(torch.cat(found), real, len(rows))

    def margins(self, points: Tensor, rows: Tensor) -> Tensor:
        """Margins (M,) at points (M, C, H, W), counted as one forward each."""
        return self.answers(points, rows)[0]

    def answers(self, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Margins and predicted classes (M,) at points (M, C, H, W), counted as one forward each."""
        logits, owner = self.logits(points, rows), rows.clamp(min=0)
        targets = None if self.targets is None else self.targets[owner]
        return margin(logits, self.labels[owner], targets), logits.argmax(dim=1)

    def low_precision_suffices(self, shape: torch.Size) -> bool:
        """Whether `low_precision_gradients` will do at points of a shape (C, H, W): see `engine.low_precision`."""
        return low_precision_suffices(
            self.net,
            lambda some: self._said_and_slope(self._laid_out(some)),
            lambda some: self._said_and_slope_in_low_precision(self._laid_out(some)),
            shape,
        )

    def gradients(self, points: Tensor, rows: Tensor, score: Score = margin) -> Look:
        """Margins, predictions and the slope of `score` at points (M, C, H, W), counted as one gradient each.

        A net whose logits do not depend on the input has gradient zero; so has a pixel whose gradient is not finite,
        for it tells no direction.
        """
        return self._looked(points, rows, score, low_precision=False)

    def low_precision_gradients(self, points: Tensor, rows: Tensor, score: Score = margin) -> Look:
        """`gradients` computed in bfloat16: faster, and not to be relied on where a hundredth counts."""
        return self._looked(points, rows, score, low_precision=True)

    def _looked(self, points: Tensor, rows: Tensor, score: Score, *, low_precision: bool) -> Look:
        real = _real(rows)
        margins, slopes, predicted, scores = [], [], [], []
        ask = self._said_and_slope_in_low_precision if low_precision else self._said_and_slope
        what = "low-precision slopes" if low_precision else "slopes"
        for chunk, owner, asked in self._chunks(points[real], rows[real], what, ask):
            image = torch.nn.functional.pad(owner.clamp(min=0), (0, len(chunk) - len(owner)))
            labels, targets = self.labels[image], None if self.targets is None else self.targets[image]
            with torch.enable_grad():
                chunk.requires_grad_(True)
                with _in_low_precision(chunk.device) if low_precision else nullcontext():
                    said = self.net(chunk)
                logits = self._checked(said.to(points.device), owner, len(chunk))
                scored = score(logits, labels, targets)
                total = scored.sum()
            if not low_precision:
                self.ledger.note(asked.detach(), owner, logits.detach()[: len(owner)])
            slope = _slope(total, chunk)
            margins.append(margin(logits.detach(), labels, targets)[: len(owner)])
            predicted.append(logits.detach()[: len(owner)].argmax(dim=1))
            scores.append(scored.detach()[: len(owner)])
            slopes.append(slope.to(points.device).nan_to_num(0, 0, 0).contiguous()[: len(owner)])
        self._count(self.ledger.gradients, rows)
        return Look(*(_spread(torch.cat(found), real, len(rows)) for found in (margins, slopes, predicted, scores)))

    def _chunks(self, points: Tensor, rows: Tensor, what: str, ask: Ask) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What the net is given, padded and on its device, whose points they are, and the points as they came."""
        for start in range(0, len(points), self.batch):
            part = points[start : start + self.batch]
            shape = self._shape(part, what, ask)
            yield self._laid_out(part, count=shape), rows[start : start + self.batch], part

    def _shape(self, part: Tensor, what: str, ask: Ask) -> int:
        """How many points the net is given at once for these few: `batch`, or the least share that is the same."""
        whole = torch.Size((self.batch, *part.shape[1:]))
        for few in _shares(self.batch):
            if few >= len(part) and self._invariance.holds(what, lambda some: ask(self._laid_out(some)), few, whole):
                return few
        return self.batch

    def _laid_out(self, part: Tensor, *, count: int = 0) -> Tensor:
        """Points as the net is given them: on its device, the first again until there are `count`."""
        count = max(count, len(part))
        _, channels, height, width = part.shape
        weight = next(self.net.parameters(), part)  # an attack may work on the CPU while the net is on a GPU
        # Written-out strides: a 1-channel tensor counts as contiguous in both layouts, so asking for channels-last
        # changes nothing and the convolutions take their slow path.
        strides = (channels * height * width, 1, width * channels, channels)
        padded = torch.empty_strided((count, *part.shape[1:]), strides, device=weight.device)
        padded[: len(part)] = part
        padded[len(part) :] = part[:1]
        return padded

    def _said(self, points: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (self.net(points),)

    def _said_and_slope(self, points: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            logits = self.net(points)
            total = (logits * torch.linspace(-1, 1, logits.shape[1], device=logits.device)).sum()
        return logits.detach(), _slope(total, points)

    def _said_and_slope_in_low_precision(self, points: Tensor) -> tuple[Tensor, ...]:
        with _in_low_precision(points.device):
            return self._said_and_slope(points)

    def _checked(self, logits: Tensor, owner: Tensor, count: int) -> Tensor:
        if logits.dim() != 2 or len(logits) != count:
            raise ValueError(f"a net must return logits (N, classes), {self._name} gave {tuple(logits.shape)}")
        logits = two_class(logits.float())
        largest = int(max(self.labels.max(), -1 if self.targets is None else self.targets.max()))
        if largest >= logits.shape[1]:
            raise ValueError(f"class {largest} asked of {self._name}, which has {logits.shape[1]} classes")
        wrong = ~torch.isfinite(logits.detach()[: len(owner)]).all(dim=1) & (owner >= 0)
        if bool(wrong.any()):
            raise ValueError(f"{self._name} gave NaN or infinite logits for images {owner[wrong].tolist()[:10]}")
        return logits

    def _count(self, column: Tensor, rows: Tensor) -> None:
        column.index_add_(0, rows[rows >= 0].to(column.device), torch.ones_like(rows[rows >= 0]).to(column.device))

    @property
    def _name(self) -> str:
        return f"the net {type(self.net).__name__}"


def _shares(batch: int) -> list[int]:
    """Three quarters of a batch, its half, the half of that and so on, as far as they are whole; the least first."""
    halves = [batch >> times for times in range(1, batch.bit_length()) if batch % (1 << times) == 0]
    return sorted(share for share in halves + ([3 * batch // 4] if batch % 4 == 0 else []) if share >= LEAST)


def _in_low_precision(device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _slope(total: Tensor, points: Tensor) -> Tensor:
    """The gradient of `total` at `points`: zero where it does not depend on them."""
    return torch.autograd.grad(total, points)[0] if total.requires_grad else torch.zeros_like(points)


def _real(rows: Tensor) -> Tensor:
    """Numbers of the points that are no padding; of the first where all are, for the shape of an answer."""
    real = (rows >= 0).nonzero().flatten()
    return real if len(real) else torch.zeros_like(rows[:1])


def _spread(found: Tensor, real: Tensor, count: int) -> Tensor:
    """What was found for the points that are `real`, in their places among `count`."""
    if len(real) == count:
        return found
    return found.new_zeros(count, *found.shape[1:]).index_copy_(0, real.to(found.device), found)
