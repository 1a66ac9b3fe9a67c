"""The page in a browser: Debian's chromium, driven by Playwright."""

import shutil

import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from served import MARKUP, served, small_index

from embedrl.service.models import ServedModels

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    folder = tmp_path_factory.mktemp("page")
    Image.new("RGB", (60, 40), "red").save(folder / "query.png")
    with served(ServedModels(small_index(folder))) as url, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 900})
        shown.set_default_timeout(60_000)
        errors = []
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("console", lambda message: message.type == "error" and errors.append(message.text))
        shown.goto(url)
        shown.folder, shown.errors = folder, errors
        yield shown
        browser.close()


def search(page):
    page.click("#go")
    expect(page.locator("#go")).to_be_enabled(timeout=60_000)
    return page.inner_text("#status")


@pytest.mark.slow
def test_a_person_searches(page):
    expect(page.locator("#about")).to_contain_text("6 items, 6 with T-CoTs", timeout=60_000)
    page.fill("#text", "find the picture : a red star .")
    assert "6 items in" in search(page)
    assert page.locator(".card").count() == 6
    assert page.get_by_text(MARKUP).count() == 1
    assert page.locator("img[src=x]").count() == 0
    scores = [float(one) for one in page.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert page.locator(".box").count() > 0  # the boxes of the T-CoTs, over the thumbnails
    assert page.locator("#query").is_hidden()

    page.check('input[value="tcot"]')  # searches again
    page.wait_for_selector("#query:not([hidden])")
    expect(page.locator("#go")).to_be_enabled(timeout=60_000)
    assert page.locator("#tcot").inner_text().strip()
    assert page.evaluate("document.getElementById('drawn').naturalWidth") > 0
    assert all("raw" in one for one in page.locator(".moved").all_inner_texts())

    page.set_input_files("#file", str(page.folder / "query.png"))
    page.wait_for_selector("#preview:not([hidden])")
    page.check('input[value="raw"]')
    page.click("summary")
    page.fill("#where", "year >= 2004")
    assert "2 items in" in search(page)

    page.fill("#where", "year >")
    assert "year >" in search(page)
    assert "bad" in page.get_attribute("#status", "class")
    page.errors[:] = [one for one in page.errors if "400" not in one]  # the browser tells of that answer itself
    assert not page.errors
