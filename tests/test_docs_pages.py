"""What the pages say of files, of each other and of the command is so; README's lines of Python run."""

import re
from contextlib import suppress
from pathlib import Path

import pytest

from dxray.orchestrator.cli.app import main

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "cluster" / "SECURITY.md", *DOCS]
GLOSSARY = ROOT / "docs" / "glossary.md"  # the one page that names what there is no more
BENCH = ROOT / "tests" / "bench"
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
INLINE = re.compile(r"`([^`\n]+)`")
VERBS = ["sweep", "plan", "attack", "predict", "verify", "show", "export", "compact", "retrain", "robustness", "doctor"]
VERBS += ["demo", "up", "status", "submit", "fetch", "down"]


def text_of(page: Path) -> str:
    """Without what stands in blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named(page: Path, pattern: str) -> set[str]:
    return {found for code in INLINE.findall(text_of(page)) for found in re.findall(pattern, code)}


@pytest.fixture
def helps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Verb -> its `--help`; that of dxray itself is called ""."""
    monkeypatch.setenv("COLUMNS", "300")
    found = {}
    for verb in ("", *VERBS):
        with suppress(SystemExit):
            main([*verb.split(), "--help"])
        found[verb] = capsys.readouterr().out
    return found


def test_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.read_text().splitlines()) <= 200
    linked = {(ROOT / target).resolve() for target, _ in LINK.findall(README.read_text())}
    assert {*PAGES} - {README} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(text_of(page)):
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(place), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Those in the folders of the code; `NAME` stands for a name that a reader chooses."""
    for path in named(page, r"^((?:attacks|cluster|defenses|docs|models|orchestrator|src|tests)/[\w./-]*)$"):
        assert "NAME" in path or (ROOT / path).exists(), f"{page.name} names {path}"


def test_registries_are_in_the_files_that_the_page_names() -> None:
    row = r"^\| [^|]* \| `([^`]*)` \| `(\w+)` in (?:`([^`]*)`|the same file) \| `([^`]*)` \|$"
    rows = re.findall(row, (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)
    assert {"ATTACKS", "MODELS", "DEFENSES", "PAYLOADS", "READERS"} <= {registry for _, registry, _, _ in rows}
    for file, registry, elsewhere, test in rows:
        assert re.search(rf"^{registry}\b", (ROOT / (elsewhere or file)).read_text(), re.MULTILINE), registry
        assert (ROOT / test).is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if page != GLOSSARY], ids=lambda page: page.name)
def test_verbs_and_options_that_a_page_names_exist(page: Path, helps: dict[str, str]) -> None:
    for verb in named(page, r"^dxray (\w+)"):
        assert verb in helps or verb.isupper(), f"{page.name} names the verb {verb}"
    known = {option for text in helps.values() for option in re.findall(r"--[a-z][\w-]*", text)}
    known |= set(re.findall(r'"(--[\w-]+)', " ".join(file.read_text() for file in BENCH.glob("*.py"))))
    known.add("--check")  # of ruff
    for option in named(page, r"(?<![\w-])--[a-z][\w-]*"):
        assert option in known, f"{page.name} names the option {option}"
