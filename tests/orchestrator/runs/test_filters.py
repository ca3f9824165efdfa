"""`--where`: which rows an expression means, and one sentence for what is none."""

from typing import Any

import pyarrow as pa
import pytest

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.filters import COLUMNS, parse
from dxray.orchestrator.runs.store import IMAGES

ROWS: list[dict[str, Any]] = [
    {"name": "a/smith.png", "status": "fooled", "l2": 0.75, "l0": 9, "label": 0, "label_known": True, "target": 1},
    {"name": "a/jones.png", "status": "fooled", "l2": 0.25, "l0": 3, "label": 1, "label_known": False, "target": 0},
    {"name": "b/smith.png", "status": "missed", "l2": 0.0, "l0": 0, "label": 1, "label_known": True},
    {"name": "b/empty.png", "status": "unreadable", "reason": "it is empty"},
]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("status == 'fooled'", [0, 1]),
        (" status == 'fooled' and l2 > 0.5", [0]),
        ("l2 > 0.5 or status == 'missed'", [0, 2]),
        ("status != 'fooled' or l2 < 0.5 and l0 == 3", [1, 2, 3]),
        ("(status != 'fooled' or l2 < 0.5) and l0 == 3", [1]),
        ("0.1 < l2 <= 0.75", [0, 1]),
        ("l2 >= 0.75", [0]),
        ("l0 > -1", [0, 1, 2]),
        ("label == target", []),
        ("target < label", [1]),
        ("label_known", [0, 2]),
        ("not label_known", [1]),
        ("label_known == True", [0, 2]),
        ("status in ('missed', 'unreadable')", [2, 3]),
        ("status not in ['fooled']", [2, 3]),
        ("'smith' in name and 'a/' in name", [0]),
        ("'smith' not in name", [1, 3]),
        ("reason is None", [0, 1, 2]),
        ("reason is not None", [3]),
        ("reason != None", [3]),
        ("l2 != 0.75", [1, 2]),  # a missing value is not unequal: as in SQL
        ("target is None and status == 'missed'", [2]),
        ("'empty' in reason", [3]),
    ],
)
def test_an_expression_keeps_the_rows_that_it_says(text: str, rows: list[int]) -> None:
    table = pa.Table.from_pylist(ROWS, schema=IMAGES)
    assert table.filter(parse(text))["name"].to_pylist() == [ROWS[i]["name"] for i in rows]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "status = 'fooled'",
        "status == fooled",
        "l2 > 'big'",
        "status > 3",
        "l2",
        "l2 and label_known",
        "'fooled'",
        "True",
        "l2 > ",
        "l2 > 0.5; import os",
        "__import__('os').system('true')",
        "name.upper() == 'A'",
        "l2 + 1 > 2",
        "l2 > 10 ** 10 ** 10",
        "l2 > 1j",
        "l0 > 99999999999999999999999999",
        "label is 1",
        "label in 'male'",
        "label in (1, 'male')",
        "status in (label, 1)",
        "modified is None",
        "colour == 'red'",
        "(l2 := 3) > 2",
        "[l2 for l2 in name]",
        "l2 > 0.5\x00",
        "'\\N{no such}' in name",
        "not " * 100_000 + "label_known",
        "(" * 1_000 + "l2 > 0" + ")" * 1_000,
    ],
)
def test_what_is_no_filter_is_one_sentence_with_the_columns(text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(text)
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith("--where cannot be understood (")
    assert all(column in said for column in COLUMNS)
    assert "status == 'fooled' and l2 > 0.5" in said
