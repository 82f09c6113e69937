"""That work grows in proportion to the text, told by a length at which quadratic work takes far longer than the limit.

The units that a piece of code is slowest on are found on short texts; they alone are repeated to the whole length.
A limit is at least ten times what the slowest of them took on a busy core: a slow machine is no failure.
"""

import time


def seconds(run, text):
    """CPU seconds that `run` takes on a text."""
    began = time.process_time()
    run(text)
    return time.process_time() - began


def texts(unit, length):
    """A unit repeated to a length, and the same with an end that does not fit."""
    text = (unit * (length // len(unit) + 1))[:length]
    return text, text + "!"


def assert_linear(run, units, length, most, slowest=3):
    """`run` takes less than `most` CPU seconds on `length` characters of those units that it is slowest on."""

    def on_a_short_text(unit):
        return seconds(run, texts(unit, min(5_000, length // 4))[1])

    for unit in sorted(units, key=on_a_short_text, reverse=True)[:slowest]:
        for text in texts(unit, length):
            assert seconds(run, text) < most, unit
