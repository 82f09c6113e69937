"""wiki/wikitext.py: what a reader sees of a page."""

from wiki.wikitext import without_notes


def test_footnotes_and_comments_go_and_nothing_else():
    for wikitext, left in (
        ("a<ref>[[x]]</ref>b<ref name=x/>c<REF name='y' >z</ref >d", "abcd"),
        ("a<!-- <ref> -->b<ref>c</ref>", "ab"),
        ("a<!-- never closed <ref>b</ref>", "a"),
        ("a<ref>never closed", "a<ref>never closed"),
        ("a<ref>b <i>c</i> <br/> d</ref>e", "ae"),
        ("a<ref>b<ref name=n>c</ref>d", "a<ref>bd"),
        ("a<references>b</references>", "a<references>b</references>"),
    ):
        assert without_notes(wikitext) == left
