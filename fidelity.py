"""Path fidelity: does reasoning go by the path through the graph that makes the answer right?

The reward sees the letter and the form, not whether the steps are true. A synthetic question carries its proof, the
path of its `evidence`; what lies on it and is not named in the question is masked and has to be found, the answer last.
Reasoning goes by the path if

    it tells every masked entity, by title or alias, in whole words, in an order that the path allows: sentence by
    sentence no entity before one that leads to it (within a sentence a fact may be told from either end). Names alone
    tell nothing, neither in a list nor where an option is looked up ("Losartan is (D).");
    it also rules out every option that the evidence rules out (a drug that must not be given in what the patient has
    as well), before or after the rest, for nothing leads there;
    it tells no stranger: an entity of a masked one's type that is neither on the path nor in the question. What stands
    under a negation ("not", "unlikely", "rather than") is not told, so a dismissed option is no stranger, but that a
    drug must not be given in a disease is told;
    the last sentence that names an option, other than to rule it out, names the answered one, and no other.

Each response then has one of four `OUTCOMES`. Left out, with a count: questions without evidence, paths of which the
graph has lost an entity, and what is written in Chinese, for the graph has only English names.

This reads names, not relations: a sentence that joins the right names by a wrong verb passes, one word beside a name is
enough to say something of it, and a denial in words that are not listed below is none. Responses are untrusted text,
read in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from graph import Graph
from question import Question, reordered
from reward import parse
from tools.run import RunDir, is_there
from wiki.kinds import words_of
from wiki.mediawiki import bare

BY_PATH, ANOTHER_WAY, DESPITE_PATH, WRONG = OUTCOMES = (
    "right by the path",
    "right by another way",
    "wrong despite the path",
    "wrong",
)
NO_EVIDENCE, LOST, CHINESE = REASONS = (
    "without evidence",
    "with an entity that the graph no longer holds",
    "in Chinese",
)

WORD = re.compile(r"\w+|→|⇒|->")
SENTENCE_END = re.compile(r"[.!?;](?!\w)|\n|[。！？；]")
PAUSE = re.compile(r"[,:()\[\]]|[–—]")
CONTRAST = {"but", "while", "whereas", "although", "though", "however", "because", "since", "so", "therefore"}
# In a part of a sentence whose words are joined by spaces: what denies all of it, and what denies the rest of it. A
# contraindication is a fact.
CONTRAINDICATED = r" be (?:given|used|taken|prescribed|combined) (?:in|with|to|during)\b"
RULES_OUT = re.compile(
    rf"\b(?:not|never|cannot){CONTRAINDICATED}|\b(?:contraindicat|interact|interfere|avoid|forbid|unsafe|exclude)"
)
AFFIRMED = re.compile(  # what sounds like a denial
    r"\b(?:(?:no|beyond(?: a)?|without(?: a| any)?|little) doubts?|(?:none|nothing|no) other than"
    r"|(?:not|never) (?:only|just)"
    r"|(?:cannot|can not|must not|should not|could not) be (?:excluded|ruled out|missed|overlooked|forgotten|doubted)"
    r"|(?:not|never) (?:yet )?(?:excluded|ruled out|rare|unusual|uncommon|unlikely|implausible|improbable|wrong))\b"
)
DENIAL = re.compile(
    r"\b(?:is|are|was|were|be|does|do|did|can|could|would|should|has|have|had|will|may|might|must) (?:not|never)\b"
    rf"(?!{CONTRAINDICATED})|n t\b|\bout$"
    r"|\b(?:cannot|unlikely|less (?:likely|probable|plausible)|implausible|improbable|doubtful|incorrect|wrong|false"
    r"|excluded|rule[sd]? out|out of the question|absent|fails?|failed|no role"
    r"|were it|if it (?:were|was|had)|would have|would cause)\b"
)
DENIAL_AHEAD = re.compile(
    rf"\b(?:(?:not|never)(?!{CONTRAINDICATED})|non|no|nor|neither|without|unlike|except|excludes?|excluding|against|hardly"
    r"|scarcely|lacks?|lacking|absence of|doubts?|doubted|far from|rejects?|rejected|rejecting|discard(?:s|ed|ing)?"
    r"|dismiss(?:es|ed|ing)?|rather than|other than|instead of|ruling out)\b"
)
MENTION = "@"  # stands for a name among other words, so that a name's own "no" denies nothing
LOOK_UP = {MENTION, *"abcdefghijklmnopqrstuvwxyz", "is", "are", "and", "or", "so", "thus", "hence", "therefore", "the",
           "answer", "option", "options", "correct", "choice"}  # fmt: skip
HAN = re.compile("[\u3400-\u9fff]")
OPTION_LETTER = re.compile(r"\(([A-Z])\)|\b[Oo]ption ([A-Z])\b")
SHORT = 4  # letters: "ALL" is a leukemia, "all" is not


@dataclass(slots=True)
class Mention:
    """Entities that one name stands for, where it stands, whether it is negated, whether it stands among words that
    rule something out, and whether its sentence says anything: one that consists of names, or looks an option up,
    does not."""

    entities: frozenset[int]
    sentence: int
    negated: bool = False
    forbids: bool = False
    bare: bool = False


class Names:
    """The names of entities, found in a text as whole words in any case, the longest first; a plural's s may follow."""

    def __init__(self, named: Mapping[str, Iterable[int]], capitals: Iterable[str] = ()):
        """`named` maps names, in the form of `words_of`, to entities. `capitals` are found in capitals only."""
        self.entities = {tuple(name.split()): frozenset(entities) for name, entities in named.items()}
        self.capitals = set(capitals)
        lengths: dict[str, set[int]] = {}
        for words in self.entities:
            lengths.setdefault(words[0].removesuffix("s"), set()).add(len(words))
        self.lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    @classmethod
    def of(cls, graph: Graph) -> Names:
        """All titles and aliases of a graph."""
        titles = {" ".join(words_of(bare(title))) for title in graph.entity}
        short = (name for name in graph.named if len(name) <= SHORT and name not in titles)
        return cls(graph.named, short)

    def mentions(self, text: str) -> list[Mention]:
        """Every name in the text, in order."""
        found: list[Mention] = []
        said: dict[int, set[str]] = {}  # the words of each sentence
        part, sentence, end, at = Part(), 0, 0, 0
        matches = list(WORD.finditer(text))
        words = [match[0].casefold() for match in matches]
        while at < len(words):
            gap = text[end : matches[at].start()]
            ended = bool(SENTENCE_END.search(gap))
            if ended or PAUSE.search(gap) or words[at] in CONTRAST:
                part = part.closed(ended)
                sentence += ended
            length, entities = self.at(matches, words, at)
            if entities:
                found.append(Mention(entities, sentence))
                part.mentions.append(found[-1])
            part.words.append(MENTION if entities else words[at])
            said.setdefault(sentence, set()).add(part.words[-1])
            at += length
            end = matches[at - 1].end()
        part.closed(True)
        saying = {number for number, words in said.items() if words - LOOK_UP}
        for mention in found:
            mention.bare = mention.sentence not in saying
        return found

    def at(self, matches: Sequence[re.Match[str]], words: Sequence[str], at: int) -> tuple[int, frozenset[int]]:
        """The longest name that begins with word number `at`: its length and its entities; else 1 and nothing."""
        for length in self.lengths.get(words[at].removesuffix("s"), ()):
            exact = tuple(words[at : at + length])
            for name in (exact, (*exact[:-1], exact[-1].removesuffix("s"))):
                capital = name[0] not in self.capitals or length > 1 or matches[at][0].rstrip("s").isupper()
                if len(name) == length and name in self.entities and capital:
                    return length, self.entities[name]
        return 1, frozenset()


