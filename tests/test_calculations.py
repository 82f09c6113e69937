"""Calculations done again: what is right, what is wrong, and what must be left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear import assert_linear

from clean.calculations import UNITS, calculations

RIGHT = """
150 lb / 2.2 = 68 kg
120 min / 60 = 2 h
1050 mg / 1000 = 1.05 g
1050 mg / 15 mg/kg = 70 kg
70 kg × 15 mg/kg = 1050 mg
70 kg × 15 mg/kg = 1,050 mg = 1.05 g
Anion gap: 140 - 104 - 24 = 12
140-104-24=12
(140 − 40) × 70 / (72 × 1.2) = 81 mL/min
(140 − 40 years) × 70 kg / (72 × 1.2 mg/dL) = 81 mL/min
MAP = (120 + 2×80)/3 = 93 mmHg
BMI = 70/1.75² = 22.9 kg/m²
70 kg / (1.75 m)^2 = 22.9 kg/m2
500 mg + 1 g = 1.5 g
8 mg/dL + 0.8 × (4 − 2 g/dL) = 9.6 mg/dL
2 mg/dL × 88.4 = 177 µmol/L
2 × 140 + 90/18 + 14/2.8 = 290 mOsm/kg
3 tablets × 500 mg = 1500 mg
1 kg = 2.2 lb
7000/86.4 ≈ 80
1.5 L / 24 h = 62.5 mL/h
P/F = 80/0.4 = 200
(dose: 70 kg × 15 mg/kg = 1050 mg)
5% × 200 mL = 10 mL
10/50 × 100 = 20%
10/50 = 20%
10 / 50 = 0.2
20 breaths/min × 500 mL/breath = 10 L/min
3,000 × 4,000 = 12 million
100 mL / 2 h = 50 mL/h
70 kg x 15 mg per kg = 1050 mg
15 mg/kg/day × 70 kg = 1050 mg/day
2 × 10^9/L = 2000000000/L
２×３＝６
4 + 5 + 6 = 15 points
"""
WRONG = """
70 kg × 15 mg/kg = 105 mg
70 kg × 15 mg/kg = 1050 g
70 kg × 15 mg = 1050 mg
1050 mg / 3 = 350 g
500 mg + 500 mg = 1000 g
140 - 104 - 24 = 14
2 g = 200 mg
MAP = (120 + 2×80)/3 = 120 mmHg
so 4 + 5 + 6 = 16 points
1050 mg = 1.5 g
(140 − 40) × 70 / (72 × 1.2) = 61 mL/min
3 tablets × 500 mg = 2000 mg
5% × 200 mL = 100 mL
１＋１＝３
"""
UNCLEAR = """
3 to 5 mg × 10 = 30 to 50 mg
3 - 5 mg × 10 = 30 - 50 mg
1 mmol = 180 mg
1000 = 1 mg/mL
a ratio of 1:1000 = 1 mg/mL
Na 140 - Cl 104 - HCO3 24 = 12
2 × Na 140 + 5 = 285
3-5 mg × 10 = 30-50 mg
3–5 mg × 10 = 30–50 mg
pH = 6.1 + log(24/(0.03 × 40)) = 7.4
ln(2)/0.1 = 6.93
the square root of 16 + 9 = 5
38 °C = 100.4 °F
E4 V5 M6 = 15
2 tablets = 1000 mg
5/0 = 3
1 unit = 15 g
vitamin B12 = 5
81 = 5 mL/min/1.73 m2
Day 1 = 3
10^99^99 = 3
"""


def lines(text):
    return text.strip().splitlines()


@pytest.mark.parametrize("text", lines(RIGHT))
def test_right_calculations_are_recognised(text):
    assert [right for _, right in calculations(text)] in ([True], [True, True])


@pytest.mark.parametrize("text", lines(WRONG))
def test_wrong_values_and_units_are_found(text):
    assert False in [right for _, right in calculations(text)]


@pytest.mark.parametrize("text", lines(UNCLEAR))
def test_what_is_not_understood_is_left_alone(text):
    assert False not in [right for _, right in calculations(text)]


def test_every_calculation_of_a_text_is_shown_as_it_stands():
    text = "He weighs 70 kg.\n(70 kg × 15 mg/kg = 1,050 mg = 1.5 g) Then 140 − 104 = 36, so 36 - 24 = 10."
    assert list(calculations(text)) == [
        ("70 kg * 15 mg/kg = 1,050 mg", True),
        ("1,050 mg = 1.5 g", False),
        ("140 - 104 = 36", True),
        ("36 - 24 = 10", False),
    ]


small, places = st.integers(1, 999), st.integers(0, 4)


@given(small, small, small, st.sampled_from("+-*"), st.integers(-3, 3))
def test_whole_numbers_are_held_to_the_digit(a, b, c, sign, off):
    """a*b+c, exact: right if and only if nothing is off. (b - c that ascends may be a range: left alone.)"""
    value = {"+": a * b + c, "-": a * b - c, "*": a * b * c}[sign]
    found = list(calculations(f"{a} × {b} {sign} {c} = {value + off}"))
    assert [right for _, right in found] == [off == 0] or (sign == "-" and c > b and found == [])


@given(small, small, places)
def test_a_rounded_quotient_is_right_and_two_units_off_is_wrong(a, b, digits):
    for value, right in [(round(a / b, digits), True), (round(a / b, digits) + 2.5 * 10**-digits, False)]:
        assert [r for _, r in calculations(f"{a} / {b} = {value:.{digits + 1 if not right else digits}f}")] == [right]


@given(small, st.sampled_from(["kg", "mg", "g", "mcg", "lb"]), st.sampled_from(["kg", "mg", "g", "mcg", "lb"]))
def test_a_conversion_is_right_in_the_unit_it_is_right_in(amount, unit, other):
    converted = f"{amount * UNITS[unit][0] / UNITS[other][0]:.9f}"
    if len(converted) < 20 and float(converted) > 1e-4:
        assert [right for _, right in calculations(f"{amount} {unit} = {converted} {other}")] == [True]
        if unit != other:
            assert [right for _, right in calculations(f"{amount} {unit} = {converted} {unit}")] == [False]


@given(st.text(alphabet="0123456789.,+-*/^()=≈ xkgmL%–²per", max_size=200))
def test_no_text_is_an_error(text):
    assert all(isinstance(right, bool) for _, right in calculations(text))


def test_long_nonsense_takes_linear_time():
    pieces = ["1+", "(", "1 ", "1=1", "9", "1,000", "1 mg/", "(1+", "1^9", "x 1 ", "1-", "(1)", " "]
    assert_linear(lambda text: list(calculations(f"{text}=2")), pieces, 100_000, most=8)
