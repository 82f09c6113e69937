"""Whether plain JSON data has the shape that its reader relies on: asked once, where data comes in from outside.

A shape is a type (`str`, `int`, `float`, `bool`), None, a tuple of alternatives, a list of one shape (any number of
such items) or of several (one item of each), or a dict of shapes by key, in which a key that ends in "?" may be
missing; `{str: shape}` is a dict with any keys. Keys that a shape does not name are not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", None: "null"}
LARGEST = 2**63 - 1  # what SQLite and PyTorch hold


def misfit(value: Any, shape: Any, name: str = "") -> str | None:
    """The first thing that is wrong with a value, in a few words such as "options.A is not a text"; None if it fits."""
    if isinstance(shape, tuple):
        problems = [misfit(value, kind, name) for kind in shape]
        return problems[0] if all(problems) else None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name or 'it'} is not a list"
        shapes = shape * len(value) if len(shape) == 1 else shape
        if len(value) != len(shapes):
            return f"{name or 'it'} has {len(value)} items instead of {len(shapes)}"
        return _first(misfit(*pair, f"{name}[{number}]") for number, pair in enumerate(zip(value, shapes)))
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name or 'it'} is not an object"
        return _first(_misfit_of_key(value, key, inner, name) for key, inner in shape.items())
    return None if _is(value, shape) else f"{name or 'it'} is not {NAMES[shape]}"


def _misfit_of_key(value: dict[str, Any], key: Any, shape: Any, name: str) -> str | None:
    if key is str:
        return _first(misfit(item, shape, f"{name}.{inner}".lstrip(".")) for inner, item in value.items())
    bare = key.removesuffix("?")
    path = f"{name}.{bare}".lstrip(".")
    if bare in value:
        return misfit(value[bare], shape, path)
    return f"missing field {path}" if bare == key else None


def _first(problems: Iterable[str | None]) -> str | None:
    return next(filter(None, problems), None)


def _is(value: Any, kind: Any) -> bool:
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST
    if kind is float:  # no NaN, no infinity
        return _is(value, int) or type(value) is float and abs(value) <= sys.float_info.max
    return value is None if kind is None else type(value) is kind
