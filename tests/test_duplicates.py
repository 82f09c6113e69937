"""Near duplicates are those of the Jaccard index; stock phrases are no overlap."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from clean import duplicates
from question import Question


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), changed=st.sampled_from([0, 1, 2, 20, 40]))
def test_near_duplicates_are_those_of_the_jaccard_index(seed, changed):
    """Whatever buckets the hashes make: questions far apart are kept, questions close together are not."""
    rng = random.Random(seed)
    words = [f"word{rng.randrange(10_000)}" for _ in range(60)]
    other = [f"other{i}" if i in rng.sample(range(60), changed) else word for i, word in enumerate(words)]
    pair = [
        Question(f"x/{i}", "x", "en", " ".join(text), {"A": "a", "B": "b"}, "A")
        for i, text in enumerate((words, other))
    ]
    a, b = (duplicates.runs_of(duplicates.words_of(q.question), duplicates.SHINGLE) for q in pair)
    (_, none), (_, like) = duplicates.near_duplicates(pair)
    assert none is None and like is (pair[0] if len(a & b) >= duplicates.NEAR * len(a | b) else None)


def test_stock_phrases_are_no_contamination():
    """The line of vital signs of a vignette, of which only the numbers differ, stands in many benchmark questions."""
    vital = (
        "His temperature is {} C, pulse is {}/min, respirations are {}/min, and blood pressure is {}/80 mm Hg today."
    )
    ask = lambda i, text: Question(f"b/{i}", "b", "en", text, {"A": "a", "B": "b"}, "A")  # noqa: E731
    benchmark = [ask(i, f"Case {'xyzvw'[i]}. {vital.format(36 + i, 80 + i, 12 + i, 110 + i)}") for i in range(5)]
    trained = [ask(9, f"Another case. {vital.format(39, 99, 20, 150)}")]
    assert [like for _, like, _ in duplicates.overlaps(trained, benchmark)] == [None]
    assert [like for _, like, _ in duplicates.overlaps(trained, benchmark[:2])] == [benchmark[1]]
