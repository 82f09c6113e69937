"""The native formats of the public datasets, read into one question record (sections 3.1 and 4.1.1).

Each dataset keeps its questions in its own way: letters or numbers, counted from 0 or from 1, options as a list, a
mapping, one cell or JSON inside JSON. `DATASETS` is the table of them; each entry's reader turns one native row into
the parts of a question or says why it cannot. A row that is no valid single-choice question is returned with its
reason, never dropped silently.

    read_native("medqa", "phrases_no_exclude_test.jsonl", Question)    a local file, in the authors' or the hub's format
    read_hub("medqa", "test", Question)                                the same from the Hugging Face hub

Both return (questions, rejections), a rejection being (id, reason). `Question` is the record's class: it is called as
`Question(id, source, language, question, options, answer, kind=...)` and raises ValueError for an invalid one.

Differences between the paper and the data, left as the data is: Table 1 gives MedXpertQA four options, it has ten; it
gives JMED 21, the adjusted release has five; it gives PubMedQA 1,000 test questions, of which the dataset's own split
tests 500 (Table 3's PubMedQA accuracies, all but one, are multiples of 1/500; those 500 are a kind of their own, so
their accuracy stands in every table of kinds); it omits Medbullets, which Table 3 has
(its accuracies there are multiples of 1/298).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any, TypeVar

from tools.cli import UserError
from tools.web import asking_hub

PUBMEDQA_TEST = Path(__file__).parents[1] / "data" / "pubmedqa_test_ids.txt"

Row = dict[str, Any]
Question = TypeVar("Question")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a reader takes from a native row: `options` in order, `answer` a letter."""

    question: str
    options: dict[str, str]
    answer: str
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One public dataset: where it is on the hub, how its rows are read, how many the paper tests on.

    That is Table 1's number; of Medbullets, which Table 1 omits, the one that all its accuracies are multiples of.
    `test` and `train` are (config, split) on the hub; `key` is the column of its own ids, where it has one.
    """

    name: str
    title: str
    hub: str
    test: tuple[str | None, str]
    train: tuple[str | None, str] | None
    reader: Callable[[Row], Parts]
    paper_size: int | None
    key: str | None = None
    language: str = "en"


# ------------------------------------------------------------------------------------------- reading the cells of a row


def text(row: Row, *names: str) -> str:
    """The text in the first of the columns that the row has. Raises ValueError if it is missing, empty or NaN."""
    name = next((name for name in names if name in row), names[0])
    value = row.get(name)
    if value is None or isinstance(value, float) and math.isnan(value):
        raise ValueError(f"no {name}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{name} is not a text")
    if not str(value).strip():
        raise ValueError(f"empty {name}")
    return str(value).strip()


def lettered(texts: Iterable[str]) -> dict[str, str]:
    """Option texts under the letters A, B, C, ..."""
    texts = list(texts)
    if len(texts) > len(LETTERS):
        raise ValueError("not 2 to 26 options")
    return dict(zip(LETTERS, texts))


def columns(row: Row, names: Sequence[str]) -> dict[str, str]:
    """Options that stand in a column each, under the letters A, B, C, ..."""
    return lettered(text(row, name) for name in names)


def mapping(options: Any) -> dict[str, str]:
    """Options given as {"A": text}, [{"letter": "A", "content": text}] or [{"key": "A", "value": text}]."""
    if isinstance(options, list) and all(isinstance(option, dict) for option in options):
        pairs = [(text(option, "letter", "key"), text(option, "content", "value")) for option in options]
        if len({letter for letter, _ in pairs}) < len(pairs):
            raise ValueError("two options have the same letter")
        options = dict(pairs)
    if not isinstance(options, dict):
        raise ValueError("options are not a mapping")
    # The hub pads the mappings of a column to the same letters, with None.
    return {letter: text(options, letter) for letter in sorted(options) if options[letter] is not None}


def whole_number(row: Row, name: str) -> int:
    """A whole number, which some files write as a float. Raises ValueError for anything else."""
    value = text(row, name)
    try:
        whole = float(value)
    except ValueError:
        raise ValueError(f"{name} is not a number") from None
    if not math.isfinite(whole) or whole != int(whole):
        raise ValueError(f"{name} is not a whole number")
    return int(whole)


def letter_of(index: int) -> str:
    """The letter of an option's index, counted from 0. Raises ValueError if there is none."""
    if not 0 <= index < len(LETTERS):
        raise ValueError("answer not among the options")
    return LETTERS[index]


