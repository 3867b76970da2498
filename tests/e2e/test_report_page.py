"""The report page in a real browser: it opens from a file, sorts, filters, links to its runs, and asks nobody."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver (Debian: chromium chromium-driver)",
)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    from conftest import CommandLine

    folder = tmp_path_factory.mktemp("with space ü")
    reproven = CommandLine(folder / "results", folder)
    done = reproven("reproduce", "toy/mean", "tier=smoke")
    assert done.returncode == 0, done.stderr
    return folder / "results" / "report" / "index.html"


@pytest.fixture
def browser(page, tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def texts(browser, css):
    from selenium.webdriver.common.by import By

    return [e.text for e in browser.find_elements(By.CSS_SELECTOR, css) if e.is_displayed()]


def one(browser, css):
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, css)


def test_it_opens_without_an_error_or_a_request(browser, page):
    assert "what held" in browser.title
    assert any(t.startswith("toy") for t in texts(browser, "#front tbody tr"))
    assert browser.get_log("browser") == []
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = [
        p["request"]["url"] for p in sent if p["documentURL"].startswith("file:")
    ]  # not the browser's new tab
    assert any(url.startswith("file:") for url in asked)
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert page.stat().st_size < 10_000_000


def test_a_cell_links_to_its_run_in_a_part_that_was_closed(browser):
    link = one(browser, "table.verdicts tbody td:last-child a")
    run = link.get_attribute("href").partition("#run-")[2]
    assert run
    assert not one(browser, f"#run-{run}").is_displayed()
    link.click()
    assert one(browser, f"#run-{run}").is_displayed()
    file = one(browser, f"#run-{run} a").get_attribute("href")
    from urllib.parse import unquote

    assert Path(unquote(file.removeprefix("file://"))).is_file()


def test_it_filters_by_words_and_by_verdict(browser):
    everything = texts(browser, "tr.row")
    assert len(everything) >= 1
    one(browser, "#find").send_keys("no such thing")
    assert texts(browser, "tr.row") == []
    assert one(browser, "#count").text.startswith("0 of")
    one(browser, "#find").clear()
    one(browser, "#find").send_keys("adding ONE")
    assert len(texts(browser, "tr.row")) == 1
    one(browser, 'input.pick[value="holds"]').click()
    assert texts(browser, "tr.row") == []


def test_it_sorts_by_keyboard(browser):
    from selenium.webdriver.common.keys import Keys

    for details in texts(browser, "summary"):
        assert details
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    seed = next(
        i for i, t in enumerate(texts(browser, "[id^=runs-] thead th"), start=1) if t.startswith("seed")
    )
    button = one(browser, f"[id^=runs-] thead th:nth-child({seed}) button")
    button.send_keys(Keys.ENTER)
    up = texts(browser, f"[id^=runs-] tbody td:nth-child({seed})")
    assert one(browser, f"[id^=runs-] thead th:nth-child({seed})").get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert texts(browser, f"[id^=runs-] tbody td:nth-child({seed})") == up[::-1]
    assert up == sorted(up)


def test_verdicts_are_told_by_word_and_mark_too(browser):
    assert all(len(t.split()) == 2 for t in texts(browser, "tr.row .v"))
