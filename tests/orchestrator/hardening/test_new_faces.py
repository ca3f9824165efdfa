"""Which faces a retraining takes in, and for which net it may."""

from pathlib import Path
from typing import Any

import pytest

from dxray.models.data.faces import read
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.hardening.new_faces import take_in


def taken(face_table: Path, out: Path, **trained: Any) -> dict[str, Any]:
    """What is new in the table for a net that was trained so."""
    card = ModelCard("convnet", {"filters": 2}, ("male", "female"), trained=trained)
    return take_in(out, 0, {"spec": f"parquet:{face_table}"}, (card.build(), card), label_by=None, held_out=20)


@pytest.mark.parametrize("known_by", ["its source", "its content"])
def test_a_net_that_has_learnt_the_validation_faces_is_not_judged_on_them(
    known_by: str, face_table: Path, tmp_path: Path
) -> None:
    spec = f"parquet:{face_table}"
    same = {"data": spec} if known_by == "its source" else {"data": "parquet:moved", "data_sha256": read(spec).sha256()}
    with pytest.raises(UserError, match=r"has learnt the validation faces .* without --refit"):
        taken(face_table, tmp_path / "refit", **same, trial={"refit": True})
    assert not (tmp_path / "refit").exists()
    assert taken(face_table, tmp_path / "plain", **same, trial={"refit": False})["validation"] == 60


def test_a_net_that_has_learnt_other_faces_is(face_table: Path, tmp_path: Path) -> None:
    other = {"data": "utkface:/elsewhere", "data_sha256": "ab", "trial": {"refit": True}}
    assert taken(face_table, tmp_path, **other)["train"] == 280