def single(row: Row, name: str) -> str:
    """The letter of an answer written as "B", ["B"] or "['B']". Raises ValueError for none, several ("BD"), a text."""
    value = row.get(name)
    cell = " ".join(map(str, value)) if isinstance(value, list) else text(row, name)
    letters = re.sub(r"[\s\[\]'\",、，]", "", cell)
    if not letters:
        raise ValueError("no answer")
    if not re.fullmatch("[A-Z]+", letters):
        raise ValueError("the answer is a text, not a letter")
    if len(letters) > 1:
        raise ValueError("several answers")
    return letters


# ------------------------------------------------------------------------------------------- one reader for each format


def read_medqa(row: Row) -> Parts:
    return Parts(text(row, "question"), mapping(row.get("options")), text(row, "answer_idx"), row.get("meta_info"))


def read_medmcqa(row: Row) -> Parts:
    """`cop` counts from 0 here, as on the hub (see `medmcqa_from_zero`)."""
    options = columns(row, ("opa", "opb", "opc", "opd"))
    return Parts(text(row, "question"), options, letter_of(whole_number(row, "cop")), row.get("subject_name"))


def read_cmexam(row: Row) -> Parts:
    """All options in one cell, "A text\\nB text" with real or written-out line breaks; an answer may be several."""
    cell = row.get("Options")
    if isinstance(cell, str):
        pieces = re.split(r"(?:^|\\n|\n)([A-Z])[ .、．:：]", cell)
        if pieces[0].strip():
            raise ValueError("options do not begin with a letter")
        cell = [{"key": key, "value": value} for key, value in zip(pieces[1::2], pieces[2::2])]
    return Parts(text(row, "Question"), mapping(cell), single(row, "Answer"))


def read_pubmedqa(row: Row) -> Parts:
    """The abstract is the context. The authors' file has CONTEXTS, the hub {"contexts": [...]}. The kind tells the half
    that the authors test on."""
    contexts = row["CONTEXTS"] if "CONTEXTS" in row else (row.get("context") or {}).get("contexts")
    if not contexts or not all(isinstance(context, str) for context in contexts):
        raise ValueError("no abstract")
    decisions = ("yes", "no", "maybe")
    decision = text(row, "final_decision").lower()
    if decision not in decisions:
        raise ValueError("answer not among the options")
    question = "\n".join([*contexts, "", text(row, "QUESTION", "question")])
    kind = "official test split" if str(row.get("pubid")) in pubmedqa_test_ids() else None
    return Parts(question, lettered(decisions), letter_of(decisions.index(decision)), kind)


@cache
def pubmedqa_test_ids() -> frozenset[str]:
    """The ids of the 500 labelled questions that PubMedQA's authors test on."""
    lines = PUBMEDQA_TEST.read_text(encoding="utf-8").splitlines()
    return frozenset(" ".join(line for line in lines if not line.startswith("#")).split())


def read_mmlu_pro(row: Row, category: str) -> Parts:
    """Three to ten options; the file holds all categories."""
    if row.get("category") != category:
        raise ValueError(f"another category than {category}")
    options = row.get("options")
    if not isinstance(options, list):
        raise ValueError("options are not a list")
    answer = text(row, "answer")
    if answer != letter_of(whole_number(row, "answer_index")):
        raise ValueError("answer and answer_index disagree")
    return Parts(text(row, "question"), lettered(text({"option": option}, "option") for option in options), answer)


def read_mmlu_pro_biology(row: Row) -> Parts:
    return read_mmlu_pro(row, "biology")


def read_mmlu_pro_health(row: Row) -> Parts:
    return read_mmlu_pro(row, "health")


def read_medxpertqa(row: Row) -> Parts:
    """Ten options. The authors' files repeat them at the end of the question and give the label as a list."""
    question = text(row, "question").rsplit("\nAnswer Choices:", 1)[0]
    return Parts(question, mapping(row.get("options")), single(row, "label"), row.get("body_system"))


def read_jmed(row: Row) -> Parts:
    """The adjusted release writes options as JSON and the answer as a list, both inside a text; the first is plain."""
    if "final_question" not in row:
        return Parts(text(row, "question"), mapping(row.get("options")), single(row, "answer"))
    try:
        options = json.loads(text(row, "final_options"))
    except json.JSONDecodeError:
        raise ValueError("options are not JSON") from None
    options = options.get("options", options) if isinstance(options, dict) else options
    return Parts(text(row, "final_question"), mapping(options), single(row, "final_correct_answer"))


def read_careqa(row: Row) -> Parts:
    """`cop` counts from 1 and is a float; some rows are all NaN."""
    options = columns(row, ("op1", "op2", "op3", "op4"))
    return Parts(text(row, "question"), options, letter_of(whole_number(row, "cop") - 1), row.get("category"))


def read_medbullets(row: Row) -> Parts:
    """Five options, or four in the authors' other file."""
    names = [name for name in ("opa", "opb", "opc", "opd", "ope") if row.get(name) is not None]
    return Parts(text(row, "question"), columns(row, names), text(row, "answer_idx"))


