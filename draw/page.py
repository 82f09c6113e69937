"""One page of HTML that holds everything in itself; whatever is put into it as text stays text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from draw.charts import THEME

STYLESHEET = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem clamp(.75rem, 3vw, 2rem) 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 0 0 .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
h3:first-child { margin-top: 0; }
p { margin: .3rem 0 .8rem; max-width: 48rem; }
section, .answers > div { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; }
section { padding: clamp(.9rem, 2.5vw, 1.6rem); margin-top: 1rem; }
.muted { color: var(--muted); }
.right { color: var(--good); font-weight: 600; }
.wrong { color: var(--bad); font-weight: 600; }
.grid { display: grid; gap: .8rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.grid > * { min-width: 0; }
.grid > svg { max-width: 32rem; }
svg { display: block; width: 100%; height: auto; }
table, ul { font-size: .9rem; }
table { border-collapse: collapse; overflow-wrap: normal; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem clamp(.4rem, 2vw, .8rem) .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
  font-weight: 400; }
th { color: var(--muted); }
:is(th, td):nth-child(-n+2) { text-align: left; }
ul { padding-left: 1.1rem; }
ul li { margin-bottom: .5rem; }
ol { list-style: none; padding: 0; margin: .4rem 0 .8rem; }
.wide { grid-column: 1 / -1; }
.answers { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.answers > div { padding: .5rem .8rem; min-width: 0; }
pre { margin: .3rem 0 0; white-space: pre-wrap; max-height: 20rem; overflow-y: auto; color: var(--muted);
  font: .82rem/1.5 ui-monospace, monospace; }
"""


def section(title: str, lead: str, *parts: str) -> str:
    """`lead` is text; `parts` are HTML and stand beside each other where there is room."""
    body = f"<div class=grid>{''.join(parts)}</div>" if parts else ""
    return f"<section><h2>{escape(title)}</h2><p class=muted>{escape(lead)}</p>{body}</section>\n"


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """The whole file. `title` and `lead` are text, `sections` are HTML. Its policy forbids to load or run anything."""
    title = escape(title)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}: Fleming-R1, from scratch</title>
<style>{THEME}{STYLESHEET}</style>
<main>
<h1>{title}</h1>
<p class=muted>{escape(lead)}</p>
{"".join(sections)}</main>
</html>
"""
