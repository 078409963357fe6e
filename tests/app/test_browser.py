"""The FiftyOne App in a browser, as a person sees it: search pages, and see on them where they matched.

The App's server is a process of its own, which learns of the index from the database alone. Screenshots are kept in
``.demo/app``, to be looked at.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import psutil
import pytest
from jina_embeddings_v4.cli.private_fiftyone import copy_source
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.rendering import draw_with_boxes
from jina_embeddings_v4.integration.query_labels import MATCH, add_match_field, show_by_default
from PIL import Image
from playwright.sync_api import expect, sync_playwright

pytestmark = pytest.mark.app

MODEL = "jina-embeddings-v4-demo"
HEADLINE = "Falcon"
QUERY = f"a page headed {HEADLINE}"
SCREENSHOTS = Path(__file__).parents[2] / ".demo" / "app"
SECONDS = 1000  # of Playwright's, which are thousandths


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A dataset of pages with an index, and the boxes of their headlines by path."""
    folder = tmp_path_factory.mktemp("pages")
    dataset, samples, boxes = fo.Dataset("pages", persistent=True), [], {}
    for i, document in enumerate(documents("test", 20_000, 20_030)):
        path = str(folder / f"{i}.png")
        image, places = draw_with_boxes(document, i)
        image.save(path)
        boxes[path] = places.get(("headline", document.headline)), image.size
        place = {"document": f"{i // 3}.pdf", "page": i % 3 + 1, "pages": 3}
        text = f"This page says {document.headline or 'nothing'}"
        samples.append(fo.Sample(filepath=path, headline=document.headline or "none", text=text, **place))
    dataset.add_samples(samples)
    fob.compute_similarity(
        dataset, backend="late-interaction", model=MODEL, brain_key="pages", text_field="text", num_workers=0
    )
    # As load_documents() does.
    add_match_field(dataset)
    show_by_default(dataset, ("document", "page", MATCH))
    yield dataset, boxes
    dataset.delete_brain_run("pages")
    dataset.delete()


