"""What people see of the digits study in a real browser: the guarded dashboard and the report.

Skipped where no Chromium is installed. Screenshots go to a folder of their own, or to the one that
IGKD_SCREENSHOTS names: those of docs/images are made so.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.end_to_end.user import ROOT, Answer, Folder

SIZES = {"1280": (1280, 900), "390": (390, 844)}
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 60_000  # ms until what must come is missed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium of this system."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium is installed here ({', '.join(NAMES)}); .ci/run installs one")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of what was seen are written."""
    return Path(os.environ.get("IGKD_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))


@dataclass
class Seen:
    """A page, and what it complained of or asked the network for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, browser: Browser, size: str = "1280") -> "Seen":
        width, height = SIZES[size]
        seen = cls(browser.new_page(viewport={"width": width, "height": height}))
        seen.page.set_default_timeout(PATIENCE)
        seen.page.on("console", seen._complain)
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        return seen

    def _complain(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def fits(self) -> bool:
        """Whether nothing has to be scrolled to from the side."""
        return bool(
            self.page.evaluate(
                "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            )
        )


def shown(page: Page, text: str) -> None:
    """Wait until this text can be seen."""
    page.get_by_text(text).filter(visible=True).first.wait_for()


@dataclass(frozen=True)
class Served:
    """A dashboard that asks for a token."""

    url: str
    token: str


@pytest.fixture(scope="module")
def served(
    folder: Folder, first: Answer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """`igkd dashboard` on the finished digits study."""
    file = tmp_path_factory.mktemp("token") / "token"
    folder.igkd("dashboard", "--new-token", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    command = [sys.executable, "-m", "igkd_search", "dashboard", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--token-file", str(file)],
        cwd=folder.path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url), url
    yield Served(url, file.read_text().strip())
    process.terminate()
    assert process.wait() == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def dashboard(browser: Browser, served: Served) -> Iterator[Seen]:
    """A page that has typed the token."""
    seen = Seen.of(browser)
    seen.page.goto(served.url)
    seen.page.fill("input[type=password]", served.token)
    seen.page.click("button")
    shown(seen.page, "digits")
    seen.errors.clear()  # that the first answer was 401 is one
    yield seen
    seen.page.close()


@pytest.mark.parametrize("typed", [None, "0" * 43])
def test_without_the_token_nothing_is_shown(
    browser: Browser, served: Served, typed: str | None
) -> None:
    page = browser.new_page()
    answer = page.goto(served.url)
    assert answer is not None and answer.status == 401
    if typed is not None:
        page.fill("input[type=password]", typed)
        with page.expect_navigation() as navigation:
            page.click("button")
        assert navigation.value is not None and navigation.value.status == 401
    assert page.request.get(f"{served.url}api/studies").status == 401
    assert "digits" not in page.inner_text("body")
    page.close()


def test_with_the_token_trials_curves_note_and_plots_are_there(
    dashboard: Seen, served: Served, screenshots: Path
) -> None:
    page = dashboard.page
    page.goto(f"{served.url}dashboard/studies/1")
    for name in ("History", "Intermediate values", "Best Trial"):
        shown(page, name)
    plots = page.locator(".js-plotly-plot .main-svg")
    plots.first.wait_for()
    shown(page, "Accuracy against latency")
    shown(page, "Epochs that pruning saved")
    page.screenshot(path=screenshots / "dashboard-1280.png", full_page=True)
    page.goto(f"{served.url}dashboard/studies/1/note")
    shown(page, "igkd export digits -o best.toml")
    page.goto(f"{served.url}dashboard/studies/1/trials")
    shown(page, "Trial 19")
    assert dashboard.errors == []


def test_a_trial_shows_its_pictures(
    dashboard: Seen, served: Served, folder: Folder, screenshots: Path
) -> None:
    best = folder.igkd_json("best", "digits")["best"]["number"]
    page = dashboard.page
    page.goto(f"{served.url}dashboard/studies/1/trials?numbers={best}")
    pictures = page.locator("img[src*='/artifacts/']")
    pictures.nth(2).wait_for()
    for index in range(3):
        picture = pictures.nth(index)
        picture.scroll_into_view_if_needed()
        handle = picture.element_handle()
        page.wait_for_function("image => image.complete && image.naturalWidth > 300", arg=handle)
    page.screenshot(path=screenshots / "dashboard-trial-1280.png", full_page=True)
    assert dashboard.errors == []


def test_a_phone_shows_the_dashboard_too(
    browser: Browser, served: Served, dashboard: Seen, screenshots: Path
) -> None:
    page = dashboard.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{served.url}dashboard/studies/1")
    shown(page, "History")
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.screenshot(path=screenshots / "dashboard-390.png")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_nothing_can_be_changed(dashboard: Seen, served: Served, folder: Folder) -> None:
    # from within the page, as its own buttons ask
    ask = "([method, url]) => fetch(url, {method, body: '{}'}).then(answer => answer.status)"
    for method, path in (
        ("DELETE", "api/studies/1"),
        ("POST", "api/studies"),
        ("PUT", "api/studies/1/note"),
    ):
        assert dashboard.page.evaluate(ask, [method, served.url + path]) == 403, path
    dashboard.errors.clear()  # the browser tells of the refusals
    assert folder.igkd_json("status", "digits")["budget"]["done"] == 20


@pytest.fixture(scope="module")
def report(folder: Folder, first: Answer) -> Path:
    """`igkd report digits`: its folder."""
    folder.igkd("report", "digits", "-o", "report")
    return folder.path / "report"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_report_opens_offline_and_shows_what_best_says(
    browser: Browser, folder: Folder, report: Path, screenshots: Path, size: str, scheme: Any
) -> None:
    seen = Seen.of(browser, size)
    seen.page.emulate_media(color_scheme=scheme)
    seen.page.goto((report / "index.html").as_uri())
    seen.page.locator(".js-plotly-plot .main-svg").first.wait_for()
    name = f"report-{size}.png" if scheme == "light" else f"report-{scheme}-{size}.png"
    seen.page.screenshot(path=screenshots / name)
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert seen.fits()
    best = folder.igkd_json("best", "digits")
    student, teacher = best["student"], best["teacher"]
    top = first_screen(seen.page)
    latency, slower = (each["latency"]["onnxruntime"]["median_ms"] for each in (student, teacher))
    for figure in (
        f"{student['accuracy']:.2%}",
        f"{student['parameters']:,}",
        f"{student['compression']:.2f}",
        f"{slower / latency:.2f}",
        "igkd export digits -o best.toml",
    ):
        assert figure in top, figure
    seen.page.close()


def first_screen(page: Page) -> str:
    """The text of what stands first: the answer, up to the second heading of its level."""
    return page.locator("header").first.inner_text()


def test_the_report_is_small_and_its_json_is_that_of_best(folder: Folder, report: Path) -> None:
    assert (report / "index.html").stat().st_size < 5_000_000
    written = json.loads((report / "report.json").read_text())
    assert written["summary"]["best"] == folder.igkd_json("best", "digits")["best"]
    assert "igkd train best.toml" in (report / "report.md").read_text()