class Part:
    """The words between two pauses of a sentence, and the mentions among them."""

    def __init__(self, denied_list: bool = False):
        self.words: list[str] = []
        self.mentions: list[Mention] = []
        self.denied_list = denied_list  # whether the part before ended in a negated name: "neither A, B nor C"

    def closed(self, ended: bool) -> Part:
        """Note which of the mentions are negated; the next part, of a new sentence if this one has `ended`."""
        text = AFFIRMED.sub("", " ".join(self.words))
        denied_from = len(self.mentions)
        if DENIAL.search(text) or self.denied_list and set(self.words) <= {MENTION, "or", "nor", "and"}:
            denied_from = 0
        elif ahead := DENIAL_AHEAD.search(text):
            denied_from = text.count(MENTION, 0, ahead.start())
        for mention in self.mentions[denied_from:]:
            mention.negated = True
        for mention in self.mentions:
            mention.forbids = bool(RULES_OUT.search(text))
        if not self.words:
            return Part(self.denied_list and not ended)
        return Part(not ended and self.words[-1] == MENTION and self.mentions[-1].negated)


# ----------------------------------------------------------------------------------------------- the path of a question


def path_entities(question: Question) -> list[str]:
    """The entities of a question's evidence in the order of the path, each once.

    A fact may be stored against the path's direction: what the next fact speaks of as well comes later.
    """
    facts = [row[:3] for row in question.evidence]
    ordered: dict[str, None] = {}
    for (subject, _, other), following in zip(facts, [*facts[1:], None]):
        leads_back = following and subject in following[::2] and other not in following[::2]
        ordered |= dict.fromkeys((other, subject) if leads_back else (subject, other))
    return list(ordered)


