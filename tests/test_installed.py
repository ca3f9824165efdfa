"""What `pip install` leaves behind, in environments of their own that have the present one's dependencies."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png

pytest.importorskip("setuptools", reason="no setuptools to build with: it comes with the extra dxray[dev]")
pytest.importorskip("pip", reason="no pip to install with")

ROOT = Path(__file__).resolve().parents[1]
WHERE = "import dxray; print(dxray.__file__)"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"


def run(*command: object, folder: Path, code: int = 0) -> str:
    """What `command` printed in `folder`, without this checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = list(map(str, command))
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == code, f"{words}: {ended.stdout}{ended.stderr}"
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in, called as a clone is: setuptools writes where it builds."""
    copy = tmp_path_factory.mktemp("clones") / "dxray"
    copy.mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    made = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("attacks", "defenses", "models", "orchestrator", "src"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=made)
    return copy


def environment(folder: Path, checkout: Path, *options: str) -> Path:
    """The programs of a new virtual environment, into which the checkout was installed."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=checkout)
    (site_packages(folder) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(folder / "bin" / "python", "-m", "pip", "install", *offline, *options, checkout, folder=checkout)
    return folder / "bin"


def site_packages(environment: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    return environment(tmp_path_factory.mktemp("installed"), checkout)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's folder, in which our folders' names mean something else; `models` is a package without __init__.py."""
    for name in ("attacks", "defenses", "orchestrator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} of somebody else')")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "theirs.py").touch()
    (tmp_path / "dxray").mkdir()  # a clone, or what was made by dxray
    return tmp_path


def test_one_import_package_is_installed_and_no_other(installed: Path, tmp_path: Path) -> None:
    added = {path.name for path in site_packages(installed.parent).iterdir()} - {"dependencies.pth"}
    assert {name for name in added if not name.endswith(".dist-info")} == {"dxray"}
    assert "No module named 'models'" in run(installed / "python", "-c", "import models", folder=tmp_path, code=1)


def test_the_installed_package_has_all_files_of_the_checkout(installed: Path) -> None:
    def files(package: Path) -> set[str]:
        walk = os.walk(package, followlinks=True)
        paths = (Path(folder, name).relative_to(package) for folder, _, names in walk for name in names)
        return {str(path) for path in paths if path.suffix != ".pyc"}

    assert files(site_packages(installed.parent) / "dxray") == files(ROOT / "src" / "dxray")


def test_the_source_archive_makes_the_wheel_that_the_checkout_makes(checkout: Path, tmp_path: Path) -> None:
    def wheel(source: Path, name: str) -> dict[str, bytes]:
        run(sys.executable, "-c", BUILD.format(kind="wheel"), tmp_path / name, folder=source)
        (made,) = (tmp_path / name).glob("*.whl")
        with zipfile.ZipFile(made) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    run(sys.executable, "-c", BUILD.format(kind="sdist"), tmp_path, folder=checkout)
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / made.name.removesuffix(".tar.gz")
    assert wheel(source, "second-hand") == wheel(checkout, "first-hand")


def test_workers_of_ray_do_not_mind_packages_of_the_same_names(installed: Path, project: Path, faces: Faces) -> None:
    dxray = installed / "dxray"
    grid = ("--net", "convnet", "--filters", "4", "--blocks", "2", "--epochs", "1")
    run(dxray, "sweep", "--data", "synthetic:300", *grid, "--out", "swept", folder=project)
    assert [row["status"] for row in pq.read_table(project / "swept" / "trials.parquet").to_pylist()] == ["ok"]
    (project / "faces").mkdir()
    for name, image in zip("abc", faces.images, strict=False):
        (project / "faces" / f"{name}.png").write_bytes(encode_png(image))
    run(dxray, "attack", "faces", "--model", "swept", "--workers", "ray", "--out", "attacked", folder=project)
    assert {row["status"] for row in pq.read_table(project / "attacked" / "images").to_pylist()} <= {"fooled", "missed"}


def test_an_editable_install_is_found_and_hides_nobody_elses_package(
    checkout: Path, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = environment(tmp_path_factory.mktemp("editable"), checkout, "--editable") / "python"
    for folder in (project, checkout.parent, checkout):
        assert Path(run(python, "-c", WHERE, folder=folder).strip()) == checkout / "src" / "dxray" / "__init__.py"
    run(python, "-c", "import models.theirs", folder=project)
