"""Reads a page as strictly as no browser does: what it is made of, and what is wrong with it."""

from collections import Counter
from html.parser import HTMLParser

_VOID = frozenset({"meta", "link", "input", "br", "hr", "img", "rect"})


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tags: each element with the names of its attributes, in order.
        texts: what a reader sees, piece by piece.
        links: values of all attributes that name a resource.
        faults: what is wrong with it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.faults: list[str] = []
        self.headings: list[int] = []
        self._open: list[str] = []
        self._ids: Counter[str] = Counter()
        self.feed(text)
        self.close()
        self._finish()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if len(given) != len(attrs):
            self.faults.append(f"{tag} has an attribute twice")
        self.tags.append((tag, *given))
        self.attributes.append((tag, given))
        self._ids.update(value for name, value in given.items() if name == "id")
        self.links += [value for name, value in given.items() if name in ("href", "src", "action")]
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> ends what is not open")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        """All that a reader sees."""
        return " ".join(self.texts)

    def _finish(self) -> None:
        names = [tag for tag, _ in self.attributes]
        self.faults += [f"{tag} is never closed" for tag in self._open]
        self.faults += [f"id {name} stands twice" for name, count in self._ids.items() if count > 1]
        if self.headings.count(1) != 1:
            self.faults.append("not exactly one h1")
        if self.headings and self.headings[0] > 2:
            self.faults.append("begins with a small heading")
        self.faults += [
            f"h{after} follows h{before}"
            for before, after in zip(self.headings, self.headings[1:], strict=False)
            if after > before + 1
        ]
        if names.count("table") != names.count("caption"):
            self.faults.append("a table without a caption")
        for tag, given in self.attributes:
            if tag == "th" and given.get("scope") not in ("col", "row"):
                self.faults.append("a heading of a table without its scope")
            if tag == "input" and given.get("id") not in self._labelled():
                self.faults.append("an input without a label")
            for name in ("aria-labelledby",):
                if name in given and not self._ids[given[name]]:
                    self.faults.append(f"nothing has the id {given[name]}")
            if tag == "html" and "lang" not in given:
                self.faults.append("no language")
            self.faults += [
                f"{name} is no attribute of a page without scripts and styles of its own"
                for name in given
                if name.startswith("on") or name in ("style", "srcdoc", "formaction", "srcset", "background")
            ]
        self.faults += [
            f"a page has no {tag}" for tag in ("script", "style", "iframe", "object") if tag in names
        ]
        self.faults += [f"leads elsewhere: {link}" for link in self.links if not _is_own(link)]

    def _labelled(self) -> set[str]:
        return {given.get("for", "") for tag, given in self.attributes if tag == "label"}


def _is_own(link: str) -> bool:
    return link.startswith(("#", "/")) and not link.startswith("//")
