"""Sentences of pages and guidelines, found by the names of things that a question speaks of (SQLite's FTS5)."""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from wiki.sentences import split_sentences

WORD = re.compile("[\u3400-\u9fff]|[^\\W_]+")
LONGEST_NAME = 6  # words
SENTENCE = range(30, 600)  # characters of a sentence that says something
LONG_WORD = 7  # characters; what a question speaks of where no name is known
MOST_NAMES = 30  # names of a question that are looked for


class Passages:
    """A full-text index of sentences, on disk while the process lives. `names` are the things that can be recognised.

    >>> passages = Passages(["Gout", "Allopurinol"])
    >>> passages.add("Gout, revision 7", "Gout is an arthritis. Allopurinol prevents attacks of gout for years.")
    >>> passages.about("Which drug prevents gout?", "Allopurinol")
    ['Allopurinol prevents attacks of gout for years. (Gout, revision 7)']
    """

    def __init__(self, names: Iterable[str]):
        self.folder = tempfile.TemporaryDirectory()
        self.db = sqlite3.connect(Path(self.folder.name) / "passages.sqlite")
        self.db.execute("CREATE VIRTUAL TABLE passage USING fts5(sentence, source UNINDEXED)")
        self.names = {" ".join(WORD.findall(name.casefold())) for name in names} - {""}

    def add(self, source: str, text: str) -> None:
        """Index a text by sentence; `source` says where it is from, and in which revision."""
        sentences = (" ".join(text[start:end].split()) for start, end in split_sentences(text))
        rows = ((sentence, source) for sentence in sentences if len(sentence) in SENTENCE)
        self.db.executemany("INSERT INTO passage VALUES (?, ?)", rows)

    def recognised(self, text: str) -> list[str]:
        """The names in a text, longer ones first where they overlap, each once."""
        words, found, start = WORD.findall(text.casefold()), [], 0
        while start < len(words):
            ends = range(min(len(words), start + LONGEST_NAME), start, -1)
            end = next((end for end in ends if " ".join(words[start:end]) in self.names), None)
            if end:
                found.append(" ".join(words[start:end]))
            start = end or start + 1
        return list(dict.fromkeys(found))

    def about(self, question: str, answer: str, most: int = 5) -> list[str]:
        """The sentences that fit best: those with a name of the answer and one of the question, by BM25; with sources.

        None if no name in the answer is recognised; of a question without a recognised name, its long words count.
        """
        of_answer = self.recognised(answer)[:MOST_NAMES]
        words = [word for word in WORD.findall(question.casefold()) if len(word) >= LONG_WORD]
        of_question = [name for name in self.recognised(question) or words if name not in of_answer][:MOST_NAMES]
        if not of_answer or not of_question:
            return []
        query = f"({either(of_answer)}) AND ({either(of_question)})"
        rows = self.db.execute(
            "SELECT sentence, source FROM passage WHERE passage MATCH ? ORDER BY rank LIMIT ?", (query, most)
        )
        return [f"{sentence} ({source})" for sentence, source in rows]


def either(names: Sequence[str]) -> str:
    """An FTS5 query for any of the names, each as a phrase (names are words, so there is no quote in them)."""
    return " OR ".join(f'"{name}"' for name in names)
