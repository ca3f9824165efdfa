"""The Python of docs/python.md and README.md, run as it stands there: what is below one heading is one notebook."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CELL = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def notebooks(page: str) -> dict[str, list[str]]:
    """Heading -> the cells below it."""
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {section.partition("\n")[0]: cells for section in sections if (cells := CELL.findall(section))}


PAGE = notebooks((ROOT / "docs" / "python.md").read_text())
README = CELL.findall((ROOT / "README.md").read_text())


@pytest.fixture
def place(tmp_path: Path, face_folder: Path, trained: Path) -> Path:
    """A folder with `faces/`, a sub-folder for each class and one for others, and a sweep in `runs/sweep`."""
    first, second, *_ = sorted((face_folder / "female").iterdir())
    first.rename(face_folder / "female" / "marie.png")
    (face_folder / "some").mkdir()
    second.rename(face_folder / "some" / "someone.png")
    shutil.copytree(trained, tmp_path / "runs" / "sweep" / "best")
    return tmp_path


def run(cells: list[str], place: Path) -> None:
    code, alone = "\n".join(cells), os.environ | {"OMP_NUM_THREADS": "1"}  # the nets are small
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=alone, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_the_page_has_three_notebooks() -> None:
    assert len(PAGE) == 3
    assert all(cells[0].startswith("import dxray\n") for cells in PAGE.values())


@pytest.mark.parametrize("heading", PAGE)
def test_a_notebook_of_the_page_runs(heading: str, place: Path) -> None:
    run(PAGE[heading], place)


def test_the_five_lines_of_the_readme_run(place: Path) -> None:
    (cell,) = README
    assert len([line for line in cell.splitlines() if line]) == 5
    run([cell], place)
    assert (place / "contact_sheet.png").exists()
