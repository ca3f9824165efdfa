"""The folders' rule: who may import what."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "attacks": {"attacks"},
    "models": {"models"},
    "defenses": {"defenses", "models", "attacks"},
    "orchestrator": {"orchestrator", "models", "attacks", "defenses"},
}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_lies_under_it(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        foreign = imports(file) & (set(ALLOWED) | {"cluster", "tests"}) - ALLOWED[folder]
        assert not foreign, f"{file.relative_to(ROOT)} imports {foreign}"


def test_ray_is_known_to_the_orchestrator_and_the_cluster_only() -> None:
    knowing = {
        file.relative_to(ROOT).parts[0]
        for folder in (*ALLOWED, "cluster")
        for file in (ROOT / folder).rglob("*.py")
        if "ray" in imports(file)
    }
    assert knowing == {"orchestrator"}  # the cluster's scripts call the orchestrator, and need no more


def test_attacks_touch_neither_files_nor_pictures() -> None:
    for file in (ROOT / "attacks").glob("*.py"):
        assert not imports(file) & {"PIL", "pathlib", "os", "io", "pyarrow"}, file.name
