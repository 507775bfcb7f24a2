"""The pages: built strictly as a site, reachable from its index, and written to rules that a program can check."""

from __future__ import annotations

import re
from pathlib import Path

import docs
import docs_reference
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = docs.pages_of(ROOT)
MADE = {"docs/settings.md", "docs/steps.md"} | {
    page for page in PAGES if page.startswith("charts/") and page.endswith("README.md")
}
"""Pages made of other files, whose long lines are those files' own sentences."""
LONGEST = 120
every_page = pytest.mark.parametrize("page", PAGES)
SHOWN = ("csm_serving.client", "csm_serving.wire", "csm_serving.settings", "csm_model.errors")
"""Packages whose docstrings are built here: the client's. `make docs` builds all of them as strictly."""


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    assert docs.build(docs.Site(ROOT, packages=SHOWN), tmp_path) == 0
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for page in ("docs/client.html", "reference/command-line.html", "reference/api/csm_serving.client.html"):
        assert page in home
        assert (tmp_path / "site" / page).is_file()
    commands = (tmp_path / "site" / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert "Only what is asked" not in commands
    assert "csm voice add" in commands


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a page](nowhere.md)", "nowhere"),
        ("[a part](client.md#no-such-part)", "no-such-part"),
        ("[here](#no-such-part)", "no-such-part"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(
    text: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site = docs.Site(ROOT, packages=())
    made = "<!-- site: - [Commands](reference/command-line.md)\n- [API](reference/api/index.md) -->"
    site.written = {
        "docs/README.md": f"# Home\n\nWords.\n\n## Call\n\n- [Call](client.md)\n{made}\n",
        "docs/client.md": "# Call\n\nWords.\n",
    }
    assert docs.build(site, tmp_path, builder="dummy") == 0
    site.written["docs/client.md"] += f"\n{text}\n"
    assert docs.build(site, tmp_path, builder="dummy") != 0
    assert words in capfd.readouterr().err


def test_links_to_source_lead_to_the_repository_where_it_is_named() -> None:
    site = docs.Site(ROOT, "https://example.com/project/blob/main/", packages=())
    page = site.rewritten("docs/client.md", "docs/client.md")
    assert "](https://example.com/project/blob/main/deploy/serving/csm_serving/client/sync.py)" in page
    assert "](protocol.md#request)" in page
    assert not site.sources
    assert "source/" not in page


def test_every_page_is_on_the_index() -> None:
    """From the home page every other one is reached by links; the site's contents hold those that are listed."""
    seen, new = set(), {docs.HOME}
    while new:
        seen |= new
        targets = {docs.place_of(page, target) for page in new for target in docs.links_of(PAGES[page])}
        new = {target for target in targets if target in PAGES} - seen
    assert set(PAGES) == seen


@every_page
def test_a_page_begins_with_its_heading_and_a_paragraph(page: str) -> None:
    heading, _, rest = PAGES[page].partition("\n")
    assert re.fullmatch(r"# \S.*", heading), "a page begins with its heading"
    first = rest.strip().split("\n\n")[0]
    assert re.match(r"[A-Z`\[0-9]", first), f"after its heading a page says what it is for, not {first[:40]!r}"


@pytest.mark.parametrize("page", sorted(PAGES.keys() - MADE))
def test_lines_are_short(page: str) -> None:
    """Tables, links and code aside, which cannot be broken."""
    text = "".join(part for part, is_code in docs.parts_of(PAGES[page]) if not is_code)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    ", "#"))]
    plain = [re.sub(r"\]\([^)]*\)", "]", line) for line in lines]
    assert not [line for line in plain if len(line) > LONGEST]


def terms() -> list[str]:
    """The glossary's terms, each without its abbreviation."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", PAGES["docs/glossary.md"], re.MULTILINE)
    return [re.sub(r" \(.*\)", "", term) for row in rows if row not in ("term", "---") for term in row.split(", ")]


@pytest.mark.parametrize("term", terms())
def test_a_term_of_the_glossary_is_used(term: str) -> None:
    used = [page for page, text in PAGES.items() if page != "docs/glossary.md" and term.lower() in text.lower()]
    assert used, f"no page says {term!r}"


def test_terms_are_in_order_and_enough() -> None:
    assert len(terms()) >= 30
    assert sorted(terms(), key=str.lower) == sorted(set(terms()), key=str.lower)


@pytest.mark.parametrize("page", sorted(PAGES.keys() - MADE))
def test_every_table_has_a_caption(page: str) -> None:
    """The line before a table says what it shows. A heading is no sentence, but where all pages of a kind have it."""
    before = re.findall(r"^(.*)\n\n\|[^\n]*\|\n\| ---", PAGES[page], re.MULTILINE)
    headings = [line for line in before if line.startswith("#") and line != "## Causes and cures"]
    riddles = [line for line in before if re.match(r"(Of|In|By) an? \w+:$", line)]
    assert headings + riddles == []


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = docs_reference.command_page()
    assert {"## csm run", "## csm voice add", "## csm serve"} <= set(re.findall(r"^## csm .*$", page, re.MULTILINE))