@pytest.fixture(scope="module")
def server(pages):
    """The address of the App on that dataset."""
    copy_source(Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / "jina_embeddings_v4")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fiftyone = Path(sys.executable).parent / "fiftyone"
    command = [fiftyone, "app", "launch", pages[0].name, "--remote", "--port", str(port), "--wait", "-1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}/datasets/{pages[0].name}"
    family = [*psutil.Process(process.pid).children(recursive=True), process]
    for member in family:
        member.kill()
    process.wait()


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "These tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The App, with the headlines of pages shown on them."""
    wait_for(server)
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(30 * SECONDS)
    page.goto(server)
    expect(page.locator('[data-cy="looker"]').first).to_be_visible(timeout=60 * SECONDS)
    dismiss = page.get_by_role("button", name="Dismiss")
    if dismiss.count():
        dismiss.first.click()
    page.locator('[data-cy="checkbox-headline"]').click()
    yield page
    page.close()


def wait_for(url):
    for _ in range(60):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(1)
    raise TimeoutError(url)


def shot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def expect_right_pages_first(page, dataset):
    right = len(dataset.match(fo.ViewField("headline") == HEADLINE))
    assert right > 1
    tiles = page.locator('[data-cy="looker"]')
    for i in range(right):
        expect(tiles.nth(i)).to_contain_text(HEADLINE, timeout=30 * SECONDS)


def test_the_apps_own_search_box(page, pages):
    page.locator('[data-cy="action-sort-by-similarity"]').first.click()
    box = page.get_by_placeholder("Type anything!")
    box.fill(QUERY)
    box.press("Enter")
    # By force: the row that it is in can be dragged, and its way of saying so passes for being disabled.
    page.locator('button[aria-label="Show results"]').first.click(force=True)

    expect(page.get_by_text("25 samples")).to_be_visible()
    expect_right_pages_first(page, pages[0])
    shot(page, "search_box")


def test_the_panel_searches_opens_a_page_and_shows_its_document(page, pages):
    dataset, boxes = pages
    page.get_by_role("button", name="New panel").last.click()
    page.locator('[data-cy="new-panel-option-page_search"]').click()
    query = page.get_by_placeholder("What to look for")
    query.fill(QUERY)
    query.press("Enter")
    expect(page.get_by_text("25 of 30 pages")).to_be_visible(timeout=120 * SECONDS)
    path = first_path(dataset)
    found = dataset[path]
    title = f"{found.document} · page {found.page} of 3"
    expect(page.get_by_alt_text(title)).to_be_visible()
    expect(page.get_by_text("This page says").first).to_be_visible()
    expect_right_pages_first(page, dataset)
    shot(page, "panel")

    page.get_by_alt_text(title).click()
    expect_heatmap(page, boxes, "panel_opened", path)

    page.get_by_role("button", name="Show the whole document").first.click()
    expect(page.get_by_text("3 samples")).to_be_visible()
    for i in range(3):
        expect(page.locator('[data-cy="looker"]').nth(i)).to_contain_text(f"{found.document}{i + 1}")
    shot(page, "panel_document")

    # The next search is not among the document's pages.
    query.fill("a bar chart")
    query.press("Enter")
    expect(page.get_by_text("“a bar chart”")).to_be_visible(timeout=120 * SECONDS)
    expect(page.get_by_text("25 of 30 pages")).to_be_visible()


def test_search_pages_and_see_where_they_matched(page, pages):
    dataset, boxes = pages
    page.keyboard.press("`")
    page.get_by_placeholder("Search operations by name...").fill("Search pages")
    page.keyboard.press("Enter")
    page.locator("[role=presentation] input[type=string]").first.fill(QUERY)
    page.get_by_role("button", name="Execute").first.click()
    expect(page.get_by_text("Found 25 pages")).to_be_visible(timeout=120 * SECONDS)
    page.get_by_role("button", name="Done").click()
    expect_right_pages_first(page, dataset)
    shot(page, "search_pages")

    # Without a tick by the person.
    expect(page.locator('[data-cy="checkbox-document"] input')).to_be_checked()
    expect(page.locator('[data-cy="checkbox-page"] input')).to_be_checked()
    page.locator('[data-cy="looker"]').first.click()
    expect_heatmap(page, boxes, "heatmap", first_path(dataset))


def first_path(dataset):
    dataset.reload()
    return dataset.sort_by_similarity(QUERY, k=1, brain_key="pages").first().filepath


def expect_heatmap(page, boxes, name, path):
    """Checks that the page that is open shows heat where its headline is, by the page with its heatmap and without."""
    canvas = page.locator('[data-cy="modal"] canvas').first
    expect(canvas).to_be_visible()
    toggle = page.locator('[data-cy="modal"] [data-cy="checkbox-match"]')
    expect(toggle.locator("input")).to_be_checked(timeout=30 * SECONDS)
    pictures = {}
    for _ in range(2):
        checked = toggle.locator("input").is_checked()
        page.wait_for_timeout(3 * SECONDS)
        pictures[checked] = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"), dtype=float)
        if checked:
            shot(page, name)
        toggle.click()
        page.mouse.move(0, 0)
    # The App's server would open it again for the next test.
    page.mouse.click(10, 500)
    expect(page.locator('[data-cy="modal"]')).to_be_hidden()

    box, size = boxes[path]
    heat = np.abs(pictures[True] - pictures[False]).sum(axis=2)
    inside = within(heat.shape, size, box)
    assert heat[inside].mean() > 3 * heat[~inside & within(heat.shape, size, (0, 0, *size))].mean()
    assert heat[inside].max() == pytest.approx(heat.max(), rel=0.2)


def within(canvas, size, box):
    """The pixels of a canvas, in which an image is fitted and centred, that are in a box of the image."""
    height, width = canvas
    scale = min(width / size[0], height / size[1])
    left, top = (width - scale * size[0]) / 2, (height - scale * size[1]) / 2
    x, y = np.arange(width), np.arange(height)[:, None]
    x0, y0, x1, y1 = (scale * side for side in box)
    return (x >= left + x0) & (x < left + x1) & (y >= top + y0) & (y < top + y1)
