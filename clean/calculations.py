"""Calculations in a text, done again: numbers and units (the "verifiable signals" of the paper's introduction).

    >>> [show for show, right in calculations("For 70 kg: 70 kg × 15 mg/kg = 105 mg; 15 + 5 = 20.") if not right]
    ['70 kg * 15 mg/kg = 105 mg']

The text is a model's, so nothing in it is run as code: one pattern cuts it into tokens, in linear time, and a small
parser redoes what is written between numbers and known units. It leaves alone what it does not surely understand:
ranges (3-5 mg), functions (log, the root of), formulas with words in them (Na 140 - Cl 104), unknown units, a bare
equality of unlike quantities (1 mmol = 180 mg). So nothing found wrong is no proof.

A result that had to be rounded may be off by one unit of its last digit; after "≈" 5% are allowed. Units are checked
where both sides have some. The formulas of the trade hide units in a bare factor (mg/dL × 88.4 = µmol/L, lb / 2.2 =
kg, Cockcroft-Gault): if such a factor can explain why the units do not work out, the bare numbers decide.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

PREFIXES = {"k": 1e3, "": 1.0, "d": 1e-1, "c": 1e-2, "m": 1e-3, "mc": 1e-6, "u": 1e-6, "μ": 1e-6, "n": 1e-9, "p": 1e-12}
METRIC = {"g": "mass", "L": "volume", "l": "volume", "mol": "amount", "Eq": "charge", "Osm": "osmoles", "m": "length"}
COUNTED = "tablet capsule dose vial drop breath beat cell patient point time".split()  # has no dimension
OTHERS = [
    ("s sec second seconds", 1.0, "time"),
    ("min minute minutes", 60.0, "time"),
    ("h hr hour hours", 3600.0, "time"),
    ("d day days", 86400.0, "time"),
    ("week weeks", 604800.0, "time"),
    ("month months", 1.0, "month"),
    ("y yr year years", 12.0, "month"),
    ("lb lbs", 453.592, "mass"),
    ("IU U unit units", 1.0, "activity"),
    ("mmHg", 1.0, "pressure"),
    ("kPa", 7.50062, "pressure"),
    ("kcal", 1.0, "energy"),
    ("% percent", 0.01, ""),
    ("thousand", 1e3, ""),
    ("million", 1e6, ""),
    (" ".join(word + ending for word in COUNTED for ending in ("", "s")), 1.0, ""),
]
UNITS = {prefix + name: (factor, base) for name, base in METRIC.items() for prefix, factor in PREFIXES.items()}
UNITS |= {name: (factor, base) for names, factor, base in OTHERS for name in names.split()}

NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,12})(?:\.\d{1,9})?(?!\d)"
UNIT = rf"(?:{'|'.join(sorted(UNITS, key=len, reverse=True))})(?![^\W\d_])(?:\^?[23](?!\d))?"
TOKEN = re.compile(
    rf"(?P<number>(?<!\w)(?<!\d[.,]){NUMBER})|(?P<unit>(?<=[\d /)]){UNIT})|(?P<sign>[-+*/^()~]|per\b)"
    r"|(?P<equals>[=≈])|(?P<word>[^\W\d_]\w*|\S)"
)
RANGE = re.compile(rf"({NUMBER})( ?(?:{UNIT})? ?)(?:[-–]|to) ?({NUMBER})")
# What, before numbers in the same clause, makes them the rest of something larger.
BEFORE = re.compile(r"[-+*/^√±~]|\b(?:log\w*|ln|exp|sqrt|root|square|half|twice|double|times)\b", re.IGNORECASE)
LONGEST = 80  # tokens of an equation
APPROXIMATE = 0.05  # relative difference that "≈", or the factor of a conversion, may have


class NotUnderstood(Exception):
    """An expression that is not worked out: units that do not fit together, a division by zero, odd parentheses."""


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # number, unit, sign, equals or word
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value in base units and its dimension, base dimension -> exponent."""

    value: float
    dimension: Counter[str] = field(default_factory=Counter)

    def power(self, exponent: int) -> Quantity:
        return Quantity(self.value**exponent, Counter({base: n * exponent for base, n in self.dimension.items()}))

    def times(self, other: Quantity) -> Quantity:
        exponents = Counter(self.dimension)
        exponents.update(other.dimension)
        return Quantity(self.value * other.value, Counter({base: n for base, n in exponents.items() if n}))

    def plus(self, other: Quantity) -> Quantity:
        if self.dimension != other.dimension:
            raise NotUnderstood
        return Quantity(self.value + other.value, self.dimension)