# MedMCQA's test split has no labels: its validation split is what papers test on. PubMedQA's labelled 1,000 are the
# benchmark, so training takes its artificial part. Medbullets is the five-option set.
# name, title in Table 3, hub repository, (config, split) to test on, the same to train on, reader, the paper's size
DATASETS = [
    Dataset("careqa", "CareQA", "HPAI-BSC/CareQA", ("CareQA_en", "test"), None,
            read_careqa, 5621, key="unique_id"),
    Dataset("jmed", "JMED", "jdh-algo/JMED", (None, "train"), None,
            read_jmed, 1000, key="diagId", language="zh"),
    Dataset("medbullets", "Medbullets", "LangAGI-Lab/medbullets_op5", (None, "test"), None,
            read_medbullets, 298),
    Dataset("medmcqa", "MedMCQA", "openlifescienceai/medmcqa", (None, "validation"), (None, "train"),
            read_medmcqa, 4183, key="id"),
    Dataset("medqa", "MedQA", "GBaker/MedQA-USMLE-4-options", (None, "test"), (None, "train"),
            read_medqa, 1273),
    Dataset("medxpertqa", "MedXpertQA", "TsinghuaC3I/MedXpertQA", ("Text", "test"), None,
            read_medxpertqa, 2450, key="id"),
    Dataset("pubmedqa", "PubMedQA", "qiaojin/PubMedQA", ("pqa_labeled", "train"), ("pqa_artificial", "train"),
            read_pubmedqa, 1000, key="pubid"),
    Dataset("mmlu_pro_biology", "MMLU-Pro Biology", "TIGER-Lab/MMLU-Pro", (None, "test"), None,
            read_mmlu_pro_biology, 717, key="question_id"),
    Dataset("mmlu_pro_health", "MMLU-Pro Health", "TIGER-Lab/MMLU-Pro", (None, "test"), None,
            read_mmlu_pro_health, 818, key="question_id"),
    Dataset("cmexam", "CMExam", "fzkuji/CMExam", (None, "test"), (None, "train"),
            read_cmexam, None, language="zh"),
]  # fmt: skip
BENCHMARKS = [dataset.name for dataset in DATASETS if dataset.name != "cmexam"]  # the nine of Table 3, in its order


def dataset_named(name: str) -> Dataset:
    """The row of the table. Raises UserError, with the known names, for another."""
    for dataset in DATASETS:
        if dataset.name == name:
            return dataset
    raise UserError(f"unknown dataset {name!r}; known: {', '.join(dataset.name for dataset in DATASETS)}")


# ---------------------------------------------------------------------------------------------------- files and the hub


def read_native(
    name: str, path: str | Path, record: Callable[..., Question]
) -> tuple[list[Question], list[tuple[str, str]]]:
    """All questions of a local file in a dataset's native format, and (id, reason) of every row that is none.

    Raises UserError for an unknown dataset, an unreadable file, or a file without one valid question of this dataset.
    """
    dataset, path = dataset_named(name), Path(path)
    rows = load_rows(path)
    return convert(dataset, medmcqa_from_zero(rows, path) if name == "medmcqa" else rows, path.stem, path, record)


def read_hub(name: str, split: str, record: Callable[..., Question]) -> tuple[list[Question], list[tuple[str, str]]]:
    """The same from the Hugging Face hub; `split` is "test" or "train". Raises UserError if it cannot be had."""
    import datasets  # here, so that local files need no such import

    dataset = dataset_named(name)
    where = dataset.test if split == "test" else dataset.train
    if where is None:
        raise UserError(f"{name} is a benchmark: it has no training split")
    with asking_hub() as failed:
        try:
            rows = list(datasets.load_dataset(dataset.hub, where[0], split=where[1]))
        except Exception as error:  # the library raises many kinds: offline, gated, renamed, no such split
            lines = str(error).strip().splitlines() or [type(error).__name__]
            why = "; ".join([lines[0], *failed[:1]])  # it names no cause where there is no network
            raise UserError(f"cannot load {dataset.hub} from the hub ({why}); give a local file instead") from error
    return convert(dataset, rows, split, dataset.hub, record)


