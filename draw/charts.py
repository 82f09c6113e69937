"""Charts as inline SVG in the page's own colours: they follow the reader's light or dark theme."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Sequence
from html import escape
from io import StringIO
from math import atan2, degrees
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

THEME = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c2330; --muted: #606b7d; --line: #dde2ea;
  --blue: #2f6fde; --orange: #d9730d; --good: #1a7f4b; --bad: #c0392b;
  --easy: #a9c7f7; --moderate: #5b93ea; --difficult: #1f4fae; }
@media (prefers-color-scheme: dark) { :root {
  --page: #10141b; --card: #191f29; --ink: #e6eaf1; --muted: #9aa6b8; --line: #313a49;
  --blue: #6ea3ff; --orange: #f2a154; --good: #5fce97; --bad: #ff8a7a;
  --easy: #34527f; --moderate: #5b8fe0; --difficult: #b9d3ff; } }
svg text { font-family: system-ui, sans-serif !important; }
"""

# matplotlib draws in stand-in colours; `svg` puts the stylesheet's variables in their place: charts follow the theme.
NAMES = ("ink", "muted", "line", "card", "blue", "orange", "good", "easy", "moderate", "difficult")
COLORS = {name: f"#0000{number:02x}" for number, name in enumerate(NAMES, 1)}
CHART_STYLE = {
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "text.color": COLORS["ink"],
    "axes.edgecolor": COLORS["line"], "axes.labelcolor": COLORS["muted"], "grid.color": COLORS["line"],
    "xtick.color": COLORS["line"], "ytick.color": COLORS["line"], "xtick.labelcolor": COLORS["muted"],
    "ytick.labelcolor": COLORS["muted"], "axes.spines.top": False, "axes.spines.right": False, "font.size": 10,
    "axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 10,
    "svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False,
}  # fmt: skip
WIDTH = 320  # points, as wide as a phone: there letters have their nominal size


def new_axes(height: float) -> Axes:
    """Empty axes on a figure of `WIDTH` x `height` points."""
    return Figure(figsize=(WIDTH / 72, height / 72), layout="constrained").add_subplot()


def bar_axes(labels: list[str], extra: float) -> Axes:
    """Axes for one horizontal bar per label, from top to bottom, with `extra` points around them."""
    axes = new_axes(extra + 27 * len(labels))
    label_bars(axes, labels)
    return axes


def label_bars(axes: Axes, labels: list[str]) -> None:
    """Make room for one horizontal bar per label, from top to bottom."""
    axes.set_yticks(range(len(labels)), [label[:20] for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params("y", length=0, labelcolor=COLORS["ink"])


def svg(figure: Figure, description: str) -> str:
    """The figure as inline SVG in the page's colours."""
    file = StringIO()
    with warnings.catch_warnings():  # letters that matplotlib's font lacks are drawn by the reader's browser
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])  # each chart has the same ids
    for name, color in COLORS.items():
        text = text.replace(color, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def accuracy_bars(name: str, scores: dict[str, list[float]]) -> str:
    """`scores` is model -> accuracy (a share), number of questions and, where it is known, the interval's bounds."""
    axes = bar_axes(list(scores), 46)
    for place, (accuracy, _, *interval) in enumerate(scores.values()):
        axes.barh(place, 100 * accuracy, 0.66, color=COLORS["blue"])
        axes.plot([100 * bound for bound in interval], [place] * len(interval), color=COLORS["ink"], linewidth=1.4)
        axes.text(100 * max(accuracy, *interval, 0) + 2, place, f"{100 * accuracy:.1f}", va="center")
    questions = max(number for _, number, *_ in scores.values())
    axes.set(title=f"{name[:30]} ({questions} questions)", xlim=(0, 112), xticks=range(0, 101, 25))
    return svg(axes.figure, f"{name}: " + ", ".join(f"{label} {100 * item[0]:.1f}%" for label, item in scores.items()))


def draw_beside_paper(axes: Axes, title: str, bars: list[tuple[str, float, bool]]) -> None:
    """Accuracies in % from the best to the worst: (model, accuracy, whether it is the paper's, which are grey)."""
    label_bars(axes, [model for model, *_ in bars])
    for place, (_, accuracy, quoted) in enumerate(bars):
        axes.barh(place, accuracy, 0.66, color=COLORS["muted" if quoted else "blue"])
        axes.text(accuracy + 1, place, f"{accuracy:.1f}", va="center")
    axes.set(title=f"{title} (grey: the paper's)", xlim=(0, 1.2 * max(accuracy for _, accuracy, _ in bars)))


def beside_paper(title: str, bars: list[tuple[str, float, bool]]) -> str:
    """`draw_beside_paper` as a chart of the page."""
    axes = new_axes(46 + 27 * len(bars))
    draw_beside_paper(axes, title, bars)
    return svg(axes.figure, f"{title}: " + ", ".join(f"{model} {accuracy:.1f}%" for model, accuracy, _ in bars))


def standalone(drawing: str) -> str:
    """A chart as a file of its own, which follows the theme of whoever looks at it."""
    return drawing.replace(">", f"><style>{THEME}svg {{ background: var(--card); }}</style>", 1)


def share_bars(mixes: dict[str, dict[str, float]], description: str) -> str:
    """Stacked bars of 100%: bar -> part -> its count; a part's name is its colour, one of `NAMES`."""
    axes = bar_axes(list(mixes), 64)
    for place, mix in enumerate(mixes.values()):
        start, total = 0.0, max(1, sum(mix.values()))
        for part, count in mix.items():
            label = part if place == 0 else None
            axes.barh(place, 100 * count / total, 0.66, start, color=COLORS[part], label=label)
            start += 100 * count / total
    axes.set(xlim=(0, 100), xlabel="% of the questions")
    axes.figure.legend(loc="outside upper left", ncols=3, handlelength=1)
    return svg(axes.figure, description)


def length_boxes(title: str, tokens: dict[str, list[int]]) -> str:
    """One box per model: the middle half of its responses' lengths; whiskers reach from 5 to 95%."""
    axes = bar_axes(list(tokens), 62)
    line, median = {"color": COLORS["blue"], "linewidth": 1.4}, {"color": COLORS["ink"], "linewidth": 2}
    axes.boxplot(list(tokens.values()), positions=range(len(tokens)), manage_ticks=False, orientation="horizontal",
                 whis=(5, 95), widths=0.5, showfliers=False, boxprops=line, whiskerprops=line, capprops=line,
                 medianprops=median)  # fmt: skip
    axes.set(title=title[:50], xlabel="tokens", xlim=(0, None))
    return svg(axes.figure, "Response lengths by model")


def draw_steps(axes: Axes, steps: Sequence[float], values: Sequence[float], color: str) -> Line2D:
    """A metric by step: each value thinly, their running mean as a line, which is returned."""
    axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.7)
    (line,) = axes.plot(steps, running_mean(values), color=color, linewidth=2)
    return line


