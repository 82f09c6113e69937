"""Data from outside has the shape that its reader relies on, or one line says where it has not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.shape import misfit

PAGES = {
    "pages?": [{"title": str, "id?": (int, None), "main?": {"text": str}}],
    "names?": {str: str},
    "share?": float,
    "range?": [float, int],
}


@pytest.mark.parametrize(
    "value, problem",
    [
        ({}, None),
        ({"pages": [{"title": "x", "id": None, "other": 1}], "names": {"a?": "b"}, "share": 1}, None),
        ([], "it is not an object"),
        ({"pages": {}}, "pages is not a list"),
        ({"pages": [{"title": "x"}, {}]}, "missing field pages[1].title"),
        ({"pages": [{"title": 3}]}, "pages[0].title is not a text"),
        ({"pages": [{"title": "x", "id": True}]}, "pages[0].id is not a whole number"),
        ({"pages": [{"title": "x", "id": 2**63}]}, "pages[0].id is not a whole number"),
        ({"pages": [{"title": "x", "main": {"text": None}}]}, "pages[0].main.text is not a text"),
        ({"names": {"a": ["b"]}}, "names.a is not a text"),
        ({"range": [0.5, 1]}, None),
        ({"range": [0.5]}, "range has 1 items instead of 2"),
        ({"range": [0.5, 1.5]}, "range[1] is not a whole number"),
        ({"share": float("nan")}, "share is not a number"),
        ({"share": 2**63}, "share is not a number"),
        ({"share": 10**400}, "share is not a number"),
    ],
)
def test_the_first_misfit_is_named(value, problem):
    assert misfit(value, PAGES) == problem


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)
       | st.dictionaries(st.sampled_from(["pages", "title", "names", "share", "main", "id"]), inner)))  # fmt: skip
def test_whatever_json_holds_has_a_verdict(value):
    value = json.loads(json.dumps(value))
    if misfit(value, PAGES) is None:
        assert all(type(page["title"]) is str for page in value.get("pages", []))
