"""What a face is called costs nobody a run: names that a file system refuses are shortened, or become plain ones."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import read
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.attack.shards import Job, attack_shard
from dxray.orchestrator.attack.triples import NAME_LIMIT, places
from dxray.orchestrator.runs.store import TRIPLE, read_rows, write_json

Said = tuple[int, str, str]
NAMES = ("x" * 251, "\u5973" * 82, "a" * 100, "one?two", "\u00fc")


@pytest.fixture
def strange(tmp_path: Path, faces: Faces) -> Path:
    """Faces with names at the limits of this file system."""
    (tmp_path / "faces").mkdir()
    for image, name in zip(faces.images, NAMES, strict=False):
        (tmp_path / "faces" / f"{name}.png").write_bytes(encode_png(image))
    return tmp_path / "faces"


def attack(faces: Path, trained: Path, out: Path, *, raw: bool = False) -> None:
    attack_shard(Job(out=out, raw=raw), 0, list(list_inputs([faces], classes=("male", "female"))), *read(trained))


def must_be_whole(out: Path) -> None:
    rows = list(read_rows(out))
    assert sorted(row["name"] for row in rows) == sorted(f"{name}.png" for name in NAMES)
    assert not {row["status"] for row in rows} & {"unreadable", "failed"}
    files = [row[which] for row in rows for which in TRIPLE]
    assert len({one["path"] for one in files}) == len(files)
    assert all((out / one["path"]).read_bytes() == one["bytes"] for one in files)


@pytest.mark.parametrize("raw", [False, True])
def test_long_names_are_shortened_and_each_image_has_its_files(
    strange: Path, trained: Path, tmp_path: Path, raw: bool
) -> None:
    attack(strange, trained, tmp_path / "out", raw=raw)
    must_be_whole(tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.raw"))) == raw * 3 * len(NAMES)
    attack(strange, trained, tmp_path / "out", raw=raw)  # anew, as after a kill: the same names
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3 * len(NAMES)


@pytest.mark.parametrize("code", [errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOENT])
def test_a_file_system_that_takes_few_names_has_all_images(
    strange: Path, trained: Path, tmp_path: Path, code: int, refuse_names: Callable[[int], None]
) -> None:
    refuse_names(code)
    attack(strange, trained, tmp_path / "out")
    must_be_whole(tmp_path / "out")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_more_still_stops_the_run(
    strange: Path, trained: Path, tmp_path: Path, code: int, refuse_names: Callable[[int], None]
) -> None:
    refuse_names(code)
    with pytest.raises(OSError, match="refused"):
        attack(strange, trained, tmp_path / "out")


@pytest.fixture
def refuse_names(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Refuse triples with names of more than 143 bytes, as eCryptfs does, or with letters that SMB or exFAT forbid."""

    def refuse(code: int) -> None:
        opened = Path.open

        def open_only_plain(path: Path, *how: object, **options: object) -> object:
            odd = len(path.name) > 143 or not path.name.isascii() or "?" in path.name
            if path.name.startswith("adv_") and odd:
                raise OSError(code, "refused", str(path))
            return opened(path, *how, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", open_only_plain)

    return refuse


def test_no_place_is_too_long_and_none_is_shared() -> None:
    names = [
        "x" * 300,
        "x" * 301,
        "x" * 255,
        "y/" * 600 + "f",
        "y/" * 599 + "f",
        f"{'d' * 300}/f",
        f"{'d' * 301}/f",
        "\u5973" * 300,
    ]
    found = [place for name in names for place in places(name).values()]
    assert len(set(found)) == len(found)
    for place in found:
        assert len(place.encode()) < 1000
        assert all(len(part.encode()) <= NAME_LIMIT for part in place.split("/"))
    assert places("sub/face")["modified"] == "triples/sub/adv_face_mod.png"


def test_a_long_name_for_a_single_face_is_shortened(
    strange: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    words = ["--model", trained, "--out", tmp_path / "out", "--workers", "local", "--name", "n" * 250]
    code, _, errors = dxray("attack", strange / f"{NAMES[2]}.png", *words)
    assert code == 0, errors
    assert len(list((tmp_path / "out" / "triples").glob("adv_nnn*.png"))) == 3


def test_what_was_passed_over_is_said_in_one_line_and_in_the_record(
    strange: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    for name in ("a.txt", "b.txt", "c.pdf", "notes"):
        (strange / name).touch()
    out = tmp_path / "out"
    code, said, _ = dxray("attack", strange, "--model", trained, "--out", out, "--workers", "local")
    assert code == 0
    assert "passed over: 2 .txt, " in said
    expected = {".txt": 2, ".pdf": 1, "without an ending": 1}
    assert json.loads((out / "attack.json").read_text())["passed_over"] == expected
    (strange / "d.txt").touch()
    (strange / "new.png").write_bytes((strange / f"{NAMES[2]}.png").read_bytes())
    assert dxray("attack", "--update", out, "--workers", "local")[0] == 0
    assert json.loads((out / "attack.json").read_text())["passed_over"] == expected | {".txt": 3}


def test_an_export_goes_on_past_names_that_are_refused(
    strange: Path,
    trained: Path,
    tmp_path: Path,
    dxray: Callable[..., Said],
    refuse_names: Callable[[int], None],
) -> None:
    inputs = list(list_inputs([strange], classes=("male", "female")))
    attack_shard(Job(out=tmp_path / "out", png=False), 0, inputs, *read(trained))
    write_json(tmp_path / "out" / "attack.json", {"config": {}})
    refuse_names(errno.ENAMETOOLONG)
    code, said, errors = dxray("export", tmp_path / "out")
    assert code == 1
    assert len(list((tmp_path / "out" / "triples").rglob("*.png"))) == 3
    assert "3 files written" in said + errors
    assert "dxray: 12 files could not be written, such as " in errors
    assert "(refused)" in errors
