"""`import dxray`: what it costs, what it gives, and what its results say in a script and in a notebook."""

import ast
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import dxray
from dxray.attacks import ATTACKS
from dxray.attacks.engine.lattice import from_levels
from dxray.defenses import defended, parse
from dxray.models.data.faces import Faces
from dxray.models.victims.checkpoint import ModelCard, load, save
from dxray.orchestrator.hardening.request import RetrainConfig
from dxray.orchestrator.runs.store import IMAGES
from dxray.orchestrator.sweep.sweep import SweepConfig

PNG = b"\x89PNG"


def python(code: str, cwd: Path) -> str:
    """What a fresh Python prints."""
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # as the tests themselves: the nets are small
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=alone, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[bytes]]:
    """From its call on this is a notebook, by a stand-in for IPython; returns the pictures that are displayed."""

    def begin() -> list[bytes]:
        shown: list[bytes] = []
        shell = SimpleNamespace(kernel=object())
        modules: dict[str, Any] = {
            "IPython": SimpleNamespace(get_ipython=lambda: shell),
            "IPython.display": SimpleNamespace(Image=lambda data: data, display=shown.append),
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return shown

    return begin


@pytest.fixture(scope="module")
def net(trained: Path) -> nn.Module:
    return dxray.load(trained)


@pytest.fixture
def fooled(net: nn.Module, face_folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Images, what became of them by dx, and their labels."""
    images, labels = dxray.read(face_folder, net)
    return images, dxray.dx(net, images, labels, norm="l2"), labels


# What importing it costs, and which names it has.


def test_importing_it_loads_nothing_that_takes_time(tmp_path: Path) -> None:
    heavy = ("IPython", "matplotlib", "numpy", "pandas", "pyarrow", "ray", "rich", "torch")
    code = f"import sys, dxray; dir(dxray), dxray.__version__; print([name for name in {heavy} if name in sys.modules])"
    assert python(code, tmp_path) == "[]"


def test_nets_and_images_need_no_ray(trained: Path, face_folder: Path, tmp_path: Path) -> None:
    # And a project's own packages stay what they are, whatever they are called.
    for name in ("attacks", "models", "orchestrator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    code = f"""
import sys, dxray, dxray.attacks, attacks, models, orchestrator
net = dxray.load({str(trained)!r})
images, labels = dxray.read({str(face_folder)!r}, net)
scores = dxray.score(net, images, dxray.dx(net, images, labels, norm="l2"), labels)
print(set(scores.rows.status), attacks.MINE, models.MINE, orchestrator.MINE, "ray" in sys.modules)
"""
    assert python(code, tmp_path) == "{'fooled'} True True True False"


def test_each_attack_of_the_registry_is_a_function() -> None:
    assert tuple(ATTACKS) == dxray._ATTACKS
    assert all(getattr(dxray, name) is attack for name, attack in ATTACKS.items())


def test_every_name_is_listed_and_leads_somewhere() -> None:
    assert set(dxray.__all__) <= set(dir(dxray))
    assert all(getattr(dxray, name) is not None for name in dxray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = dxray.nonsense


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(dxray.__file__).read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = [alias.asname for node in ast.walk(checking) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(map(str, seen)) == sorted(dxray._HOMES)


def test_no_name_is_that_of_a_module_which_it_would_hide() -> None:
    assert not set(dxray._HOMES) & {entry.stem for entry in Path(dxray.__file__).parent.iterdir()}


# Nets, faces, scores.


def test_a_net_comes_with_its_card_and_is_else_as_it_was_saved(trained: Path, net: nn.Module) -> None:
    same, card = load(trained)
    assert dxray.load(str(trained)).card == card
    assert not net.training
    assert net.state_dict().keys() == same.state_dict().keys()


def test_foreign_nets_and_defended_ones_have_cards_too(net: nn.Module, trained: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.trace(net, torch.rand(2, 1, 48, 48), check_trace=False), tmp_path / "traced.pt")
    (tmp_path / "traced.json").write_text('{"classes": ["male", "female"], "channels": 1, "size": 48}')
    assert dxray.load(tmp_path / "traced.pt").card.net == "torchscript"
    plain, card = load(trained)
    defence = parse("jumprelu:kappa=0.1")
    card = ModelCard(card.net, card.parameters, card.classes, defence=defence)
    save(defended(plain, defence["name"], **defence["parameters"]), card, tmp_path / "defended")
    assert dxray.load(tmp_path / "defended").card.defence == defence


def test_faces_are_read_as_an_attack_reads_them(net: nn.Module, face_folder: Path, faces: Faces) -> None:
    images, labels = dxray.read(face_folder, net)
    order = np.lexsort((faces.names[:10], -faces.labels[:10]))  # the folder `female` comes first
    assert torch.equal(images, from_levels(torch.from_numpy(faces.images[:10][order])))
    assert labels.tolist() == faces.labels[:10][order].tolist()
    some = sorted(face_folder.glob("male/*.png"))[:2]
    assert torch.equal(dxray.read(some, net)[0], images[labels == 0][:2])


def test_where_no_class_is_known_the_nets_answer_counts_as_right(net: nn.Module, face_folder: Path) -> None:
    images, labels = dxray.read(face_folder, net, labels="none")
    with torch.no_grad():
        assert torch.equal(labels, net(images).argmax(dim=1))


def test_what_cannot_be_read_is_one_sentence(net: nn.Module, face_folder: Path) -> None:
    with pytest.raises(dxray.UserError, match="known are: auto, utkface, folder, none"):
        dxray.read(face_folder, net, labels="name")
    with pytest.raises(dxray.UserError, match=r"no card.*dxray\.load"):
        dxray.read(face_folder, nn.Flatten())
    with pytest.raises(dxray.CheckpointError):
        dxray.load(face_folder)
    (face_folder / "male" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(dxray.UserError, match=r"'male/broken.png' cannot be read"):
        dxray.read(face_folder, net)


def test_scores_count_and_measure(net: nn.Module, fooled: tuple[Tensor, Tensor, Tensor]) -> None:
    images, modified, labels = fooled
    scores = dxray.score(net, images, modified, labels)
    distances = (modified - images).flatten(1).norm(dim=1).numpy()
    assert np.allclose(scores.rows.l2, distances)
    assert set(scores.rows.columns) <= set(IMAGES.names)
    assert repr(scores) == (f"10 of 10 images that the net had right are fooled; median L2 {np.median(distances):.3f}")
    targeted = dxray.score(net, images, images, 1 - labels, targets=labels)
    assert repr(targeted) == "0 of 0 images that the net had right are fooled"
    assert targeted.rows.status.unique().tolist() == ["already_wrong"]


def test_scores_are_drawn_to_a_file_or_in_the_notebook(
    net: nn.Module,
    fooled: tuple[Tensor, Tensor, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    notebook: Callable[[], list[bytes]],
) -> None:
    images, modified, labels = fooled
    modified = torch.cat([modified[:8], images[8:]])
    scores = dxray.score(net, images, modified, labels)
    scores.show(out=tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(PNG)
    assert capsys.readouterr().out == f"{scores}\nthe picture: {tmp_path / 'sheet.png'}\n"
    shown = notebook()
    scores.show()
    assert shown == [(tmp_path / "sheet.png").read_bytes()]
    assert "8 of 10 images" in scores._repr_html_()
    assert scores._repr_html_().count("<tr") == 1 + 10


def test_scores_of_a_net_without_a_card_are_drawn_too(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images = torch.zeros(2, 1, 4, 4)
    dxray.score(net, images, images + 1 / 255).show(out=tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()


def test_where_nothing_was_attacked_there_is_nothing_to_draw(
    net: nn.Module, fooled: tuple[Tensor, Tensor, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _, labels = fooled
    dxray.score(net, images, images, 1 - labels).show(out=tmp_path / "sheet.png")
    assert "nothing to draw" in capsys.readouterr().out
    assert not (tmp_path / "sheet.png").exists()


# Runs.


@pytest.mark.parametrize(
    ("call", "known"),
    [
        (lambda: dxray.sweep(filter=8), "address, augment, .*filters.*stop_early"),
        (lambda: dxray.attack_folder("faces", "net", attack="pgd", effort="fast"), "eps, .*steps"),
        (lambda: dxray.attack_folder("faces", "net", mask=None), "confidence, .*norm"),
        (lambda: dxray.retrain("net", round=4), "attack_faces, .*epochs.*max_seconds.*rounds"),
    ],
)
def test_an_unknown_option_is_a_type_error_with_the_known_names(call: Callable[[], Any], known: str) -> None:
    with pytest.raises(TypeError, match=f"has no option '(filter|effort|mask|round)'; it takes .*{known}"):
        call()


def test_a_net_in_memory_is_no_model_of_a_run(net: nn.Module) -> None:
    with pytest.raises(dxray.UserError, match="expected a path, s3:// or gs://, and ConvNet came"):
        dxray.attack_folder("faces", net)  # type: ignore[arg-type]


def test_where_no_run_is_results_say_so(tmp_path: Path) -> None:
    with pytest.raises(dxray.UserError, match=r"expected sweep\.json, attack\.json, retrain\.json"):
        dxray.results(tmp_path)


def test_a_sweep_is_asked_for_as_the_command_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SweepConfig] = []
    monkeypatch.setattr("dxray.orchestrator.sweep.sweep.sweep", lambda config, *_, **__: asked.append(config))
    (tmp_path / "grid.yaml").write_text("net: densenet\ngrids: [{filters: 4}, {filters: 8, epochs: 2}]\n")
    dxray.sweep(out=tmp_path, data="synthetic:400", net="convnet", filters=(2, 4), seed=[3, 4], size=32, samples=5)
    dxray.sweep(out=tmp_path, grid=tmp_path / "grid.yaml", epochs=1)
    dxray.sweep(out=tmp_path, grid=[{"filters": 4}, {"filters": 8, "epochs": 2}], net="densenet", epochs=1)
    dxray.sweep(out=tmp_path, preset="smoke", seed=7)
    assert asked[0] == SweepConfig(
        data="synthetic:400",
        data_seed=3,
        grid=[{"net": ["convnet"], "filters": [2, 4], "seed": [3, 4]}],
        size=32,
        samples=5,
    )
    assert asked[1].grid == asked[2].grid == [{"net": ["densenet"], "filters": [n], "epochs": [1]} for n in (4, 8)]
    assert [part["seed"] for part in cast(Any, asked[3].grid)] == [[7]]
    with pytest.raises(dxray.UserError, match="preset or a grid"):
        dxray.sweep(out=tmp_path, preset="smoke", grid={"filters": 4})


def test_a_retraining_is_asked_for_as_the_command_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RetrainConfig] = []
    monkeypatch.setattr("dxray.api.run_retrain", lambda config, *_, **__: asked.append(config))
    dxray.retrain(tmp_path, data="synthetic:400", attack=["dx", "pgd"], rounds=2, max_seconds=9.0, epochs=1, seed=5)
    dxray.retrain("net", method="pgd")
    first, second = asked
    assert (first.model, first.attacks, first.seed, first.data_seed) == (str(tmp_path), ["dx", "pgd"], 5, 5)
    assert (first.rules.rounds, first.rules.max_seconds, first.epochs) == (2, 9.0, 1)
    assert (second.method, second.rules.rounds, second.model) == ("pgd", 1, str(Path("net").absolute()))


def test_a_folder_has_the_rows_that_scores_have(
    local_ray: None,
    net: nn.Module,
    trained: Path,
    face_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = dxray.attack_folder(face_folder, trained, out=tmp_path / "run", norm="linf")
    assert capsys.readouterr().out == "", "progress belongs on standard error"
    images, labels = dxray.read(face_folder, net)
    scores = dxray.score(net, images, dxray.dx(net, images, labels, norm="linf"), labels)
    alike = [name for name in scores.rows.columns if name not in ("probability_before", "probability_after")]
    pd.testing.assert_frame_equal(run.rows[alike], scores.rows[alike], check_dtype=False)
    assert repr(run) == f"an attack on 10 images in {tmp_path / 'run'}: {scores}"
    assert dxray.attack_folder(face_folder, trained, out=tmp_path / "run", norm="linf") == run, "the same run goes on"
    assert dxray.results(tmp_path / "run") == run
    assert dxray.load(run.net).card.sha256 == run.rows.net_sha256[0]
    run.show(where="l0 > 0", count=2)
    said = capsys.readouterr().out
    assert "hardest" in said
    assert f"the picture: {tmp_path / 'run' / 'contact_sheet.png'}" in said
    with pytest.raises(dxray.UserError, match="holds a finished run"):
        dxray.attack_folder(face_folder, trained, out=tmp_path / "run", norm="l2")


def test_a_sweep_goes_on_and_is_shown(
    local_ray: None,
    face_table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    notebook: Callable[[], list[bytes]],
) -> None:
    asked: dict[str, Any] = {"data": f"parquet:{face_table}", "net": "convnet", "filters": 2, "epochs": 1}
    run = dxray.sweep(**asked, out=tmp_path / "run")
    weights = tmp_path / "run" / "best" / "model.safetensors"
    trained = weights.stat().st_mtime_ns
    assert dxray.sweep(**asked, out=tmp_path / "run") == run == dxray.results(tmp_path / "run")
    assert weights.stat().st_mtime_ns == trained, "nothing is trained anew"
    with pytest.raises(dxray.UserError, match=r"holds a sweep with grid .*choose another out"):
        dxray.sweep(**asked | {"filters": 4}, out=tmp_path / "run")
    assert run.rows.filters.tolist() == [2]
    assert repr(run).endswith(f"the best, trial 0, {run.rows.accuracy[0]:.1%} on the test split")
    assert dxray.load(run.net).card.sha256 == run.rows.sha256[0]
    assert capsys.readouterr().out == ""
    run.show()
    assert f"the same as a picture: {run.out / 'table.png'}" in capsys.readouterr().out
    shown = notebook()
    run.show()
    assert [picture[:4] for picture in shown] == [PNG]
    assert capsys.readouterr().out == "", "in a notebook the picture alone"
