"""The machines, and the cluster that is brought up on them once for all tests that need it."""

from collections.abc import Iterator

import pytest

from tests.cluster.machines import PROJECT, ROOT, SHARED, Lab, edited, why_not


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.end()


@pytest.fixture(scope="session")
def cluster(lab: Lab) -> Lab:
    """The lab, its head and worker one Ray cluster: brought up from the laptop as cluster.yaml says."""
    unwanted = [f"--exclude={name}" for name in ("/.git", "/.venv", "/runs", "/tests", "__pycache__", ".*_cache")]
    lab.laptop.run(["rsync", "-a", *unwanted, f"{ROOT}/", "project"])
    (lab.folder / "shared" / "cluster.yaml").write_text(edited((ROOT / "cluster" / "cluster.yaml").read_text()))
    lab.laptop.run(f"cp {SHARED}/cluster.yaml {PROJECT}/cluster.yaml")
    lab.laptop.run("umask 077 && ray get-auth-token --generate")
    lab.laptop.run("ray up -y cluster.yaml", folder=PROJECT)
    return lab
