"""Pages in a real browser: they show the figures of the JSON, and it has nothing to complain of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ghostify.analysis import analyze, draw_for_page
from ghostify.api import preview
from ghostify.deploy.times import Benchmark, NetworkTime, PartTime
from ghostify.reports import Report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


def browse(browser: str, *options: str) -> subprocess.CompletedProcess[str]:
    # As root in a container it has no sandbox, and small /dev/shm.
    plain = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    return subprocess.run(
        [browser, *plain, "--enable-logging=stderr", "--hide-scrollbars", *options],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


class Values(HTMLParser):
    """The exact numbers that a page keeps."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[float] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        value = dict(attrs).get("value")
        if tag == "data" and value is not None:
            self.found.append(float(value))


@pytest.fixture(scope="module")
def report() -> Report:
    return preview("resnet20-cifar", mode="c-ghost", s=2, keep="layer1.0")


def test_the_figures_are_those_of_the_json(browser: str, report: Report, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(report.to_html(), encoding="utf-8")
    done = browse(browser, "--dump-dom", (tmp_path / "page.html").as_uri())
    said = json.loads(report.to_json())
    wanted = [
        said[place][key] for key in ("macs", "params", "acts")
        for place in ("ratios", "before", "after")
    ]  # fmt: skip
    assert Values(done.stdout).found == wanted
    assert done.stdout.count('class="bar"') == 2 * len(said["layers"])
    assert "CONSOLE" not in done.stderr


def test_names_that_are_markup_stay_text(browser: str, report: Report, tmp_path: Path) -> None:
    data = report.to_dict()
    data["model"] = "<script>document.title='owned'</script>"
    data["layers"][0]["name"] = "</title><img src=x onerror=\"document.title='owned'\">"
    (tmp_path / "page.html").write_text(Report.from_dict(data).to_html(), encoding="utf-8")
    done = browse(browser, "--dump-dom", (tmp_path / "page.html").as_uri())
    assert "<title>owned" not in done.stdout and "<img" not in done.stdout
    assert "CONSOLE" not in done.stderr


def test_pages_of_every_kind_are_drawn_without_complaint(
    browser: str, small_net, write_images, tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", {"a": 3}, (32, 32))
    found = analyze(small_net, [images / "a"], input_size=(3, 32, 32))
    drawn = draw_for_page(found, small_net, [images / "a"], input_size=(3, 32, 32))
    rows = tuple(
        NetworkTime(name, "eager", 1, 1, "", ms, 0.1, ms / 2, ms / 2, ms / 2, 5)
        for name, ms in (("net", 2.0), ("net, converted", 1.5))
    )
    parts = tuple(
        PartTime(name, "net, converted", "eager", 1, 1, 1.0, 1.2, 1.2, 1.1, 1.3, place)
        for place, name in enumerate(("a", "b"))
    )
    benchmark = Benchmark(rows, "3x32x32", "CPU time", parts=parts)
    pages = {"analysis": found.to_html(drawn), "benchmark": benchmark.to_html()}
    for name, text in pages.items():
        file = tmp_path / f"{name}.html"
        file.write_text(text, encoding="utf-8")
        done = browse(browser, "--dump-dom", file.as_uri())
        assert "<h1>" in done.stdout and "CONSOLE" not in done.stderr


@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_is_wider_than_the_window(
    browser: str, report: Report, tmp_path: Path, width: int
) -> None:
    # Its own policy lets no script run, not even this one, so it is measured without the policy.
    page = re.sub(r"<meta http-equiv[^>]*>", "", report.to_html())
    script = "document.title = document.documentElement.scrollWidth - innerWidth"
    page = page.replace("</body>", f"<script>{script}</script></body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    uri = (tmp_path / "page.html").as_uri()
    done = browse(browser, f"--window-size={width},800", "--dump-dom", uri)
    (excess,) = re.findall(r"<title>(-?\d+)</title>", done.stdout)
    assert int(excess) <= 0


@pytest.mark.parametrize(("scheme", "is_dark"), [(1, False), (0, True)])
def test_it_is_light_or_dark_as_the_reader_likes(
    browser: str, report: Report, tmp_path: Path, scheme: int, is_dark: bool
) -> None:
    (tmp_path / "page.html").write_text(report.to_html(), encoding="utf-8")
    shot = tmp_path / "shot.png"
    browse(
        browser, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=500,500",
        f"--screenshot={shot}", (tmp_path / "page.html").as_uri(),
    )  # fmt: skip
    with Image.open(shot) as picture:
        corner = picture.convert("L").getpixel((3, 3))
    assert (corner < 60) is is_dark  # type: ignore[operator]
