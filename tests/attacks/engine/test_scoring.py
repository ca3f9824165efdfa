"""Scoring against slow references and hand-made cases."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dxray.attacks.engine.scoring import amplify, psnr, score, ssim


class Brightness(nn.Module):
    """Class 1 where the first pixel is above mid-grey, class 2 where it is above 200/255."""

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, 0, 0, 0] * 255
        return torch.stack([first * 0, first - 127.5, 2 * (first - 127.5) - 72.5], dim=1)


def picture(first: int) -> Tensor:
    image = torch.full((1, 2, 12, 13), 9, dtype=torch.uint8)
    image[0, 0, 0, 0] = first
    return image


def test_status_counts_only_what_the_saved_image_does() -> None:
    original = torch.cat([picture(100), picture(100), picture(100), picture(240)])
    modified = torch.cat([picture(150), picture(101), picture(240), picture(100)])
    labels = torch.tensor([0, 0, 0, 0])
    untargeted = score(Brightness(), original, modified, labels)
    assert untargeted.status.tolist() == ["fooled", "missed", "fooled", "already_wrong"]
    targeted = score(Brightness(), original, modified, labels, torch.tensor([2, 2, 2, 2]))
    assert targeted.status.tolist() == ["missed", "missed", "fooled", "already_wrong"]
    assert targeted.predicted_before.tolist() == [0, 0, 0, 2]
    assert targeted.predicted_after.tolist() == [1, 0, 2, 0]
    assert ((targeted.margin_after > 0) == (targeted.predicted_after == 2)).all()
    assert (untargeted.probability_before > 1 / 3).all()


def test_without_labels_nothing_is_already_wrong() -> None:
    found = score(Brightness(), torch.cat([picture(240), picture(240)]), torch.cat([picture(240), picture(9)]))
    assert found.status.tolist() == ["missed", "fooled"]


def test_distances_are_in_pixel_units_and_a_pixel_counts_once() -> None:
    original = torch.zeros(1, 2, 12, 12, dtype=torch.uint8)
    modified = original.clone()
    modified[0, 0, 3, 3], modified[0, 1, 3, 3], modified[0, 0, 5, 5] = 3, 4, 12
    found = score(Brightness(), original, modified)
    assert found.l0.tolist() == [2.0]
    np.testing.assert_allclose([found.l1[0], found.l2[0], found.linf[0]], [19 / 255, 13 / 255, 12 / 255], rtol=1e-6)
    np.testing.assert_allclose(found.psnr[0], 10 * np.log10(288 / (13 / 255) ** 2), rtol=1e-6)


def test_an_unchanged_image_has_infinite_psnr_and_ssim_one() -> None:
    found = score(Brightness(), picture(7), picture(7))
    assert found.psnr.tolist() == [np.inf]
    assert found.ssim[0] == pytest.approx(1)


def test_ssim_agrees_with_a_slow_reference(helpers: Any) -> None:
    x, y = helpers.images(2, (2, 14, 17), seed=1), helpers.images(2, (2, 14, 17), seed=2)
    y = 0.7 * x + 0.3 * y
    bell = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(bell, bell) / bell.sum() ** 2
    for n in range(2):
        values = []
        for c in range(2):
            for row in range(4):
                for column in range(7):
                    a = x[n, c, row : row + 11, column : column + 11].double().numpy()
                    b = y[n, c, row : row + 11, column : column + 11].double().numpy()
                    ma, mb = (window * a).sum(), (window * b).sum()
                    va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                    cab = (window * (a - ma) * (b - mb)).sum()
                    values.append((2 * ma * mb + 1e-4) * (2 * cab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
        assert ssim(x, y)[n].item() == pytest.approx(np.mean(values), abs=1e-9)
    assert psnr(x, y).shape == (2,)


def test_images_that_are_not_uint8_are_refused() -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        score(Brightness(), picture(1).float(), picture(1))


def test_amplified_change_is_fifty_fold_and_clipped() -> None:
    assert amplify(
        torch.tensor([10, 10, 0], dtype=torch.uint8), torch.tensor([8, 10, 255], dtype=torch.uint8)
    ).tolist() == [
        100,
        0,
        255,
    ]
