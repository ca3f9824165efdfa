"""Further labels: the classes that are made of them, what is learnt of them, and what is left of it in the net."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dxray.models.data.faces import Faces
from dxray.models.data.labels import FEW, groups
from dxray.models.nets import MODELS, build
from dxray.models.training.auxiliary import WEIGHT, AuxiliaryHeads
from dxray.models.training.train import fit

NONE = float("nan")


def test_few_numbers_are_a_class_each() -> None:
    assert groups(np.array([4.0, 0.0, NONE, 2.0, 4.0])).tolist() == [2, 0, -1, 1, 2]
    assert groups(np.array([NONE, NONE])).tolist() == [-1, -1]
    assert len(set(groups(np.arange(FEW, dtype=float)).tolist())) == FEW


def test_many_numbers_are_tenths_of_the_faces_in_their_order() -> None:
    ages = np.random.default_rng(0).permutation(np.arange(1000.0) ** 2)
    found = groups(np.append(ages, NONE))
    assert found[-1] == -1
    assert np.bincount(found[:-1]).tolist() == [100] * 10
    assert (np.diff(found[:-1][np.argsort(ages)]) >= 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_layers_on_what_the_last_layer_reads(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, blocks=2).eval()
    taught = AuxiliaryHeads(net, {"type": np.array([0, 2, -1, 1]), "race": np.array([-1, -1, 0, 0])})
    with taught.watching():
        logits = net(torch.rand(2, 1, 48, 48))
    last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
    assert torch.equal(last(taught.features), logits)
    rows = torch.tensor([2, 3])
    age, race = (layer(taught.features) for layer in taught.layers)
    assert age.shape == (2, 3)
    expected = F.cross_entropy(age[1:], torch.tensor([1])) + F.cross_entropy(race, torch.tensor([0, 0]))
    assert taught.loss(rows).item() == pytest.approx(WEIGHT * expected.item())
    with taught.watching():
        net(torch.zeros(1, 1, 48, 48))
    assert taught.loss(torch.tensor([0])).item() > 0
    assert AuxiliaryHeads(net, {"race": np.full(4, -1)}).labels == {}


def test_a_batch_of_unknown_labels_teaches_nothing() -> None:
    net = build("convnet", blocks=2)
    taught = AuxiliaryHeads(net, {"age": np.array([-1, -1, 1])})
    with taught.watching():
        net(torch.rand(2, 1, 48, 48))
    assert taught.loss(torch.tensor([0, 1])).item() == 0


def test_a_net_without_a_dense_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="without a dense layer"):
        AuxiliaryHeads(nn.Flatten(), {"age": np.array([0, 1])})


def test_a_net_learns_from_them_and_keeps_nothing_of_them(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a class does not tell, the upper half's brightness here, can be read from what the last layer reads."""
    images, labels = faces.images[:256], faces.labels[:256]
    bright = images[:, 0, :24].mean((1, 2))
    auxiliary = {"bright": (bright > np.median(bright)).astype(np.int64)}
    made: list[AuxiliaryHeads] = []

    def watched(init: Callable[..., None]) -> Callable[..., None]:
        def keeping(self: AuxiliaryHeads, *given: object) -> None:
            init(self, *given)
            made.append(self)

        return keeping

    monkeypatch.setattr(AuxiliaryHeads, "__init__", watched(AuxiliaryHeads.__init__))

    def trained(**how: object) -> nn.Module:
        torch.manual_seed(0)
        net = build("convnet", filters=4, convs=1, blocks=3, batch_norm=True)
        fit(net, images, labels, epochs=4, batch_size=32, lr=1e-2, augment=False, **how)  # type: ignore[arg-type]
        return net

    plain, net = trained(), trained(auxiliary=auxiliary)
    (taught,) = made
    with torch.no_grad(), taught.watching():
        net(torch.from_numpy(images) / 255)
    said = taught.layers[0](taught.features).argmax(1).numpy()
    assert (said == auxiliary["bright"]).mean() > 0.85
    assert plain.state_dict().keys() == net.state_dict().keys()
    assert not torch.equal(plain.head[-1].weight, net.head[-1].weight)  # type: ignore[index, union-attr]
    assert not any(module._forward_pre_hooks for module in net.modules())
