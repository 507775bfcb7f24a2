"""Builds the docs site from the Markdown of this repository: `make docs`, then open build/docs/site/index.html.

python tools/docs.py                                          strict: every warning is an error
python tools/docs.py --repository https://HOST/PROJECT/blob/main    links to source files lead there

Pages are copied to `build/docs/pages` at their own paths, so that their relative links hold there as on a code host.
What only the site has is written beside them: the home page with the tables of contents (from `docs/README.md`), the
command line's help, the modules' docstrings, and a page for each source file that some page points to.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from docs_reference import PARTS, reference_pages
from made_files import drifted, write

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "docs"
HOME = "docs/README.md"
"""The list of pages by task; the site's home page."""
WRITTEN = ("README.md", "docs/**/*.md", "charts/*/*.md", "benchmarks/README.md", "deploy/**/*.md")
"""Where pages are. Tests and made folders have none."""
LINK = re.compile(r"(?P<before>!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()(?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
ELSEWHERE = re.compile(r"\w+:|reference/")
"""Targets that are left as they are: of other hosts, and pages that only the site has."""
LISTED = re.compile(r"^- \[([^\]]+)\]\(([^)\s#]+)\.md\)", re.MULTILINE)
ON_SITE = re.compile(r"<!-- site: (.*?) -->", re.DOTALL)
"""Lines of the home page that point to pages which only the site has."""
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml", ".sh": "bash"}


def pages_of(root: Path) -> dict[str, str]:
    """The pages written by hand or by the other tools: path from the root, and text."""
    paths = sorted({path for pattern in WRITTEN for path in root.glob(pattern)})
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def parts_of(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a page in order, and whether each is a block of code, in which nothing is a link."""
    start = 0
    for code in BLOCK.finditer(text):
        yield text[start : code.start()], False
        yield code.group(), True
        start = code.end()
    yield text[start:], False


def links_of(text: str) -> Iterator[str]:
    """Where a page's links lead, without their anchors; links within the page and to other hosts are left out."""
    for part, is_code in parts_of(text):
        for link in LINK.finditer("" if is_code else part):
            if link["target"] and not ELSEWHERE.match(link["target"]):
                yield link["target"]


def place_of(page: str, target: str) -> str:
    """Where a link of a page leads, from the root."""
    return os.path.normpath(Path(page).parent / target)


class Site:
    """The pages of the site, as text by path."""

    def __init__(self, root: Path, repository: str | None = None, packages: Collection[str] = tuple(PARTS)) -> None:
        self.root = root
        self.packages = packages
        self.repository = repository.rstrip("/") if repository else None
        self.written = pages_of(root)
        self.sources: dict[str, str] = {}
        """Pages that show a source file or list a folder, made for those that are pointed to."""

    def source_page(self, place: str) -> str | None:
        """The page of a file or folder of the repository; none where there is no such thing."""
        path = self.root / place
        if not path.exists():
            return None
        name = f"source/{place}.md"
        if name not in self.sources:
            self.sources[name] = ""  # set before its own links are looked at
            self.sources[name] = self.folder(path) if path.is_dir() else self.file(path)
        return name

    def file(self, path: Path) -> str:
        """A page with the file's text."""
        place = path.relative_to(self.root).as_posix()
        language = LANGUAGES.get(path.suffix, "text")
        text = path.read_text(encoding="utf-8", errors="replace")
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
        return f"---\norphan: true\n---\n# {place}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"

    def folder(self, path: Path) -> str:
        """A page that lists what is in the folder."""
        place = path.relative_to(self.root).as_posix()
        names = sorted(
            each.name + "/" * each.is_dir()
            for each in path.iterdir()
            if each.name[0] != "." and each.name not in ("__pycache__", "parts", "base-corpus")
        )
        listed = "\n".join(f"- `{name}`" for name in names)
        return f"---\norphan: true\n---\n# {place}/\n\n{listed}\n"

    def target(self, page: str, target: str, anchor: str, at: str) -> str:
        """A link's target as the site has it, for a link of `page` whose text is shown at `at`."""
        place = place_of(page, target)
        readme = f"{place}/README.md" if place != "." else "README.md"
        if place not in self.written and readme in self.written:
            place = readme
        if place == HOME:
            place = "index.md"
        elif place not in self.written and Path(place).suffix not in (".png", ".svg"):
            if self.repository is not None and (self.root / place).exists():
                return f"{self.repository}/{place}{anchor}"
            place = self.source_page(place) or place
        return os.path.relpath(place, Path(at).parent) + anchor

    def rewritten(self, page: str, at: str) -> str:
        """A page's text, its links led to where things are on the site."""

        def new(link: re.Match[str]) -> str:
            target, anchor = link["target"], link["anchor"] or ""
            if not target or ELSEWHERE.match(target):
                return link.group()
            return f"{link['before']}{self.target(page, target, anchor, at)})"

        parts = parts_of(self.written[page])
        return "".join(part if is_code else LINK.sub(new, part) for part, is_code in parts)

    def home(self) -> str:
        """The home page: `docs/README.md`, and a table of contents from the list under each of its headings."""
        text = ON_SITE.sub(r"\1", self.rewritten(HOME, "index.md"))
        trees = []
        for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            caption = section.splitlines()[0]
            entries = "\n".join(f"{title} <{target}>" for title, target in LISTED.findall(section))
            if entries:
                trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n")
        return text + "\n" + "\n".join(trees)

    def listed(self, page: str) -> str:
        """A table of contents of the pages that stand beside a README and that it points to."""
        folder = Path(page).parent.as_posix()
        beside = [place_of(page, target) for target in links_of(self.written[page])]
        pages = [place for place in dict.fromkeys(beside) if place in self.written and place != page]
        entries = [Path(place).name for place in pages if Path(place).parent.as_posix() == folder]
        return "\n```{toctree}\n:hidden:\n\n" + "\n".join(entries) + "\n```\n" if folder != "." and entries else ""

    def pages(self) -> dict[str, str]:
        """Every page of the site."""
        made = {page: self.rewritten(page, page) for page in self.written if page != HOME}
        for page in made:
            if page.endswith("/README.md"):
                made[page] += self.listed(page)
        made["index.md"] = self.home()
        made |= reference_pages(self.packages)
        return made | self.sources


def staged(site: Site, folder: Path) -> None:
    """Writes the pages and their pictures into a folder and removes what is no longer of it; unchanged files stay."""
    made = {folder / name: text for name, text in site.pages().items()}
    pictures = {folder / path.relative_to(site.root): path for path in (site.root / "docs").rglob("*.[ps][nv]g")}
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in made and path not in pictures]:
        path.unlink()
    for path in (*made, *pictures):
        path.parent.mkdir(parents=True, exist_ok=True)
    write({path: made[path] for path in drifted(made)})
    for path, picture in pictures.items():
        shutil.copy2(picture, path)


def build(site: Site, out: Path, builder: str = "html") -> int:
    """Builds a site under `out`; returns Sphinx's exit status, which is not 0 where there was a warning.

    In a process of its own: autodoc writes annotations that it reads from sources into the classes that it documents,
    and pydantic's base class, once it has them, makes no more models.
    """
    staged(site, out / "pages")
    options = ["--builder", builder, "--fail-on-warning", "--nitpicky", "--keep-going", "--quiet"]
    options += ["--conf-dir", str(site.root / "docs"), "--doctree-dir", str(out / "doctrees")]
    sphinx = [sys.executable, "-m", "sphinx", *options, str(out / "pages"), str(out / "site")]
    return subprocess.run(sphinx, check=False).returncode


def main(arguments: list[str]) -> int:
    """Builds the site as it is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Builds the docs site; every warning is an error.")
    parser.add_argument(
        "--repository", help="address under which source files are shown, such as https://HOST/X/blob/main"
    )
    parser.add_argument(
        "--packages", nargs="*", default=tuple(PARTS), help="whose docstrings are shown, such as csm_model.text [all]"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the site [build/docs]")
    options = parser.parse_args(arguments)
    status = build(Site(ROOT, options.repository, options.packages), options.out.resolve())
    if status == 0:
        print(f"{options.out / 'site' / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