def running_mean(values: Sequence[float]) -> list[float]:
    """Each value's mean with those before it, over a tenth of all steps."""
    window = max(1, len(values) // 10)
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def mark_end(axes: Axes, end: int, note: str) -> None:
    """A dashed line at step `end`, with a note at its left."""
    axes.axvline(end, color=COLORS["muted"], linestyle="--", linewidth=1)
    axes.text(end, 0.02, note, color=COLORS["muted"], ha="right", transform=axes.get_xaxis_transform())


def graph_picture(named: list[str], masked: list[str], answer: str, facts: Sequence[Sequence[str]]) -> str:
    """Entities as boxes, named ones on the left, masked ones (dashed) on the right, the answer filled; the facts
    [subject, relation, object] as arrows between them."""
    height = 64 * max(len(named), len(masked))
    axes = new_axes(height)
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    boxes = {}
    for names, x, style in ((named, 70, "-"), (masked, 245, "--")):
        for place, name in enumerate(names):
            y = height * (place + 0.5) / len(names)
            boxes[name] = draw_box(axes, name, (x, y), filled=name == answer, style=style)
    for subject, relation, other in facts:
        draw_arrow(axes, boxes[subject], boxes[other], relation)
    return svg(axes.figure, "; ".join(" ".join(fact) for fact in facts))


def draw_box(axes: Axes, name: str, where: tuple[float, float], filled: bool, style: str) -> Text:
    text, fill = ("card", "blue") if filled else ("ink", "card")
    box = {"boxstyle": "round,pad=0.5", "facecolor": COLORS[fill], "edgecolor": COLORS["blue"], "linewidth": 1.3,
           "linestyle": style}  # fmt: skip
    return axes.text(*where, textwrap.fill(name, 17), color=COLORS[text], ha="center", va="center", bbox=box)


def draw_arrow(axes: Axes, start: Text, end: Text, relation: str) -> None:
    """An arrow from box to box, its word along it, so that the words of arrows that meet stay off each other."""
    arrow = {"arrowstyle": "-|>", "color": COLORS["muted"], "shrinkA": 2, "shrinkB": 2,
             "patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}  # fmt: skip
    axes.annotate("", end.get_position(), start.get_position(), arrowprops=arrow, zorder=2)  # below all text
    (left, top), (right, bottom) = sorted((start.get_position(), end.get_position()))
    angle = 0 if left == right else degrees(atan2(bottom - top, right - left))
    label_box = {"facecolor": COLORS["card"], "edgecolor": "none", "pad": 1.5}
    axes.text((left + right) / 2, (top + bottom) / 2, relation.replace("_", " "), color=COLORS["muted"], fontsize=9,
              ha="center", va="center", rotation=angle, rotation_mode="anchor", transform_rotates_text=True,
              bbox=label_box)  # fmt: skip