def convert(
    dataset: Dataset, rows: Iterable[Row | None], part: str, origin: str | Path, record: Callable[..., Question]
) -> tuple[list[Question], list[tuple[str, str]]]:
    """Read every row; ids are dataset/part/own id, or the row's number if it has none. UserError if none is valid."""
    questions, rejections, seen = [], [], set()
    for row_number, row in enumerate(rows):
        own = row.get(dataset.key) if row and dataset.key else None
        id = f"{dataset.name}/{part}/{row_number if own is None or own != own else own}"  # NaN is no id
        try:
            if id in seen:
                raise ValueError("id occurs twice")
            parts = read_row(dataset, row)
            kind = parts.kind if isinstance(parts.kind, str) and parts.kind else None
            asked = (parts.question, parts.options, parts.answer)
            questions.append(record(id, dataset.name, dataset.language, *asked, kind=kind))
        except (TypeError, AttributeError):  # a list where a text should be, a number where a mapping should be
            rejections.append((id, "malformed field"))
        except ValueError as error:
            rejections.append((id, str(error).removeprefix(f"question {id!r}: ")))
        seen.add(id)
    if not questions:
        common = Counter(reason for _, reason in rejections).most_common(1)
        why = f" ({common[0][1]} rows: {common[0][0]})" if common else ""
        raise UserError(f"{origin} holds no valid {dataset.name} question{why}")
    return questions, rejections


def read_row(dataset: Dataset, row: Row | None) -> Parts:
    """The parts of a question. Raises ValueError with the reason for a row that has none."""
    if row is None:
        raise ValueError("not a JSON object")
    if all(map(is_blank, row.values())):
        raise ValueError("empty row")
    if any(IMAGE_COLUMN.fullmatch(name) and not is_blank(value) for name, value in row.items() if name):
        raise ValueError("needs an image")
    return dataset.reader(row)


IMAGE_COLUMN = re.compile(r"(?:image|img|picture|photo|figure)s?(?:_?(?:path|url|file|name)s?)?", re.IGNORECASE)


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: none, NaN, an empty text or list."""
    return value is None or value != value or value in ("", [], {})


def load_rows(path: Path) -> list[Row | None]:
    """The rows of a CSV file, JSON lines, or one JSON value: an array of rows, a mapping from id to row, or columns.

    The content decides, not the file's name, except for CSV. A row of a mapping gets its id as "pubid" (PubMedQA). A
    line that is no JSON object becomes None. Raises UserError if the file is missing, not UTF-8 or broken as a whole.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a dataset file in its native format")
    try:
        content = path.read_text(encoding="utf-8-sig")
        return rows_of_csv(content) if path.suffix.lower() == ".csv" else rows_of_json(content)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error})") from None
    except (ValueError, RecursionError) as error:  # no JSON, nested too deeply, or a number of thousands of digits
        raise UserError(f"{path} is neither JSON nor JSON lines ({error})") from None


def rows_of_csv(content: str) -> list[Row | None]:
    csv.field_size_limit(2**31 - 1)
    return list(csv.DictReader(io.StringIO(content, newline=""), strict=True))


def rows_of_json(content: str) -> list[Row | None]:
    """The rows of JSON lines or of one JSON value. Raises ValueError or RecursionError for anything else."""
    lines = [line for line in content.split("\n") if line.strip()]
    if len(lines) > 1 and object_or_none(lines[0]) is not None:
        return [object_or_none(line) for line in lines]
    whole = json.loads(content)
    if rows := rows_of_columns(whole):
        return rows
    if isinstance(whole, dict) and whole and all(isinstance(row, dict) for row in whole.values()):
        return [{"pubid": id, **row} for id, row in whole.items()]
    return [row if isinstance(row, dict) else None for row in (whole if isinstance(whole, list) else [whole])]


def rows_of_columns(whole: Any) -> list[Row] | None:
    """The rows of {column: {"0": cell, ...}} or {column: [cell, ...]}, as data frames are saved; else None."""
    if not isinstance(whole, dict) or len(whole) < 2:
        return None
    columns = [
        {str(index): cell for index, cell in enumerate(column)} if isinstance(column, list) else column
        for column in whole.values()
    ]
    first = columns[0]
    alike = all(isinstance(column, dict) and column.keys() == first.keys() for column in columns)
    if not alike or not all(key.isdecimal() for key in first):
        return None
    return [dict(zip(whole, (column[key] for column in columns))) for key in first]


def object_or_none(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def medmcqa_from_zero(rows: list[Row | None], path: Path) -> list[Row | None]:
    """MedMCQA's `cop` is 1 to 4 in the authors' files and 0 to 3 on the hub: make it 0 to 3.

    One row cannot tell which it is, a file can. Raises UserError if it holds neither a 0 nor a 4.
    """
    numbers = [row.get("cop") for row in rows if row]
    if 4 in numbers and 0 not in numbers:
        return [row and {**row, "cop": row["cop"] - 1 if isinstance(row.get("cop"), int) else None} for row in rows]
    if 0 not in numbers:
        raise UserError(
            f"{path}: its column cop holds neither 0 nor 4, so it is not clear whether it counts from 0 or 1"
        )
    return rows
