"""A page's wikitext as what a reader sees: plain text with its links, sections, names and infobox fields."""

from __future__ import annotations

import html
import re
from typing import Any, NamedTuple

from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Node, Tag, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

from wiki.mediawiki import HIDDEN, normalise_title


def listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(";") if name.strip()]


TEMPLATE_NAME = re.compile(r"\{\{\s{0,9}([^{}\[\]<>|\n]{1,100})")
CATEGORY_NAME = re.compile(r"\[\[\s{0,9}category\s{0,9}:([^{}\[\]<>|\n]{1,200})", re.IGNORECASE)
CATEGORY_LINK = re.compile(rf"{CATEGORY_NAME.pattern}[^\[\]]{{0,200}}\]\]", re.IGNORECASE)
NOTE = re.compile(
    r"<!--.*?(?:-->|\Z)|<ref\b[^<>]{0,500}(?:/>|>[^<]*(?:<(?!/?ref\b)[^<]*)*</ref\s{0,9}>)", re.DOTALL | re.IGNORECASE
)
EMPTY_BRACKETS = re.compile(r"\( ?[,;]? ?\)")
STRAY_SPACE = re.compile(r" ([.,;:)])")
SKIPPED_TAGS = set(listed("ref; references; table; gallery; math; timeline; imagemap; syntaxhighlight; style"))
TEXT_TEMPLATES = set(listed("nowrap; nobr; plainlist; ubl; unbulleted list; hlist; flatlist; small; nobold"))


class Link(NamedTuple):
    """A link in a text, from `start` to `end`, to the page of the (normalised) title `target`."""

    start: int
    end: int
    target: str


class Flattener:
    """Wikitext nodes as the plain text a reader sees, with the offset of every link and bold name in it."""

    def __init__(self, nodes: list[Node]):
        self.pieces: list[str] = []
        self.length = 0
        self.in_list = False
        self.links: list[Link] = []
        self.items: list[int] = []  # where list items begin
        self.bold: list[tuple[int, int]] = []  # start, end
        self.walk(nodes)
        self.text = "".join(self.pieces)

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.length += len(piece)

    def walk(self, nodes: list[Node]) -> None:
        for node in nodes:
            if isinstance(node, Text):
                piece = node.value
                if self.in_list and "\n" in piece:  # the line break that ends a list item ends its sentence
                    piece, self.in_list = piece.replace("\n", "\n\n", 1), False
                self.add(piece)
            elif isinstance(node, Wikilink):
                self.walk_link(node)
            elif isinstance(node, Tag):
                self.walk_tag(node)
            elif isinstance(node, HTMLEntity):
                self.add(html.unescape(str(node)))
            elif isinstance(node, ExternalLink) and node.title is not None:
                self.walk(node.title.nodes)
            elif isinstance(node, Template) and str(node.name).strip().lower() in TEXT_TEMPLATES:
                for param in node.params:
                    if not param.showkey:
                        self.walk(param.value.nodes)
                        self.add(", " if param is not node.params[-1] else "")

    def walk_link(self, node: Wikilink) -> None:
        title, start = str(node.title), self.length
        target = normalise_title(title)
        if target or title.partition(":")[0].strip().lower() not in HIDDEN:
            self.walk((node.title if node.text is None else node.text).nodes)
        if target:
            self.links.append(Link(start, self.length, target))

    def walk_tag(self, node: Tag) -> None:
        tag, start = str(node.tag).strip().lower(), self.length
        if tag in {"li", "dd", "dt"}:
            self.add("\n\n")
            self.items.append(self.length)
            self.in_list = bool(node.wiki_markup)
        elif tag == "br":
            self.add("\n")
        if tag not in SKIPPED_TAGS and node.contents is not None:
            self.walk(node.contents.nodes)
            if tag in {"b", "strong"}:
                self.bold.append((start, self.length))


def tidy(text: str) -> str:
    """One line, single spaces, without the empty brackets and stray spaces that removed markup leaves."""
    text = " ".join(text.split())
    if "(" in text:
        text = " ".join(EMPTY_BRACKETS.sub("", text).split())
    return STRAY_SPACE.sub(r"\1", text)


class Section(NamedTuple):
    """One section without its subsections. `path` holds the titles from the top section down to it, in lower case."""

    path: tuple[str, ...]
    level: int
    title: str
    nodes: list[Node]


def split_sections(code: Wikicode) -> list[Section]:
    """The sections of a page, the lead first."""
    sections = [Section(("(lead)",), 0, "lead", [])]
    open_sections: list[Section] = []
    for node in code.nodes:
        if isinstance(node, Heading):
            while open_sections and open_sections[-1].level >= node.level:
                open_sections.pop()
            title = tidy(Flattener(node.title.nodes).text)
            path = (*(open_sections[-1].path if open_sections else ()), title.lower())
            sections.append(Section(path, node.level, title, []))
            open_sections.append(sections[-1])
        else:
            sections[-1].nodes.append(node)
    return sections


def lead_names(flat: Flattener) -> list[str]:
    """The bold names in the first paragraph: those before the first verb; later ones if introduced as names."""
    text = flat.text.lstrip()
    skipped = len(flat.text) - len(text)
    paragraph = text.partition("\n\n")[0]
    verb = re.search(r"\b(?:is|are|was|were|refers?|means?)\b", paragraph)
    names = []
    for start, end in ((start - skipped, end - skipped) for start, end in flat.bold):
        introduced = re.search(r"\b(?:called|known as|named|termed|or)\W*$", paragraph[max(0, start - 20) : start])
        if end <= len(paragraph) and (verb is None or start < verb.start() or introduced):
            names.append(text[start:end])
    return names


def template_name(raw: Any) -> str:
    return str(raw).strip().lower().replace("_", " ")


def split_names(text: str) -> list[str]:
    """The names of a comma- or line-separated infobox field; a remark in brackets is no part of a name."""
    return [re.sub(r"\([^()]*\)", "", name).strip(" .'\"") for name in re.split(r"[,;\n]", text)]


def without_notes(wikitext: str) -> str:
    """Wikitext without comments and footnotes: half of a long article, and most of the time of the parser."""
    return NOTE.sub("", wikitext)
