"""A report in a browser: Chromium clicks, filters, hovers, and sees what a reader would see."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from report_folders import EVIL, write_run, write_study

from surgeon.reports import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs chromium and chromedriver (apt install chromium-driver)",
)


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium for all tests of the module."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    base = tmp_path_factory.mktemp("report")
    return write_report([write_study(base)], [], base / "r.html")


@pytest.fixture
def page(browser, study):
    """The study's page, opened anew in a window of 1280 pixels; nothing went wrong on it."""
    return opened(browser, study)


def opened(browser, path, width=1280, height=900):
    browser.get("about:blank")
    mobile = width < 500
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile})  # fmt: skip
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    return browser


def script(page, code, *arguments):
    return page.execute_script(f"return {code}", *arguments)


def find(page, selector):
    return page.find_elements("css selector", selector)


def shown_cells(page):
    """The labels of the cells that are seen, in the order they lie on the page."""
    cells = "[...document.querySelectorAll('.cell:not([hidden]) .labels')]"
    return script(page, cells + ".map((l) => l.textContent.replace(/\\s+/g, ' ').trim())")


def choose(page, name, value):
    done = script(
        page,
        "[...document.querySelectorAll('.sorting .tool')].filter((t) => "
        "t.firstChild.textContent === arguments[0]).map((t) => { const s = t.querySelector("
        "'select'); s.value = arguments[1]; s.dispatchEvent(new Event('change')); return s.value; "
        "})[0]",
        name, value,
    )  # fmt: skip
    assert done == value


def press(page, *keys):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        ActionChains(page).send_keys(getattr(Keys, key, key)).perform()


