"""What a training costs beside others, by which those of a sweep are put in order."""

from typing import Any

import numpy as np

from dxray.orchestrator.sweep.grid import complete
from dxray.orchestrator.sweep.tuning import work_of

DATA = {
    "train": (np.zeros((10, 1, 48, 48), np.uint8), np.zeros(10, np.int64)),
    "validation": (np.zeros((5, 1, 48, 48), np.uint8), np.zeros(5, np.int64)),
    "classes": ("a", "b"),
}
TRIAL: dict[str, Any] = complete({"net": "resnet", "epochs": 3})


def test_it_grows_with_epochs_and_filters_and_not_by_what_a_training_does_not_do() -> None:
    usual = work_of(TRIAL, DATA)
    assert usual > 0
    assert work_of(TRIAL | {"epochs": 6}, DATA) == 2 * usual
    assert work_of(TRIAL | {"train_size": 5}, DATA) == usual / 2
    assert work_of(TRIAL | {"refit": True}, DATA) == 1.5 * usual
    assert work_of(TRIAL | {"refit": True, "train_size": 12}, DATA) == 1.2 * usual
    assert work_of(TRIAL | {"filters": 64}, DATA) > 2 * usual
    assert work_of(TRIAL | {"dropout": 0.3}, DATA) == usual
    assert work_of(TRIAL | {"tta_flip": True, "tta_shift": True}, DATA) == usual  # that is done when it answers
    assert work_of(TRIAL | {"blocks": 9}, DATA) == 0
