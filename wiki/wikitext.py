"""A page's wikitext as what a reader sees: plain text with its links, sections, names and infobox fields."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

from mwparserfromhell.parser import CTokenizer, ParserError, tokens
from mwparserfromhell.parser.builder import Builder
from mwparserfromhell.parser.tokenizer import Tokenizer

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
STRAY_SPACES = {f" {mark}": mark for mark in ".,;:)"}
SKIPPED_TAGS = set(listed("ref; references; table; gallery; math; timeline; imagemap; syntaxhighlight; style"))
TEXT_TEMPLATES = set(listed("nowrap; nobr; plainlist; ubl; unbulleted list; hlist; flatlist; small; nobold"))


class Link(NamedTuple):
    """A link in a text, from `start` to `end`, to the page of the (normalised) title `target`."""

    start: int
    end: int
    target: str


OPENING = {tokens.TemplateOpen, tokens.ArgumentOpen, tokens.WikilinkOpen, tokens.ExternalLinkOpen,
           tokens.HTMLEntityStart, tokens.HeadingStart, tokens.CommentStart, tokens.TagOpenOpen}  # fmt: skip
CLOSING = {tokens.TemplateClose, tokens.ArgumentClose, tokens.WikilinkClose, tokens.ExternalLinkClose,
           tokens.HTMLEntityEnd, tokens.HeadingEnd, tokens.CommentEnd,
           tokens.TagCloseSelfclose, tokens.TagCloseClose}  # fmt: skip


class Param(NamedTuple):
    """A parameter of a template: its value is the tokens from `start` to `end`. `name` is None if it has none."""

    name: str | None
    start: int
    end: int


class Markup:
    """Wikitext as the parser's tokens. The tree that the parser would make of them takes several times as long.

    `bounds`: index of a token that opens something (a link, a template ...) -> those of its separators and of its end.
    `outer`: the indices of the tokens that open something and are inside of nothing else.
    Raises ParserError for what the parser cannot read.
    """

    def __init__(self, wikitext: str):
        self.tokens: list[tokens.Token] = (CTokenizer or Tokenizer)().tokenize(wikitext, 0, False)
        self.bounds: dict[int, list[int]] = {}
        self.outer: list[int] = []
        inside: list[list[int]] = []  # the bounds of what is open, the innermost last
        for at, token in enumerate(self.tokens):
            kind = type(token)
            if kind is tokens.Text:
                continue
            if kind in OPENING:
                if not inside:
                    self.outer.append(at)
                inside.append(self.bounds.setdefault(at, []))
            elif not inside:
                raise ParserError(f"{kind.__name__} of nothing that is open")
            else:
                inside[-1].append(at)
                if kind in CLOSING:
                    inside.pop()
        if inside:
            raise ParserError("what is opened is not closed")

    def source(self, start: int, end: int) -> str:
        """The wikitext of some tokens."""
        part = self.tokens[start:end]
        if len(part) == 1 and type(part[0]) is tokens.Text:
            return part[0]["text"]
        if all(type(token) is tokens.Text for token in part):
            return "".join(token["text"] for token in part)
        return str(Builder().build(part))

    def name(self, at: int) -> str:
        """The name of the template, or of the tag, that token `at` opens, in lower case."""
        return self.source(at + 1, self.bounds[at][0]).strip().lower()

    def params(self, at: int) -> Iterator[Param]:
        """The parameters of the template that token `at` opens."""
        bounds = self.bounds[at]
        for number, start in enumerate(bounds[:-1]):
            if type(self.tokens[start]) is tokens.TemplateParamSeparator:
                end, name = bounds[number + 1], None
                if type(self.tokens[end]) is tokens.TemplateParamEquals:
                    name = self.source(start + 1, end)
                    start, end = end, bounds[number + 2]
                yield Param(name, start + 1, end)


class Flattener:
    """Tokens from `start` to `end` as the plain text a reader sees, with the offsets of its links and bold names."""

    def __init__(self, markup: Markup, start: int, end: int):
        self.markup = markup
        self.pieces: list[str] = []
        self.length = 0
        self.in_list = False
        self.links: list[Link] = []
        self.items: list[int] = []  # where list items begin
        self.bold: list[tuple[int, int]] = []  # start, end
        self.walk(start, end)
        self.text = "".join(self.pieces)

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.length += len(piece)

    def walk(self, at: int, end: int) -> None:
        every = self.markup.tokens
        while at < end:
            token = every[at]
            kind = type(token)
            if kind is tokens.Text:
                self.walk_text(token["text"])
                at += 1
                continue
            bounds = self.markup.bounds[at]
            if kind is tokens.WikilinkOpen:
                self.walk_link(at, *bounds)
            elif kind is tokens.TagOpenOpen:
                self.walk_tag(at, bounds)
            elif kind is tokens.HTMLEntityStart:
                self.add(html.unescape(self.markup.source(at, bounds[-1] + 1)))
            elif kind is tokens.ExternalLinkOpen and len(bounds) > 1:
                self.walk(bounds[0] + 1, bounds[1])
            elif kind is tokens.TemplateOpen and self.markup.name(at) in TEXT_TEMPLATES:
                self.walk_template(at)
            at = bounds[-1] + 1

    def walk_text(self, piece: str) -> None:
        if self.in_list and "\n" in piece:  # the line break that ends a list item ends its sentence
            piece, self.in_list = piece.replace("\n", "\n\n", 1), False
        self.add(piece)

    def walk_link(self, at: int, title_end: int, end: int = 0) -> None:
        title, start = self.markup.source(at + 1, title_end), self.length
        target = normalise_title(title)
        if target or title.partition(":")[0].strip().lower() not in HIDDEN:
            self.walk(*((title_end + 1, end) if end else (at + 1, title_end)))
        if target:
            self.links.append(Link(start, self.length, target))

    def walk_tag(self, at: int, bounds: list[int]) -> None:
        tag, start = self.markup.name(at), self.length
        if tag in {"li", "dd", "dt"}:
            self.add("\n\n")
            self.items.append(self.length)
            self.in_list = bool(self.markup.tokens[at].wiki_markup)
        elif tag == "br":
            self.add("\n")
        if tag not in SKIPPED_TAGS:
            for begin, stop in zip(bounds, bounds[1:]):
                if type(self.markup.tokens[stop]) is tokens.TagOpenClose:
                    self.walk(begin + 1, stop)
            if tag in {"b", "strong"}:
                self.bold.append((start, self.length))

    def walk_template(self, at: int) -> None:
        params = list(self.markup.params(at))
        for param in params:
            if param.name is None:
                self.walk(param.start, param.end)
                self.add(", " if param is not params[-1] else "")


def tidy(text: str) -> str:
    """One line, single spaces, without the empty brackets and stray spaces that removed markup leaves."""
    text = " ".join(text.split())
    if "(" in text:
        text = " ".join(EMPTY_BRACKETS.sub("", text).split())
    for stray, mark in STRAY_SPACES.items():
        text = text.replace(stray, mark)
    return text


class Section(NamedTuple):
    """One section without its subsections: the tokens from `start` to `end`. `path` holds the titles from the top
    section down to it, in lower case."""

    path: tuple[str, ...]
    level: int
    title: str
    start: int
    end: int


def split_sections(markup: Markup) -> list[Section]:
    """The sections of a page, the lead first."""
    headings = [at for at in markup.outer if type(markup.tokens[at]) is tokens.HeadingStart]
    ends = [*headings, len(markup.tokens)]
    sections = [Section(("(lead)",), 0, "lead", 0, ends[0])]
    open_sections: list[Section] = []
    for at, end in zip(headings, ends[1:]):
        level, (title_end,) = markup.tokens[at].level, markup.bounds[at]
        while open_sections and open_sections[-1].level >= level:
            open_sections.pop()
        title = tidy(Flattener(markup, at + 1, title_end).text)
        path = (*(open_sections[-1].path if open_sections else ()), title.lower())
        sections.append(Section(path, level, title, title_end + 1, end))
        open_sections.append(sections[-1])
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


def template_name(raw: str) -> str:
    return raw.strip().lower().replace("_", " ")


def split_names(text: str) -> list[str]:
    """The names of a comma- or line-separated infobox field; a remark in brackets is no part of a name."""
    return [re.sub(r"\([^()]*\)", "", name).strip(" .'\"") for name in re.split(r"[,;\n]", text)]


def without_notes(wikitext: str) -> str:
    """Wikitext without comments and footnotes: half of a long article, and most of the time of the parser."""
    return NOTE.sub("", wikitext)
