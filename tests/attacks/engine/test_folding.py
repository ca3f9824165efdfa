"""Batch norm is folded while a net is asked, and is back where it was afterwards."""

import torch
from torch import Tensor, nn

from dxray.attacks.engine.folding import fold, unfold
from dxray.attacks.engine.query import Query
from dxray.models.nets import build


def normed() -> nn.Module:
    """A DenseNet in eval mode whose batch norms do something."""
    torch.manual_seed(0)
    net = build("densenet", blocks=2, convs=2, filters=4, batch_norm=True)
    for norm in norms(net):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        for values in (norm.running_mean, norm.weight, norm.bias):
            nn.init.normal_(values)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return net.eval()


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_folded_net_answers_alike_and_without_batch_norm() -> None:
    net, images = normed(), torch.rand(5, 1, 48, 48)
    with torch.no_grad():
        plain = net(images)
        fold(net)
        assert not norms(net)
        torch.testing.assert_close(net(images), plain, rtol=1e-4, atol=1e-5)


def test_unfolding_puts_the_very_modules_back() -> None:
    net = normed()
    before = list(net.modules())
    unfold(fold(net))
    assert all(now is then for now, then in zip(net.modules(), before, strict=True))


def test_a_query_folds_and_unfolds() -> None:
    net = normed()
    count = len(norms(net))
    assert count
    with Query(net, torch.zeros(1, dtype=torch.int64)), Query(net, torch.zeros(1, dtype=torch.int64)):
        assert not norms(net)
    assert len(norms(net)) == count


def test_a_class_that_may_do_something_else_stays() -> None:
    class Rectified(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).relu()

    class Backwards(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return self[0](self[1](images))

    rectified = nn.Sequential(Rectified(1, 2, 3), nn.BatchNorm2d(2)).eval()
    for net in (rectified, Backwards(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)).eval()):
        assert not fold(net)


def test_what_something_hangs_on_stays() -> None:
    hooked = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    hooked[0].register_forward_hook(lambda *_: None)
    by_batch = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    weighted = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2)).eval()
    for net in (hooked, by_batch, weighted):
        assert not fold(net)
