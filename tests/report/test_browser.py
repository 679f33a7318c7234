"""The page in a real browser: Chromium without a window, driven by selenium; skipped where either is missing."""

import shutil

import pytest

from rlx.report.files import render_page
from tests.report.figure.test_figures import NAMES

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SIZES = {"phone": 390, "tablet": 820, "desktop": 1280}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    for flag in (*flags.split(), "--disable-component-update", "--disable-sync"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, ordinary, hostile):
    root = tmp_path_factory.mktemp("pages")
    for name, comparison in (("ordinary", ordinary), ("hostile", hostile)):
        (root / f"{name}.html").write_text(render_page(comparison, version="1.2.3"), encoding="utf-8")
    return root


def show(browser, pages, name="ordinary", *, size="desktop", theme="light"):
    metrics = {"width": SIZES[size], "height": 900, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    browser.get(f"file://{pages}/{name}.html")
    return browser


def ask(browser, code, *arguments):
    return browser.execute_script(f"return {code}", *arguments)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["ordinary", "hostile"])
def test_no_error_and_nothing_wider_than_the_screen(browser, pages, name, size):
    show(browser, pages, name, size=size)
    assert browser.get_log("browser") == []
    assert ask(browser, "document.documentElement.scrollWidth") <= SIZES[size]


@pytest.mark.parametrize("size", SIZES)
def test_every_figure_is_seen_in_its_one_drawing(browser, pages, size):
    show(browser, pages, size=size)
    seen = ask(
        browser,
        "[...document.querySelectorAll('figure')].map(f => [f.id, [...f.querySelectorAll('.plot > svg')]"
        ".map(s => s.getBoundingClientRect()).filter(r => r.width > 200 && r.height > 60).length])",
    )
    assert {name.removeprefix("figure-"): count for name, count in seen} == dict.fromkeys(NAMES | {"efficiency", "metrics"}, 1)


@pytest.mark.parametrize("size", SIZES)
def test_the_letters_of_figures_are_legible(browser, pages, size):
    show(browser, pages, size=size)
    code = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height).filter(h => h > 0))"
    assert ask(browser, code) >= 9


def test_nothing_from_a_record_runs(browser, pages):
    show(browser, pages, "hostile")
    assert browser.title.startswith("2 variants")
    assert ask(browser, "document.querySelectorAll('img, main script').length") == 0
    assert "<script>" in ask(browser, "document.querySelector('.answers pre').textContent")


def test_a_click_on_a_heading_sorts_by_number_and_back(browser, pages):
    show(browser, pages)
    column = "[...document.querySelectorAll('#runs tbody tr')].map(r => r.cells[4].dataset.value).filter(Boolean).map(Number)"
    heading = browser.find_element("css selector", "#runs th:nth-child(5) button")
    heading.click()
    rising = ask(browser, column)
    assert rising == sorted(rising)
    assert ask(browser, "document.querySelector('#runs th:nth-child(5)').ariaSort") == "ascending"
    heading.click()
    assert ask(browser, column) == rising[::-1]
    browser.find_element("css selector", "#runs th:nth-child(1) button").click()
    names = ask(browser, "[...document.querySelectorAll('#runs tbody tr')].map(r => r.cells[0].textContent)")
    assert names == sorted(names)


def test_the_filter_leaves_what_matches_every_word(browser, pages):
    show(browser, pages)
    browser.find_element("css selector", "input[data-filter=runs]").send_keys("GRPO failed")
    rows = ask(browser, "[...document.querySelectorAll('#runs tbody tr')].filter(r => !r.hidden).map(r => r.textContent)")
    assert len(rows) == 1
    assert "broken" in rows[0]


def test_single_seeds_and_variants_come_and_go(browser, pages):
    show(browser, pages)
    visible = "[...document.querySelectorAll('#figure-curves .%s')].filter(l => getComputedStyle(l).display !== 'none').length"
    assert ask(browser, visible % "seed") == 0
    browser.find_element("css selector", "#figure-curves input").click()
    assert ask(browser, visible % "seed") == 31
    browser.find_element("css selector", "#figure-curves .legend button").click()
    assert ask(browser, visible % "curve") == 4
    assert ask(browser, visible % "seed") == 25


def test_one_of_a_family_is_shown_and_another_by_choice(browser, pages):
    show(browser, pages)
    shown = "[...document.querySelectorAll('#figure-metrics .member:not([hidden])')].map(m => m.dataset.choice)"
    first = ask(browser, shown)
    assert len(first) == 1
    options = ask(browser, "[...document.querySelectorAll('#figure-metrics select option')].map(o => o.value)")
    assert len(options) > 1
    choose = "(s => { s.value = arguments[0]; s.dispatchEvent(new Event('change', {bubbles: true})); })"
    browser.execute_script(f"{choose}(document.querySelector('#figure-metrics select'))", options[1])
    assert ask(browser, shown) == [f"{options[1]}|step"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_no_name_of_a_row_lies_on_the_zero_line(browser, pages, size, theme):
    show(browser, pages, size=size, theme=theme)
    boxes = (
        "[...document.querySelectorAll('#figure-differences %s')].map(e => e.getBoundingClientRect()).filter(r => r.height > 0)"
    )
    sides = ".map(r => [r.left, r.top, r.right, r.bottom])"
    names, rules = (ask(browser, boxes % what + sides) for what in ("text.name", "line.zero"))
    assert names
    assert rules
    for left, top, right, bottom in names:
        for rule in rules:
            assert not (left < rule[2] and rule[0] < right and top + 3 < rule[3] and rule[1] < bottom - 3)


@pytest.mark.parametrize("size", SIZES)
def test_columns_beyond_the_edge_are_announced(browser, pages, size):
    show(browser, pages, size=size)
    note = ask(browser, "(n => n.hidden ? '' : n.textContent)(document.querySelector('[data-of=pairs]'))")
    hidden = ask(
        browser,
        "(box => [...box.querySelectorAll('th')].filter(h => edge(h) > edge(box) + 4).map(h => h.textContent))"
        "(document.getElementById('pairs').parentElement); function edge(e) { return e.getBoundingClientRect().right }",
    )
    assert bool(note) is bool(hidden)
    assert all(name in note for name in hidden)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_letters_stand_out_in_both_themes_and_the_button_changes_them(browser, pages, theme):
    show(browser, pages, theme=theme)
    colours = "['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k].match(/\\d+/g).map(Number))"
    before = ask(browser, colours)
    assert contrast(*before) > 7
    assert (sum(before[1]) < 200) is (theme == "dark")
    for kind in ("better", "inconclusive", "equivalent"):
        badge = ask(
            browser, f"(e => e && getComputedStyle(e).color.match(/\\d+/g).map(Number))(document.querySelector('.badge.{kind}'))"
        )
        assert badge is None or contrast(badge, before[1]) > 4.5
    browser.find_element("id", "theme").click()
    assert ask(browser, colours)[1] != before[1]


def contrast(one, other):
    """The ratio of luminances as web accessibility guidelines define it."""

    def luminance(colour):
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
