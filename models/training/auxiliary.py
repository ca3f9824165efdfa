"""Auxiliary labels, such as age and race, learnt beside the class: what a net sees age by, it also sees gender by.

Multitask learning (Caruana 1997, doi:10.1023/A:1007379606734). Each auxiliary label has a head, a layer of
its own on what the net's last layer reads; the heads are there while the net learns, and no part of it afterwards.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHT = 0.3  # of each auxiliary label's loss, beside 1 of the class's


class AuxiliaryHeads(nn.Module):
    """The heads for auxiliary labels, int64 (N,) by name, -1 for unknown, of the images that `net` learns from."""

    def __init__(self, net: nn.Module, labels: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        dense = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        if not dense:
            raise ValueError("a net without a dense layer at its end cannot learn auxiliary labels")
        self.last = dense[-1:]  # in a list, so that it is no part of this
        self.labels = {name: torch.tensor(values) for name, values in labels.items() if (values >= 0).any()}
        classes = [int(values.max()) + 1 for values in self.labels.values()]
        self.layers = nn.ModuleList(nn.Linear(dense[-1].in_features, count) for count in classes)
        self.features = torch.zeros(0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In this context `features` are what the net's last layer read last."""

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.features = inputs[0]

        with self.last[0].register_forward_pre_hook(keep):
            yield

    def loss(self, rows: Tensor) -> Tensor:
        """The auxiliary labels' cross-entropy, a scalar, of the images `rows` (N,) that the net has just been shown."""
        found = self.features.new_zeros((), dtype=torch.float32)
        for layer, labels in zip(self.layers, self.labels.values(), strict=True):
            wanted = labels[rows].to(self.features.device)
            # Unknown ones count as nothing; a batch of them alone has no mean.
            known = (wanted >= 0).sum().clamp(min=1)
            said = layer(self.features.float())
            found = found + WEIGHT * F.cross_entropy(said, wanted, ignore_index=-1, reduction="sum") / known
        return found
