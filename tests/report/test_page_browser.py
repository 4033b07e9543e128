"""The pages in a real browser: Chromium, without a window and without a network."""

import importlib
import json
import shutil
import sys

import pytest
from comparisons import full
from experiments.conftest import EXPERIMENTS, load

from hybridgen.cli import command
from hybridgen.report import write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
Keys = webdriver.Keys
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
)
VIEWS = [(width, scheme) for width in (390, 1400) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def driver():
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(executable_path=DRIVER)) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(full("</script><script>alert('out')</script>"), path)
    return path.as_uri()


@pytest.fixture(scope="module")
def lecture(tmp_path_factory):
    """The page of three statements: with an animation, with links, and long titles."""
    out, script = tmp_path_factory.mktemp("lecture") / "run", load("lecture")
    argv = ["--effort", "0.01", "--statements", "[play,divergences,closing]", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXPERIMENTS), *sys.path])
        assert command(script.main, script.Lecture, argv) == 0
    return (out / "lecture.html").as_uri()


def show(driver, address, width, scheme="light"):
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(address)


def requests(driver):
    """Addresses of all requests since the page was asked for, but for data in the page itself."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in sent if not url.startswith("data:")]


def visible(driver, selector):
    """How many elements are there and take up room."""
    return driver.execute_script(
        """return [...document.querySelectorAll(arguments[0])].filter(
          e => e.getClientRects().length && e.checkVisibility()).length""",
        selector,
    )


@pytest.mark.parametrize("page", ["address", "lecture"])
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_a_page_opens_without_errors_requests_or_sideways_scrolling(
    driver, request, page, width, scheme
):
    address = request.getfixturevalue(page)
    show(driver, address, width, scheme)
    assert driver.get_log("browser") == []
    assert requests(driver) == [address]
    size = driver.execute_script(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert max(size[:2]) <= size[2] == width
    back = driver.execute_script(
        "return getComputedStyle(document.documentElement).backgroundColor"
    )
    shade = sum(int(part) for part in back.removeprefix("rgb(").removesuffix(")").split(","))
    assert (shade < 150) == (scheme == "dark")
    assert visible(driver, "img") == driver.execute_script(
        "return [...document.images].filter(i => i.complete && i.naturalWidth > 0).length"
    )


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize(
    ("page", "charts", "count"), [("address", ".chart", 2), ("lecture", ".panels", 7)]
)
def test_texts_in_the_charts_stay_inside_and_apart(driver, request, page, charts, count, width):
    show(driver, request.getfixturevalue(page), width)
    boxes = driver.execute_script(
        """return [...document.querySelectorAll(`${arguments[0]} svg`)]
          .filter(chart => chart.getClientRects().length && chart.checkVisibility())
          .map(chart => [...chart.querySelectorAll("text")].filter(t => !t.closest(".frame"))
            .map(t => t.getBoundingClientRect().toJSON()))""",
        charts,
    )
    assert len(boxes) == count
    for group in boxes:
        for i, a in enumerate(group):
            assert a["left"] >= 0
            assert a["right"] <= width
            assert a["height"] >= 9
            for b in group[:i]:
                across = min(a["right"], b["right"]) - max(a["left"], b["left"])
                down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
                assert min(across, down) < 4  # boxes are larger than letters


@pytest.mark.parametrize("width", [390, 1400])
def test_further_figures_open_without_sideways_scrolling(driver, address, width):
    show(driver, address, width)
    assert visible(driver, ".charts svg[aria-label^=KID]") == 0
    for summary in driver.find_elements("css selector", "details:not(details *) > summary"):
        driver.execute_script("arguments[0].click()", summary)
    assert visible(driver, ".charts svg[aria-label^=KID]") == 2
    size = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1] == width
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 1400])
def test_pointing_beside_a_mark_meets_its_figures(driver, address, width):
    show(driver, address, width)
    facts = driver.execute_script(
        """const mark = [...document.querySelectorAll("#front .point[aria-label^='guided'] use")]
          .find(e => e.getClientRects().length);
        mark.scrollIntoView({block: "center", behavior: "instant"});
        const box = mark.getBoundingClientRect();
        const place = [box.x + box.width / 2 + 5, box.y + box.height / 2 + 5];
        return document.elementFromPoint(...place).closest(".point").firstChild.textContent"""
    )
    assert facts.splitlines() == [
        "guided, 8 calls, scale 1",
        "Fr\u00e9chet distance 12.0 (11.0 to 13.0)",
        "2.00 ms (1.98 ms to 2.02 ms) a sample",
        "calls: 8 denoiser, 8 discriminator forward, 8 discriminator backward",
    ]


def test_a_mark_is_reached_by_keyboard_and_ringed(driver, address):
    show(driver, address, 1400)
    for _ in range(40):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        if "point" in (driver.switch_to.active_element.get_attribute("class") or ""):
            break
    ring = driver.execute_script(
        "return getComputedStyle(document.activeElement.querySelector('circle')).stroke"
    )
    assert ring.startswith("rgb")


def test_a_column_sorts_both_ways_and_keeps_what_is_no_number_last(driver, address):
    show(driver, address, 1400)
    column = """return [...document.querySelectorAll("#quality tbody.rows tr")].map(
      r => r.cells[1].innerText.split("\\n")[0])"""
    buttons = "return document.querySelectorAll('#quality thead th button').length > 1"
    # On a busy machine a page is shown before its script has run.
    wait = importlib.import_module("selenium.webdriver.support.ui").WebDriverWait
    wait(driver, 20).until(lambda opened: opened.execute_script(buttons))
    click = "document.querySelectorAll('#quality thead th button')[1].click()"
    driver.execute_script(click)
    up = driver.execute_script(column)
    assert up[:6] == ["12.0", "14.0", "15.0", "20.0", "30.0", "50.0"]
    driver.execute_script(click)
    down = driver.execute_script(column)
    assert down == up[5::-1] + up[6:]


def test_the_page_is_whole_without_script(driver, address):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(driver, address, 390)
        for selector, least in (
            ("#front .chart svg", 1),
            ("#front .point", 6),
            ("#calls .point", 3),
            ("#samples img", 3),
            ("#quality tbody.rows tr", 8),
            ("#changes tbody.rows tr", 2),
            ("details", 10),
        ):
            assert visible(driver, selector) >= least, selector
        assert visible(driver, "button") == 0
        assert "Guided diffusion" in driver.find_element("tag name", "header").text
        assert driver.get_log("browser") == []
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