# -------------------------------------------------------------------------------------------------------------- finding


def calculations(text: str) -> Iterator[tuple[str, bool]]:
    """Every calculation of a text that could be checked, as (two sides in plain characters, whether it is right)."""
    text = plain(text)
    for run in runs(text):
        if run[0].kind != "equals":
            clause = re.split(r"[.,;:!?\n]", text[max(0, run[0].start - 200) : run[0].start])[-1]
            is_argument = run[0].text == "(" and clause[-1:].isalnum()
            if is_argument or BEFORE.search(clause):
                continue
        parts = [list(part) for _, part in groupby(run, lambda token: token.kind == "equals")]
        first = int(parts[0][0].kind == "equals")
        for left, sign, right in zip(parts[first::2], parts[first + 1 :: 2], parts[first + 2 :: 2]):
            left, right = without_loose_parentheses(left), without_loose_parentheses(right)
            verdict = is_right(left, right, sign[0].text)
            if verdict is not None:
                yield text[left[0].start : right[-1].end], verdict


def plain(text: str) -> str:
    """Compatibility characters, superscripts, signs and white space in one form each; "~" joins a range's numbers.

    A range like 3-5 goes upwards, a difference like 140-104 down.
    """
    text = re.sub("[⁻⁰¹²³⁴-⁹]{1,3}", lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    text = unicodedata.normalize("NFKC", text).translate(str.maketrans("×·÷−", "**/-"))
    text = re.sub(r"(?<=\w) x (?=[\d(])|(?<=\)) x (?=[\d(])|(?<=\d)x(?=\d)", " * ", text)
    text = re.sub(r"[^\S\n]{1,9}", " ", text)
    text = RANGE.sub(lambda match: f"{match[1]}{match[2]}~{match[3]}" if upwards(match) else match[0], text)
    return text.replace("–", "-")


def upwards(match: re.Match[str]) -> bool:
    return value_of(match[3]) > value_of(match[1])


def value_of(digits: str) -> float:
    return float(digits.replace(",", ""))


def runs(text: str) -> Iterator[list[Token]]:
    """The longest stretches of numbers, known units and signs, as far as they hold an equals sign."""
    tokens = (Token(match.lastgroup or "word", match[0], match.start(), match.end()) for match in TOKEN.finditer(text))
    for is_word, stretch in groupby(tokens, lambda token: token.kind == "word"):
        run = list(stretch)
        if not is_word and len(run) <= LONGEST and any(token.kind == "equals" for token in run):
            yield run


def without_loose_parentheses(side: list[Token]) -> list[Token]:
    """A side without the parenthesis that opens or closes around the whole equation: "(2 * 3 = 6)"."""
    surplus = sum((token.text == "(") - (token.text == ")") for token in side)
    while surplus > 0 and side[0].text == "(":
        side, surplus = side[1:], surplus - 1
    while surplus < 0 and side[-1].text == ")":
        side, surplus = side[:-1], surplus + 1
    return side


# ------------------------------------------------------------------------------------------------------------ comparing


def is_right(left: list[Token], right: list[Token], sign: str) -> bool | None:
    """Whether two sides are equal; None if it cannot tell."""
    try:
        bare_left, bare_right = evaluate(without_units(left)).value, evaluate(without_units(right)).value
    except NotUnderstood:
        return None
    converted = in_unit_of(right, bare_right, left)
    if converted is not None and close(converted, bare_right, right, sign):
        return True
    both_have_units = all(any(token.kind == "unit" for token in side) for side in (left, right))
    if not signs_of(left):  # no calculation but an equality; true of one substance (1 mmol = 180 mg), or not
        return False if both_have_units and converted is not None else None
    if not close(bare_left, bare_right, right, sign):
        return False
    return not both_have_units or hides_a_unit(left, bare_left, converted)


def in_unit_of(right: list[Token], bare_right: float, left: list[Token]) -> float | None:
    """The left side's value in the unit that the right side is shown in; None for unlike quantities, or their sum."""
    try:
        a, b = evaluate(left), evaluate(right)
    except NotUnderstood:
        return None
    if a.dimension != b.dimension:
        return None
    return a.value / (b.value / bare_right) if bare_right else a.value


def hides_a_unit(side: list[Token], bare: float, converted: float | None) -> bool:
    """Whether a bare factor of a product can be what its units are off by: 1000 between mg and g.

    If the dimensions differ as well (`converted` is None), any factor may hold what is missing.
    """
    factors = bare_factors(side) if signs_of(side) & {"*", "/"} else []
    if converted is None or signs_of(side) & {"+", "-"}:
        return bool(factors)
    ratio = converted / bare
    return any(abs(math.log(factor * ratio)) < APPROXIMATE for n in factors if n for factor in (n, 1 / n))


def signs_of(side: list[Token]) -> set[str]:
    """The signs between a side's numbers."""
    return {token.text for token in without_units(side) if token.kind == "sign"}


def close(a: float, b: float, shown: list[Token], sign: str) -> bool:
    """Whether a is b up to the rounding with which b is shown."""
    decimals = max(len(token.text.partition(".")[2]) for token in shown if token.kind == "number")
    needs_rounding = abs(a - round(a, decimals)) > 1e-9 * abs(a)
    allowed = max(1.0001 * 10.0**-decimals * needs_rounding, APPROXIMATE * abs(a) * (sign == "≈"))
    return abs(a - b) <= allowed + 1e-9 * abs(a)


def bare_factors(side: list[Token]) -> list[float]:
    """Numbers without a unit."""
    following = [token.text for token in side[1:]] + [""]
    kinds = [token.kind for token in side[1:]] + [""]
    return [
        value_of(token.text)
        for token, text, kind in zip(side, following, kinds)
        if token.kind == "number" and kind != "unit" and text != "^"
    ]


def without_units(side: list[Token]) -> list[Token]:
    """The side's numbers and the signs between them."""
    kept: list[Token] = []
    for token in side:
        if token.kind != "unit":
            kept.append(token)
        elif kept and kept[-1].text in ("/", "per"):
            kept.pop()
    return kept


# ----------------------------------------------------------------------------------------------------------- the parser


def evaluate(side: list[Token]) -> Quantity:
    """A side worked out: sums of products of quantities, parentheses, small powers. Raises NotUnderstood."""
    parser = Parser(side)
    try:
        result = parser.sum()
    except (ValueError, ZeroDivisionError, OverflowError):
        raise NotUnderstood from None
    if parser.tokens:
        raise NotUnderstood
    return result


class Parser:
    """Reads a side from left to right; each method takes what it has read away from `tokens`."""

    def __init__(self, side: list[Token]):
        self.tokens = list(side)

    def next_is(self, *texts: str) -> bool:
        return bool(self.tokens) and self.tokens[0].text in texts

    def take(self, kind: str) -> str:
        if not self.tokens or self.tokens[0].kind != kind:
            raise NotUnderstood
        return self.tokens.pop(0).text

    def sum(self) -> Quantity:
        total = self.product()
        while self.next_is("+", "-"):
            sign = Quantity(1.0 if self.take("sign") == "+" else -1.0)
            total = total.plus(self.product().times(sign))
        return total

    def product(self) -> Quantity:
        total = self.factor()
        while self.next_is("*", "/"):
            exponent = 1 if self.take("sign") == "*" else -1
            total = total.times(self.factor().power(exponent))
        return total

    def factor(self) -> Quantity:
        """A number or parenthesis, perhaps with a sign, a power and a unit: "15 mg/kg" binds closer than "/"."""
        if self.next_is("-"):
            self.take("sign")
            return self.factor().times(Quantity(-1.0))
        if self.next_is("("):
            self.take("sign")
            result = self.sum()
            if not self.next_is(")"):
                raise NotUnderstood
            self.take("sign")
        else:
            result = Quantity(value_of(self.take("number")))
        if self.next_is("^"):
            self.take("sign")
            sign = -1 if self.next_is("-") and self.take("sign") else 1
            result = result.power(sign * int(self.take("number")))
        exponent = 1
        while self.tokens and (self.tokens[0].kind == "unit" or self.stroke_and_unit()):
            if self.tokens[0].kind == "sign":
                self.take("sign")
                exponent = -1
            result = result.times(unit(self.take("unit")).power(exponent))
        return result

    def stroke_and_unit(self) -> bool:
        return self.next_is("/", "per") and len(self.tokens) > 1 and self.tokens[1].kind == "unit"


def unit(text: str) -> Quantity:
    """A known unit, perhaps squared or cubed: "m2", "m^2"."""
    factor, base = UNITS[text.rstrip("23").rstrip("^")]
    return Quantity(factor, Counter({base: 1} if base else {})).power(int(text[-1]) if text[-1] in "23" else 1)
