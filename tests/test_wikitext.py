"""wiki/wikitext.py: what a reader sees of a page."""

import random

import mwparserfromhell
from mwparserfromhell.parser import tokens

from wiki.wikitext import Markup, without_notes

MARKUP = """a [[b]] [[b|''c'']] [[|]] {{d|e|f=g}} {{d|=}} {{h}} {{|}} {{d| }} [[ ]] | = &nbsp; &x; &#x41; <b> </b> <br>
<b/> <j k="l"> </j> '' ''' ''''' <!-- n --> [http://o p] [http://o] http://p {{{q|r}}} {{{s}}} {| |- |} <ref>t</ref>"""


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


def test_the_tokens_of_a_page_say_what_the_parsers_tree_says():
    rng, pieces = random.Random(0), [*MARKUP.split(), " ", "\n", "\n* ", "\n; u: ", "\n== v ==\n", "\n----\n"]
    for _ in range(200):
        wikitext = "".join(rng.choices(pieces, k=rng.randrange(40)))
        markup, tree = Markup(wikitext), mwparserfromhell.parse(wikitext)
        outer = [markup.source(at, markup.bounds[at][-1] + 1) for at in markup.outer]
        assert outer == [str(node) for node in tree.nodes if not isinstance(node, mwparserfromhell.nodes.Text)]
        templates = [at for at in markup.bounds if type(markup.tokens[at]) is tokens.TemplateOpen]
        assert len(templates) == len(tree.filter_templates())
        for at, template in zip(templates, tree.filter_templates()):
            params = [(param.name, markup.source(*param[1:])) for param in markup.params(at)]
            assert markup.name(at) == str(template.name).strip().lower()
            assert params == [(str(p.name) if p.showkey else None, str(p.value)) for p in template.params]