def split_entities(question: Question) -> tuple[list[str], list[str]]:
    """The path's entities in its order: those that the question names, and the masked ones, the answer last.

    A question writes a title as a sentence does: "Syncope (medicine)" is "syncope" there.
    """
    path = path_entities(question)
    titles = {" ".join(words_of(name)): [place] for place, title in enumerate(path) for name in (title, bare(title))}
    titles.pop("", None)
    given = {place for mention in Names(titles).mentions(question.question) for place in mention.entities}
    return (
        [title for place, title in enumerate(path) if place in given],
        [title for place, title in enumerate(path) if place not in given],
    )


def chain_and_ruled_out(question: Question) -> tuple[list[str], list[str]]:
    """The masked entities that lead to the answer one after the other, and the wrong options that the path rules out.

    "Losartan is contraindicated in pregnancy" rules an option out; it is part of the proof, and leads to nothing.
    """
    masked = split_entities(question)[1]
    wrong = {text for letter, text in question.options.items() if letter != question.answer}
    return [title for title in masked if bare(title) not in wrong], [title for title in masked if bare(title) in wrong]


def hops(question: Question) -> int:
    """How many entities have to be found one after the other, the answer included; 0 without evidence."""
    return len(chain_and_ruled_out(question)[0])


def length_of(question: Question) -> str:
    """What tables group by: "1 hop", "2 hops", and apart from them the paths that rule options out as well."""
    chain, ruled_out = chain_and_ruled_out(question)
    return f"{len(chain)} hop{'s' * (len(chain) > 1)}{', ruling out' * bool(ruled_out)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How reasoning relates to the path.

    `told` is the share of the masked entities that is told before a stranger is, of those that lead to the answer in
    their order; `strangers` are titles. `arrives` says whether the last option that is named, other than to rule it
    out, is the answered one.
    """

    told: float
    strangers: tuple[str, ...]
    arrives: bool

    @property
    def by_path(self) -> bool:
        return self.told == 1 and not self.strangers

    def outcome(self, right: bool) -> str:
        """One of `OUTCOMES`, for a response whose letter is right or not."""
        if right:
            return BY_PATH if self.by_path and self.arrives else ANOTHER_WAY
        return DESPITE_PATH if self.by_path else WRONG


class Fidelity:
    """Judges reasoning by the paths of a graph."""

    def __init__(self, graph: Graph):
        self.graph, self.names = graph, Names.of(graph)

    def unjudgeable(self, question: Question, reasoning: str = "") -> str | None:
        """Why nothing can be said about reasoning (one of `REASONS`), None if something can."""
        if not question.evidence:
            return NO_EVIDENCE
        if any(title not in self.graph.entity for title in path_entities(question)):
            return LOST
        if question.language != "en" or 10 * len(HAN.findall(reasoning)) > len(reasoning):
            return CHINESE
        return None

    def judge(self, question: Question, reasoning: str, answer: str | None) -> Verdict:
        """The verdict on reasoning that ends in `answer`, a letter, about a question that `unjudgeable` lets pass."""
        chain, ruled_out = ([self.graph.entity[title] for title in part] for part in chain_and_ruled_out(question))
        mentions = self.names.mentions(reasoning)
        strange = self.strangers(question, chain + ruled_out, mentions)
        first = min((mention.sentence for mention in strange), default=len(reasoning))
        told = [mention for mention in mentions if not mention.bare and mention.sentence < first]
        forbidding = {mention.sentence for mention in mentions if mention.forbids}
        led = (mention for mention in told if not (mention.negated or ruled_out and mention.forbids))
        denied = {e for mention in told if mention.negated or mention.sentence in forbidding for e in mention.entities}
        excluded = denied.intersection(ruled_out)
        share = (longest_in_order(chain, led) + len(excluded)) / max(1, len(chain + ruled_out))
        titles = dict.fromkeys(self.graph.title[min(mention.entities)] for mention in strange)
        left = [m for m in mentions if m.sentence not in forbidding or excluded.isdisjoint(m.entities)]
        return Verdict(share, tuple(titles), self.arrives(question, reasoning, left, answer))

    def share_told(self, question: Question, reasoning: str) -> float:
        """What `--path-reward` pays by: the share of the path that is told, 0 where that cannot be judged.

        Nothing told after a stranger counts, nor in its sentence, and names alone tell nothing: to list entities, to
        repeat them or to name all options earns no more than to reason.
        """
        return 0.0 if self.unjudgeable(question, reasoning) else self.judge(question, reasoning, None).told

    def strangers(self, question: Question, masked: Sequence[int], mentions: Iterable[Mention]) -> list[Mention]:
        """Mentions of what could stand in a masked entity's place and does not: told, of its type, not on the path.

        A class of a masked entity, or a member of it, is no stranger: "an antibiotic" may lead to the one meant.
        """
        known = set().union(*(mention.entities for mention in self.names.mentions(question.question)))
        known.update(self.graph.entity[title] for title in path_entities(question))
        known.update(*map(self.graph.interchangeable, masked))
        types = {self.graph.type[entity] for entity in masked}
        return [
            mention
            for mention in mentions
            if not mention.negated
            and known.isdisjoint(mention.entities)
            and any(self.graph.type[entity] in types for entity in mention.entities)
        ]

    def arrives(self, question: Question, reasoning: str, mentions: Iterable[Mention], answer: str | None) -> bool:
        """Whether the last sentence that names an option, by its text or else by its letter, names the answered one."""
        letter_of = {self.graph.entity.get(text): letter for letter, text in question.options.items()}
        named: dict[int, set[str]] = {}
        for mention in mentions:
            letters = {letter_of[entity] for entity in mention.entities if entity in letter_of}
            if letters and not mention.negated:
                named.setdefault(mention.sentence, set()).update(letters)
        if named:
            return named[max(named)] == {answer}
        letters = ["".join(found) for found in OPTION_LETTER.findall(reasoning)]
        return bool(letters) and letters[-1] == answer


def longest_in_order(path: Sequence[int], mentions: Iterable[Mention]) -> int:
    """How many entities of the path are told in its order: the longest subsequence, sentences taken as a whole."""
    place_of = {entity: place for place, entity in enumerate(path)}
    places: dict[int, set[int]] = {}
    for mention in mentions:
        places.setdefault(mention.sentence, set()).update(place_of[e] for e in mention.entities if e in place_of)
    longest = [0] * len(path)  # of those that end at each place
    for sentence in sorted(places):
        for place in sorted(places[sentence]):
            longest[place] = max(longest[place], 1 + max(longest[:place], default=0))
    return max(longest, default=0)


@lru_cache(maxsize=1)
def fidelity_of(graph: Path) -> Fidelity:
    """What judges by the graph in a file, which is read once: a command asks for each model and each table."""
    return Fidelity(Graph(graph))


class PathJudge:
    """The outcomes of responses to some questions, by their ids."""

    def __init__(self, fidelity: Fidelity, questions: Iterable[Question]):
        self.fidelity = fidelity
        self.questions = {question.id: question for question in questions}
        self.lengths = {id: length_of(question) for id, question in self.questions.items()}

    @classmethod
    def of_run(cls, run: RunDir, questions: Iterable[Question]) -> PathJudge | None:
        """By the run's graph; None if it has none, or no question has a path."""
        questions = [question for question in questions if question.evidence]
        graph = run.output("kg.sqlite")
        return cls(fidelity_of(graph), questions) if questions and is_there(graph) else None

    def outcome(self, id: str, order: str, response: str, answer: str | None, right: bool) -> str:
        """One of `OUTCOMES` or of `REASONS`. `order` is that of the options, if it is not the question's own."""
        question, reasoning = self.questions.get(id), parse(response).thinking
        reason = self.fidelity.unjudgeable(question, reasoning) if question else NO_EVIDENCE
        if reason:
            return reason
        question = reordered(question, order) if order else question
        return self.fidelity.judge(question, reasoning, answer).outcome(right)