def until(condition, seconds=10):
    """Whether something comes to be: what a browser does, it does in its own time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def focused(page):
    return script(page, "document.activeElement.innerText.replace(/\\s+/g, ' ')")


def assert_quiet(page):
    """No error on the console, and nothing asked of anyone but the page itself."""
    assert page.get_log("browser") == []
    messages = [json.loads(line["message"])["message"] for line in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages
             if m["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert asked, "the log saw the page itself"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1


def test_it_opens_quietly_and_shows_its_images(page):
    assert len(shown_cells(page)) == 8
    sizes = script(page, "[...document.querySelectorAll('img[data-i]')].map((i) => i.naturalWidth)")
    assert sizes == [8] * 18
    assert script(page, "getComputedStyle(document.querySelector('img')).imageRendering") == (
        "pixelated"
    )
    assert_quiet(page)


def test_the_meter_of_quiet_can_see_noise(browser, tmp_path):
    loud = tmp_path / "loud.html"
    loud.write_text("<html data-ready=yes><img src='http://127.0.0.1:9/x.png'>")
    with pytest.raises(AssertionError):
        assert_quiet(opened(browser, loud))


def test_scripts_that_are_not_ours_do_not_run(browser, tmp_path):
    study = write_report([write_study(tmp_path, evil=True)], [], tmp_path / "r.html")
    injected = study.read_text().replace("</main>", "<script>window.ran = 1</script></main>")
    study.write_text(injected)
    page = opened(browser, study)
    assert script(page, "window.ran") is None
    assert "Content Security Policy" in page.get_log("browser")[0]["message"]


def test_filters_and_sorting(page):
    choose(page, "part", "no norms")
    assert shown_cells(page) == [f"k {k} part no norms" for k in (0, 1, 2, 10)]
    assert find(page, ".count")[0].text == "4 of 8 cells"
    choose(page, "k", "2")
    assert len(shown_cells(page)) == 1
    choose(page, "status", "failed")
    assert shown_cells(page) == []
    find(page, ".reset")[0].click()
    assert len(shown_cells(page)) == 8
    choose(page, "sort by", "f:psnr")  # 40, 39 ... by cell; what failed comes last
    assert shown_cells(page)[0] == "k 10 part no norms"
    find(page, ".flip")[0].click()
    assert shown_cells(page)[0] == "k 0 part as it is"
    assert set(shown_cells(page)[-2:]) == {"k 1 part no norms", "k 2 part no norms"}
    choose(page, "group by", "part")
    heads = script(page, "[...document.querySelectorAll('.group')].map((g) => g.innerText)")
    assert heads == ["part: as it is", "part: no norms"]
    assert_quiet(page)


def test_findings_by_verdict(page):
    refuted = find(page, "button[data-verdict=refuted]")[0]
    refuted.click()
    seen = [f.get_attribute("data-verdict") for f in find(page, ".finding") if f.is_displayed()]
    assert seen == ["confirmed", "undecided", "not applicable"]
    assert refuted.get_attribute("aria-pressed") == "false"
    refuted.click()
    assert all(f.is_displayed() for f in find(page, ".finding"))


def test_many_studies_at_a_glance(browser, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    studies = [write_study(tmp_path / name) for name in "abc"]
    page = opened(browser, write_report(studies, [], tmp_path / "r.html"))
    rows = find(page, ".glance li")
    assert [len(row.find_elements("css selector", ".mark")) for row in rows] == [4, 4, 4]
    assert "packaged" in rows[0].text, "of studies with one title, the tier tells them apart"
    rows[1].find_element("css selector", "a").click()
    assert page.current_url.endswith("#f-s1")
    find(page, "button[data-verdict=confirmed]")[0].click()
    assert len([m for m in find(page, ".glance .mark") if m.is_displayed()]) == 9
    assert script(page, "document.querySelectorAll('.study[hidden]').length") == 0
    for verdict in ("refuted", "undecided", "not applicable"):
        find(page, f"button[data-verdict='{verdict}']")[0].click()
    assert not [row for row in find(page, ".glance li") if row.is_displayed()]
    assert script(page, "document.querySelectorAll('.study[hidden]').length") == 3
    assert_quiet(page)


def test_a_cell_opens_its_run(page):
    find(page, ".cell .open")[2].click()
    panel = find(page, "dialog")[0]
    assert "k 1, part as it is" in panel.text
    assert "38 dB" in panel.text
    assert 'name = "surgeon/2"' in panel.text
    assert "3 of 8" in panel.text
    image = find(page, "dialog .shot img")[-1]
    last = image.get_attribute("src")
    for n, said in ((0, "after 1"), (1, "after 10"), (2, "at the end")):
        page.execute_script(
            "const r = document.querySelector('.steps input'); r.value = arguments[0];"
            "r.dispatchEvent(new Event('input'))",
            n,
        )
        assert find(page, ".steps output")[0].text == said
        assert (image.get_attribute("src") == last) == (said == "at the end")
    find(page, "dialog .next")[0].click()
    assert "failed" not in find(page, "#panel-title")[0].text
    assert "found: b" in find(page, "dialog")[0].text
    assert_quiet(page)


def test_a_recipe_is_copied(page):
    page.execute_cdp_cmd("Browser.grantPermissions", {
        "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})  # fmt: skip
    find(page, ".cell .open")[0].click()
    find(page, "dialog .copy")[0].click()
    said = "document.querySelector('.copy').textContent"
    assert until(lambda: script(page, said) == "copied")
    assert "surgeon/0" in page.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], arguments[0])"
    )


def test_the_keyboard_reaches_everything(page):
    def on(number):
        here = "Number(document.activeElement.closest('.cell')?.dataset.n ?? -1)"
        return until(lambda: script(page, here) == number)

    press(page, "TAB")
    assert until(lambda: focused(page) == "To the results")
    page.execute_script("document.querySelector('.cell .open').focus()")
    press(page, "ARROW_RIGHT")
    assert on(1)
    assert script(page, "getComputedStyle(document.activeElement).outlineStyle") == "solid"
    columns = script(page, "getComputedStyle(document.querySelector('.sheet'))"
                           ".gridTemplateColumns.split(' ').length")  # fmt: skip
    press(page, "ARROW_LEFT", "ARROW_DOWN")
    assert on(columns)
    press(page, "ENTER")
    assert until(lambda: script(page, "document.querySelector('dialog').open"))
    press(page, "ARROW_RIGHT", "ARROW_LEFT", "ARROW_LEFT")
    assert until(lambda: f"{columns} of 8" in find(page, "dialog .bar")[0].text)
    press(page, "ESCAPE")
    assert until(lambda: not script(page, "document.querySelector('dialog').open"))
    assert on(columns - 1), "back where the panel had come to"
    assert_quiet(page)


def test_curves_are_read_by_mouse_and_by_keys_and_follow_the_filters(page):
    from selenium.webdriver import ActionChains

    draw, plot = find(page, ".chart .draw")[0], find(page, ".chart .u-over")[0]
    legend = "document.querySelector('.chart .legend').innerText.replace(/\\s+/g, ' ')"
    assert script(page, legend) == "as it is no norms"
    ActionChains(page).move_to_element_with_offset(plot, 5 - plot.size["width"] // 2, 0).perform()
    assert find(page, ".chart .where")[0].text == "k 0"
    assert script(page, legend) == "as it is 40 no norms 39"
    page.execute_script("arguments[0].focus()", draw)
    press(page, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert find(page, ".chart .where")[0].text == "k 10"
    assert script(page, legend) == "as it is 34 no norms 33"
    first = find(page, ".chart .legend button")[0]
    first.click()
    assert first.get_attribute("aria-pressed") == "false"
    first.click()
    assert first.get_attribute("aria-pressed") == "true"
    find(page, ".chart .mini")[0].click()
    choose(page, "part", "no norms")
    assert script(page, legend) == "no norms"
    assert_quiet(page)


def test_any_figure_is_drawn(page):
    find(page, "details.own summary")[0].click()
    assert until(lambda: len(find(page, "details.own .u-over")) == 1)
    assert_quiet(page)


def test_light_and_dark(page):
    def paper():
        return script(page, "getComputedStyle(document.body).backgroundColor")

    def system(scheme):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip

    system("light")
    light = paper()
    system("dark")
    dark = paper()
    assert light != dark
    find(page, "#theme")[0].click()
    assert paper() == light
    page.refresh()
    assert paper() == light, "the choice is kept"
    find(page, "#theme")[0].click()
    assert paper() == dark
    page.execute_script("localStorage.clear()")
    system("")


def luminance(text):
    values = [float(v) / 255 for v in text[text.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_said_can_be_read(page, theme):
    """Contrast of at least 4.5 to 1 (WCAG AA) of verdicts, captions and figures on their ground."""
    page.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    for selector in (".chip.confirmed", ".chip.refuted", ".chip.undecided", ".chip.not-applicable",
                     ".sentence", ".caption", ".figure .key", ".status.failed", "h1"):  # fmt: skip
        ink, ground = script(page, """(() => {
            const found = document.querySelector(arguments[0]);
            let under = found;
            while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)")
              under = under.parentElement;
            return [getComputedStyle(found).color, getComputedStyle(under).backgroundColor];
        })()""", selector)  # fmt: skip
        high, low = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (selector, ink, ground)


def test_on_a_phone(browser, study):
    page = opened(browser, study, 390, 844)
    wide = "document.documentElement.scrollWidth"
    assert script(page, wide) == 390
    summary, tools = find(page, ".sorting summary")[0], find(page, ".sorting .tools")[0]
    assert summary.is_displayed()
    assert not tools.is_displayed(), "the cells come first"
    summary.click()
    assert tools.is_displayed()
    assert script(page, wide) == 390
    summary.click()
    find(page, ".cell .open")[0].click()
    assert script(page, wide) == 390
    assert script(page, "document.querySelector('dialog').scrollWidth") <= 390
    small = script(page, "[...document.querySelectorAll('dialog .bar button')]"
                         ".map((b) => Math.min(b.offsetWidth, b.offsetHeight))")  # fmt: skip
    assert min(small) >= 32, "a thumb's size"
    assert_quiet(page)


def test_a_link_opens_a_cell(browser, study):
    page = opened(browser, study.with_name(study.name))
    browser.get("about:blank")
    browser.get(study.as_uri() + "#s0-2")
    assert "k 1, part as it is" in find(page, "#panel-title")[0].text


def test_odd_names_and_numbers_break_nothing(browser, tmp_path):
    names = ["__proto__", "constructor", "", "a.b", EVIL, "toString", "hasOwnProperty"]
    values = [None, 1e308, -1e308, 0, True, EVIL, 5e-324]
    runs = []
    for i, name in enumerate(names):
        figures = {name: dict(zip(names, values[i:] + values[:i], strict=True))}
        runs.append(write_run(tmp_path / str(i), figures, seed=i, probe=name or "x", model=name,
                              tables={name: [{name: EVIL}]}, notes=[name]))  # fmt: skip
    page = opened(browser, write_report([], runs, tmp_path / "r.html"))
    assert len(shown_cells(page)) == len(names)
    page.execute_script("""
        for (const details of document.querySelectorAll("details")) details.open = true;
        for (const select of document.querySelectorAll(".tools select"))
          for (const option of select.options) {
            select.value = option.value;
            select.dispatchEvent(new Event("change"));
          }
        for (const select of document.querySelectorAll(".sorting select")) {
          select.selectedIndex = 0;
          select.dispatchEvent(new Event("change"));
        }
        for (const cell of document.querySelectorAll(".open")) {
          cell.click();
          document.querySelector("dialog .close").click();
        }""")
    assert len(shown_cells(page)) == len(names)
    assert script(page, "document.querySelectorAll('script').length") == 4
    assert_quiet(page)
