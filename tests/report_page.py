"""What stands in a report's page, read as a browser would read it, and checked against the runs' own files."""

import json
import re
import shutil
import statistics
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

SOURCES = ("paper", "row of the paper", "row", "run", "network", "attempts", "runs")
# Texts of a plot that are written over each other, stand outside it, or must be scrolled to.
COVERED = """() => [...document.querySelectorAll('.plot')].flatMap(plot => {
  const around = plot.getBoundingClientRect();
  const texts = [...plot.querySelectorAll('.legendtext, .textpoint, .xtick, .ytick, text[class*=title]')]
    .filter(text => text.textContent).map(text => [text.textContent, text.getBoundingClientRect()]);
  const before = (a, b) => a.right <= b.left + 1 || a.bottom <= b.top + 1;
  const meet = (a, b) => !before(a, b) && !before(b, a);
  const inside = a => a.left >= around.left && a.right <= around.right && a.bottom <= around.bottom;
  return [
    ...texts.flatMap(([a, one], i) => texts.slice(i + 1).filter(([, other]) => meet(one, other)).map(([b]) => [a, b])),
    ...texts.filter(([, rect]) => !inside(rect)).map(([a]) => [a, 'outside']),
    ...[...plot.querySelectorAll('.legend .scrollbar')].filter(bar => bar.getBBox().height).map(() => ['scrollbar']),
  ].map(pair => [plot.id, ...pair]);
})"""


class Cells(HTMLParser):
    """{table's id: rows of (text, what data-from says)}."""

    def __init__(self, page: str):
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self._cell: list | None = None
        self.feed(page[: page.index("</main>")])

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag == "td":
            self._cell = ["", dict(attrs).get("data-from", "")]

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[0] += data

    def handle_endtag(self, tag):
        if tag == "td":
            self._rows[-1].append(tuple(self._cell))
            self._cell = None


def check_numbers(folder: Path) -> int:
    """Every result in the page is that of the summaries it names; every other number says where it is from.

    Returns:
        How many results were checked.
    """
    tables = Cells((folder / "report.html").read_text()).tables
    checked = 0
    for name, rows in tables.items():
        for text, source in (cell for row in rows for cell in row):
            match = re.fullmatch(r"mean (\w+) of (.+)", source)
            if not match:
                if re.search(r"\d", text) and name not in ("differences", "shared", "versions"):
                    assert source in SOURCES, (name, text)
                continue
            values = [json.loads((folder / run / "summary.json").read_text())[match[1]] for run in match[2].split()]
            mean, *deviation = (float(part.replace(",", "")) for part in text.split(" ± "))
            digits = len(text.split(" ± ")[0].partition(".")[2])
            assert abs(mean - sum(values) / len(values)) <= 0.5001 * 10**-digits, (name, text)
            if len(values) > 1:
                assert abs(deviation[0] - statistics.stdev(values)) <= 0.5001 * 10**-digits, (name, text)
            else:
                assert not deviation
            checked += 1
    return checked


@contextmanager
def browser():
    """Chromium without a window; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs a Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def check_in_browser(folder: Path) -> None:
    """No network, no word on the console, every plot drawn with the summaries' numbers; no page wider than a phone."""
    with browser() as chromium:
        for width, height, scheme in ((1200, 900, "light"), (390, 844, "dark")):
            context = chromium.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
            )
            context.set_default_timeout(120_000)  # milliseconds; a busy machine draws slowly
            page = context.new_page()
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on(
                "request",
                lambda request, said=said: request.url.startswith(("file:", "data:")) or said.append(request.url),
            )
            page.goto((folder / "report.html").resolve().as_uri())
            plots = page.locator(".plot")
            page.wait_for_function("[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))")
            assert plots.count() >= 3 and page.locator("table").count() >= 4
            for i in range(plots.count()):
                assert plots.nth(i).locator(".trace, .scatterlayer .points").count() > 0
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(COVERED) == []
            seeds = "document.getElementById('by-row').data.filter(t => Array.isArray(t.hovertemplate))"
            dots = page.evaluate(f"{seeds}.flatMap(t => Array.from(t.x))")
            summaries = [json.loads(file.read_text())["top1"] for file in folder.glob("*/summary.json")]
            assert sorted(dots) == sorted(summaries)
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) < 384) == (scheme == "dark")
            assert not said, said
            context.close()
