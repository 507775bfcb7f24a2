"""HTML in a few functions: whatever is not `Markup` is escaped, so a text of the corpus can never become a tag."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape as _escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


PLACE = Markup("<!-- here comes what is made later -->")
"""Where a page leaves room for a part that is made after it."""


def put_in(page: str, part: Markup) -> str:
    """The page with a part at its `PLACE`, which only markup can be: text has its `<` escaped."""
    return page.replace(PLACE, part, 1)


def escape(text: str) -> str:
    """As text: `<` and its like become entities; `Markup` stays as it is."""
    return text if isinstance(text, Markup) else _escape(text, quote=True)


def join(*parts: str) -> Markup:
    """The parts one after another."""
    return Markup("".join(escape(part) for part in parts))


def element(tag: str, content: str | None, *, cls: str = "", **attributes: str) -> Markup:
    """One element; `content` None makes one without an end tag."""
    given = {"class": cls, **attributes} if cls else attributes
    shown = "".join(f' {name}="{_escape(value, quote=True)}"' for name, value in given.items())
    start = f"<{tag}{shown}>"
    return Markup(start if content is None else f"{start}{escape(content)}</{tag}>")


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, strong: int | None = None, text: Collection[int] = ()
) -> Markup:
    """A table; column `strong` stands out, columns in `text` are set to the left."""

    def kind(column: int) -> str:
        return " ".join(name for name, on in (("strong", column == strong), ("text", column in text)) if on)

    head = join(*(element("th", heading, cls=kind(column)) for column, heading in enumerate(headings)))
    lines = [join(*(element("td", cell, cls=kind(column)) for column, cell in enumerate(row))) for row in rows]
    body = join(*(element("tr", line) for line in lines))
    shown = element("thead", element("tr", head)) if any(headings) else Markup("")
    return element("table", join(shown, element("tbody", body)))


def page(title: str, style: str, content: Markup) -> str:
    """A whole document."""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n"
        f"<body><main>{content}</main></body></html>\n"
    )
