"""Labels the wrong way round, told by how often a net is right."""

import math

import numpy as np
import pytest

from dxray.models.data.agreement import _tail, counted, surely_above_chance, surely_below_chance, swapped

CLASSES = ("male", "female")


def test_labels_and_answers_are_counted_where_labels_are_known() -> None:
    labels, answers = np.array([0, 1, 1, -1, 0]), np.array([0, 1, 0, 1, 0])
    assert counted(labels, answers, 2).tolist() == [[2, 0], [1, 1]]


@pytest.mark.parametrize("right", [0, 3, 10, 14])
def test_the_bound_is_above_the_chance_of_a_binomial_distribution_and_not_far(right: int) -> None:
    wrong = 40 - right
    table = np.array([[right // 2, wrong // 2], [wrong - wrong // 2, right - right // 2]])
    exact = sum(math.comb(40, i) for i in range(right + 1)) / 2**40
    assert exact <= _tail(table, below=True) <= 12 * exact + 1e-12


@pytest.mark.parametrize(
    ("table", "below", "above"),
    [
        ([[2, 30], [28, 4]], True, False),
        ([[30, 2], [4, 28]], False, True),
        ([[16, 16], [15, 17]], False, False),
        ([[0, 60], [0, 4]], False, False),  # one answer to all, and mostly wrong: no order of classes mends that
        ([[0, 14], [14, 0]], False, False),  # too few
        ([[0, 64], [0, 0]], False, False),  # of one class, a bad net and a swapped one look the same
        ([[0, 30, 0], [0, 0, 30], [30, 0, 0]], True, False),
    ],
)
def test_what_is_surely_below_chance(table: list[list[int]], below: bool, above: bool) -> None:
    assert surely_below_chance(np.array(table)) == below
    assert surely_above_chance(np.array(table)) == above
    assert (swapped(np.array(table), CLASSES) is not None) == below


def test_what_mends_swapped_labels_is_named() -> None:
    table = np.array([[2, 30], [28, 4]])
    seen, remedy = swapped(table, CLASSES, CLASSES) or ("", "")
    assert "right on 6 of 64 labelled faces (9.4%)" in seen
    assert "swapped" in seen
    assert remedy.endswith("--classes female,male")
    _, remedy = swapped(table, CLASSES) or ("", "")
    assert "outputs are male, female in this order" in remedy
