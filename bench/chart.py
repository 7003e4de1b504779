"""Charts as SVG text: lines over two logarithmic axes, and bars of parts. The same figures make the same bytes.

A chart has its own ground, light or dark as its reader's system is, so that it can be read wherever it stands. Lines
differ in mark as well as in colour, and their names stand beside them; title and description say what is shown.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

_WIDE, _HIGH, _ROW = 760, 440, 34
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 520, 64, 390
#: Okabe and Ito's colours for all kinds of sight, without black and yellow: each is told from light and from dark.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#808080")
_MARKS: Final = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-4,-4h8v8h-8z",
    "M0,-5l5,9h-10z",
    "M0,-5l5,5l-5,5l-5,-5z",
)
_STYLE: Final = """\
<style>
.ground { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #57606a }
.axis { stroke: #57606a } .grid { stroke: #d0d7de }
text { font: 12px sans-serif }
.title { font-weight: bold }
@media (prefers-color-scheme: dark) {
.ground { fill: #16181d } .ink { fill: #e6edf3 } .faint { fill: #a3adb8 }
.axis { stroke: #a3adb8 } .grid { stroke: #363c44 }
}
</style>"""


@dataclass(frozen=True)
class Line:
    """Points from left to right, all above zero; lines with one name have one colour."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A whole, made of named parts."""

    name: str
    parts: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Words:
    """What a chart says of itself."""

    title: str
    description: str
    across: str
    upwards: str = ""


def lines(words: Words, shown: Sequence[Line]) -> str:
    """Return a chart of lines."""
    places = [place for line in shown for place in line.points]
    across = sorted({x for x, _ in places})
    low, high = _decades([y for _, y in places])

    def right(x: float) -> float:
        return _LEFT + 20 + _share(x, across[0], across[-1]) * (_RIGHT - _LEFT - 40)

    def down(y: float) -> float:
        return _BOTTOM - _share(y, low, high) * (_BOTTOM - _TOP)

    body = [f'<path class="axis" fill="none" d="M{_LEFT},{_TOP}V{_BOTTOM}H{_RIGHT}"/>']
    body += [_text(right(x), _BOTTOM + 18, f"{x:g}", "middle", "faint") for x in across]
    for y in _ticks(low, high):
        body.append(f'<path class="grid" d="M{_LEFT},{down(y):.1f}H{_RIGHT}"/>')
        body.append(_text(_LEFT - 8, down(y) + 4, f"{y:,g}", "end", "faint"))
    body.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, words.across, "middle", "faint"))
    body.append(_text(_LEFT - 50, _TOP - 14, words.upwards, "start", "faint"))
    names = list(dict.fromkeys(line.name for line in shown))
    for line in shown:
        number = names.index(line.name)
        body += _line([(right(x), down(y)) for x, y in line.points], number, dashed=line.dashed)
    for number, name in enumerate(names):
        body.append(_mark(_RIGHT + 22, _TOP + 8 + 20 * number, number))
        body.append(_text(_RIGHT + 34, _TOP + 12 + 20 * number, name, "start", "ink"))
    return _whole(words, _HIGH, body)


def bars(words: Words, shown: Sequence[Bar]) -> str:
    """Return a chart of bars from left to right, one below the other."""
    most = max(sum(value for _, value in bar.parts) for bar in shown)
    names = list(dict.fromkeys(name for bar in shown for name, _ in bar.parts))
    left, width = 200, 460
    body = []
    for row, bar in enumerate(shown):
        at, y = float(left), _TOP + _ROW * row
        body.append(_text(left - 8, y + 15, bar.name, "end", "ink"))
        for name, value in bar.parts:
            wide = value / most * width
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            body.append(f'<rect x="{at:.1f}" y="{y}" width="{wide:.1f}" height="22" fill="{colour}"/>')
            at += wide
        body.append(_text(at + 8, y + 15, f"{sum(value for _, value in bar.parts):,.1f}", "start", "faint"))
    below = _TOP + _ROW * len(shown) + 8
    body.append(_text(left, below + 8, words.across, "start", "faint"))
    for number, name in enumerate(names):
        y = below + 20 + 20 * number
        body.append(f'<rect x="{left}" y="{y}" width="12" height="12" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        body.append(_text(left + 20, y + 10, name, "start", "ink"))
    return _whole(words, below + 32 + 20 * len(names), body)


def _whole(words: Words, high: int, body: Iterable[str]) -> str:
    known = 'role="img" aria-labelledby="title desc"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {high}" {known}>',
            f'<title id="title">{escape(words.title)}</title>',
            f'<desc id="desc">{escape(words.description)}</desc>',
            _STYLE,
            f'<rect class="ground" width="{_WIDE}" height="{high}"/>',
            f'<text class="ink title" x="20" y="22">{escape(words.title)}</text>',
            *body,
            "</svg>\n",
        ]
    )


def _line(places: Sequence[tuple[float, float]], number: int, *, dashed: bool) -> list[str]:
    path = "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    colour = _COLOURS[number % len(_COLOURS)]
    drawn = f'<path fill="none" stroke="{colour}" stroke-width="2"{dashes} d="M{path}"/>'
    return [drawn, *(_mark(x, y, number) for x, y in places)]


def _mark(x: float, y: float, number: int) -> str:
    again, place = divmod(number, len(_COLOURS))
    shape, colour = _MARKS[(number + again) % len(_MARKS)], _COLOURS[place]  # a colour comes again with another mark
    return f'<path transform="translate({x:.1f} {y:.1f})" fill="{colour}" d="{shape}"/>'


def _text(x: float, y: float, words: str, anchor: str, ink: str) -> str:
    return f'<text class="{ink}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _share(value: float, low: float, high: float) -> float:
    """Return where a value lies between two others, by its logarithm."""
    return 0.5 if low == high else math.log(value / low) / math.log(high / low)


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return powers of ten around some values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, and what lies between them where there are few."""
    first, last = round(math.log10(low)), round(math.log10(high))
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    return [step * 10.0**power for power in range(first, last) for step in steps] + [high]
