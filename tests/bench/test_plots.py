"""Charts show what was measured, and the same measurements make the same bytes."""

from xml.etree import ElementTree as ET

import pytest
from bench.chart import Bar, Line, Words, bars, lines
from bench.data_plane import AT_SHARE, OURS
from bench.pieces import METERING, UNSIGNED
from bench.plots import plots, plots_part
from bench.predecessor import NAME as PREDECESSOR
from bench.served import Point
from tests.bench.test_targets import measured

_SVG = "{http://www.w3.org/2000/svg}"
WORDS = Words(title="a < b", description="c & d", across="e > f", upwards="g")


def run() -> list[Point]:
    """Return what a run measures of two models."""
    points = [measured(PREDECESSOR, "none", 8, per_s=30), measured(AT_SHARE, "mlp", 32, per_s=14_000)]
    for name, per_s, cpu_us in ((OURS, 20_000, 60), (UNSIGNED, 21_000, 55), (METERING, 30_000, 40), ("kserve", 900, 1)):
        points += [measured(name, "mlp", number, per_s=per_s + number, cpu_us=cpu_us) for number in (1, 8, 32)]
    points.append(measured("alone, 1 thread", "mlp", 1, per_s=90_000, cpu_us=10))
    points += [measured(OURS, "resnet50", number, per_s=10 + number) for number in (1, 8)]
    return points


def words_of(chart: str) -> str:
    """Return all text of a chart."""
    return " ".join(ET.fromstring(chart).itertext())


@pytest.mark.parametrize(
    "chart",
    [
        lines(WORDS, [Line("one < two", [(1, 20), (8, 900)]), Line("three", [(1, 0.2)], dashed=True)]),
        bars(WORDS, [Bar("one < two", [("p & q", 1.5), ("r", 0)]), Bar("three", [("r", 9)])]),
        *plots(run()).values(),
    ],
)
def test_a_chart_is_svg_that_says_what_it_shows(chart: str) -> None:
    """It is well formed, names itself and what it shows, and nothing of it lies outside."""
    root = ET.fromstring(chart)
    assert root.tag == f"{_SVG}svg"
    assert root.get("role") == "img"
    named = [root.findtext(f"{_SVG}{name}") for name in ("title", "desc")]
    assert all(named)
    assert root.get("aria-labelledby") == "title desc"
    _, _, wide, high = map(float, root.attrib["viewBox"].split())
    for text in root.iter(f"{_SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= wide
        assert 0 <= float(text.attrib["y"]) <= high


def test_a_chart_can_be_read_on_light_and_on_dark() -> None:
    """It brings its own ground, and ink that is told from it, for both."""
    chart = lines(WORDS, [Line("one", [(1, 2), (8, 3)])])
    light, _, dark = chart.partition("prefers-color-scheme: dark")
    for style in (light, dark):
        ground, ink = (_light(style, name) for name in (".ground { fill: #", ".ink { fill: #"))
        assert abs(ground - ink) > 500


def _light(style: str, before: str) -> int:
    colour = style.partition(before)[2][:6]
    return sum(bytes.fromhex(colour))


def test_no_two_lines_look_alike() -> None:
    """Where there are more lines than colours, one that has a colour again has another mark."""
    chart = lines(WORDS, [Line(f"line {number}", [(1, 1 + number)]) for number in range(16)])
    marks = [
        (one.get("fill"), one.get("d")) for one in ET.fromstring(chart).iter(f"{_SVG}path") if one.get("transform")
    ]
    assert len(marks) == 2 * 16
    assert len(set(marks)) == 16


def test_the_same_figures_make_the_same_charts() -> None:
    """In whatever order rounds were measured."""
    points = run()
    assert plots(points) == plots(list(points))
    assert plots(points)["resnet50-speed.svg"] == plots(points[:-2] + points[:-3:-1])["resnet50-speed.svg"]


def test_every_server_is_drawn_and_told() -> None:
    """Ours, others and the model alone; not pieces, nor what is asked at a pace."""
    made = plots(run())
    assert set(made) == {
        "mlp-speed.svg",
        "mlp-times.svg",
        "resnet50-speed.svg",
        "resnet50-times.svg",
        "pieces.svg",
    }
    told = words_of(made["mlp-speed.svg"])
    assert "kserve: 901.0 over 1, 908.0 over 8, 932.0 over 32" in told
    assert "alone, 1 thread: 90,000.0 over 1" in told
    assert METERING not in told
    assert AT_SHARE not in told
    assert "1.00 and 2.00 over 8" in words_of(made["mlp-times.svg"])


def test_pieces_come_to_the_whole() -> None:
    """What each costs is by how much less an enclave without it takes."""
    told = words_of(plots(run())["pieces.svg"])
    for piece in ("running the model 10.0", "to the engine 30.0", "making the receipt 15.0", "signing the receipt 5.0"):
        assert piece in told
    assert "60.0" in told
    assert "pieces.svg" not in plots([one for one in run() if one.server != UNSIGNED])


def test_the_page_shows_each_chart_in_words_too() -> None:
    """Whoever cannot see a picture is told what it would show."""
    part = plots_part(run())
    assert "![mlp: answers per second over connections](benchmarks/mlp-speed.svg)" in part
    assert part.count("](benchmarks/") == len(plots(run()))
