"""How Sphinx builds the docs site; `tools/docs.py` (`make docs`) puts its pages together and calls it."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from pygments.lexers.special import TextLexer

project = "csm-foundry"
author = "csm-foundry"
project_copyright = "csm-foundry, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "csm-foundry"
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 4  # the anchors that code hosts give headings

autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
toc_object_entries = False  # a page's navigation lists modules; classes and functions would make it endless

# Types of other libraries have no page here, nor have type variables and checks of values (`Annotated`). Any other name
# of this project that leads nowhere is a warning, and so an error.
nitpick_ignore_regex = [("py:.*", r"(?!csm_).*"), ("py:.*", r"csm_.*\.([A-Z]|Task|Result|check_\w+)")]
suppress_warnings = ["ref.python"]  # a type's short name in a signature that two modules have

CODE = re.compile(r"(`+[^`]+`+)")
DRAWN = re.compile("[\u2500-\u257f\u25b6]")  # lines and arrows of a diagram


def as_rst(line: str) -> str:
    """A docstring's line, which is plain text with code in backticks, as reStructuredText that shows the same."""
    parts = CODE.split(line)
    shown = []
    for place, part in enumerate(parts):
        if place % 2:
            after = parts[place + 1][:1]
            shown.append(f"``{part.strip('`')}``" + ("\\ " if after.isalnum() else ""))
        else:
            shown.append(re.sub(r"([*|])|(?<=\w)_(?!\w)", lambda match: f"\\{match.group()}", part))
    return "".join(shown)


def plain_docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook for docstrings; changes `lines` in place. Diagrams become blocks of text."""
    shown: list[str] = []
    for drawn, part in groupby(lines, key=lambda line: bool(DRAWN.search(line))):
        if drawn:
            shown += ["", ".. code-block:: text", "", *(f"   {line}" for line in part), ""]
        else:
            shown += [line if line.lstrip().startswith((">>>", "..")) else as_rst(line) for line in part]
    lines[:] = shown


def setup(app: Any) -> None:
    """Sphinx's hook for what is set up by code."""
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)  # before napoleon reads Args and Raises
    app.add_lexer("promql", TextLexer)  # Pygments' own takes no names with colons, which recorded series have
