import base64
import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from msds_plugin.adapters.benchmark import runner as benchmark
from msds_plugin.adapters.benchmark import summary
from msds_plugin.adapters.benchmark.report import page as report
from msds_plugin.adapters.benchmark.report.document import Document
from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring import Run

METRICS = {"good": False, "fair(alexnet)": True, "poor": False, "piq:odd|name": False}
REASON = "too small <script>alert(1)</script>"


def made_up(folder, kinds=("blur", "noise", "JPEG")):
    """Scores of known quality on two data sets, with images to show and one failure."""
    rng = np.random.default_rng(0)
    tables = []
    for dataset, lower in (("first set", True), ("second", False)):
        rows = []
        for r in range(8):
            reference = rng.integers(0, 256, (30, 40 if r else 20, 3), dtype=np.uint8)
            paths = [folder / f"{dataset}-r{r}.png", *(folder / f"{dataset}-r{r}-{i}.png" for i in range(6))]
            for path in paths:
                Image.fromarray(reference).save(path)
            rows += [(str(paths[0]), str(path)) for path in paths[1:]]
        pairs = pd.DataFrame(rows, columns=["reference", "distorted"])
        quality = rng.uniform(0, 1, len(pairs))
        pairs["opinion"] = 80 - 60 * quality if lower else 1 + 4 * quality
        pairs["std"] = 4.0 if lower else 0.3
        pairs["distortion"] = np.array(kinds)[np.arange(len(pairs)) % len(kinds)] if kinds and lower else None
        for index, (metric, falls) in enumerate(METRICS.items()):
            score = quality + rng.standard_normal(len(pairs)) * (0.03, 0.12, 0.6, 0.3)[index]
            own = pairs.assign(metric=metric, dataset=dataset, score=-score if falls else score, seconds=0.01 * 4**index)
            own["error"] = None
            if metric == "poor":
                own.loc[3, ["score", "seconds", "error"]] = [np.nan, 0.0, REASON]
            tables.append(own)
    table = pd.concat(tables, ignore_index=True)
    scores = summary.Scores(table, METRICS, {"first set": True, "second": False})
    sources = pd.DataFrame(
        [
            {"metric": metric, "packages": "pyiqa 0.1.16", "options": "", "backbone": "", "source": "ab" * 8}
            for metric in METRICS
        ]
    )
    return benchmark.Benchmark(
        scores, sources, {"date": "2026-01-01 00:00 UTC", "device": "cpu", "versions": "torch 2"}, Run(),
        unavailable={"lost": "no weights"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    made = made_up(folder)
    summed = summary.summarise(made.scores, resamples=100)
    return report.write_report(made, summed, folder / "out"), summed


def test_tables_are_written_as_csv(written):
    path, summed = written
    for name in ("agreement", "by_distortion", "significance", "overall", "relations", "failures", "scores", "metrics"):
        assert (path.parent / f"{name}.csv").is_file()
    agreement = pd.read_csv(path.parent / "agreement.csv")
    assert agreement["srcc"].tolist() == pytest.approx(summed.table["srcc"].tolist())
    assert pd.read_csv(path.parent / "failures.csv")["error"].tolist() == [REASON, REASON]


def test_page_holds_everything_in_itself(written):
    page = written[0].read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) > 30
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.findall(r"url\(|@import|https?://", page.replace("http://www.w3.org", ""))
    picture = base64.b64decode(next(s for s in sources if s.startswith("data:image/svg")).partition(",")[2])
    assert b"<svg" in picture
    assert b"@import" not in picture
    assert REASON not in page
    assert "too small &lt;script&gt;" in page


def test_page_says_what_was_found(written):
    page, summed = written[0].read_text(), written[1]
    best = summed.table.set_index(["dataset", "metric"]).loc[("first set", "good")]
    assert f"Highest SRCC: good, {best['srcc']:.3f} [{best['srcc_low']:.3f}, {best['srcc_high']:.3f}]" in page
    assert "poor has no score for 1 of 48 images of first set." in page
    assert "second names no types of distortion" in page
    for text in (
        "lost could not be made, and is left out: no weights",
        "ab" * 8,
        "torch 2",
        "100 resamples of references, seed 0",
        "above 0.25 cycles per pixel",
    ):
        assert text in page
    assert "first set: 48 pairs, 8 references, lower is better" in page


def test_pictures_of_names_that_look_alike_are_kept_apart(tmp_path):
    names = ("ms-ssim", "ms_ssim", "ms ssim", "猫.png", "狗.png", "ms_ssim")
    page = Document("Trial")
    page.gallery([(name.encode(), name, "", "") for name in names], "svg")
    page.write(tmp_path)
    paths = re.findall(r"!\[\]\(([^)]+)\)", (tmp_path / "report.md").read_text())
    assert [(tmp_path / path).read_bytes().decode() for path in paths] == list(names)


@pytest.mark.slow
def test_metrics_with_maps_show_where_they_see_a_difference(tmp_path, random_alexnet):
    made = made_up(tmp_path)
    name = "fair(alexnet)"
    scorer = Scorer(name, random_alexnet, torch.device("cpu"), {}, True, True)
    for path in tmp_path.glob("second-*.png"):
        Image.open(path).resize((80, 72)).save(path)
    made = dataclasses.replace(made, scorers=(scorer,))
    page = report.write_report(made, summary.summarise(made.scores, resamples=20), tmp_path / "out")
    shown = re.findall(rf'alt="where {re.escape(name)} sees ([^"]*) differ"', page.read_text())
    assert len(shown) == report.WORST
    assert all(each.startswith("second-") for each in shown)  # the others are too small for it, which costs no report
    pictures = sorted((tmp_path / "out/figures").glob("second-map-*.jpg"))
    assert [Image.open(picture).size for picture in pictures] == [(80, 72)] * len(shown)
    assert all(f"](figures/{picture.name})" in (tmp_path / "out/report.md").read_text() for picture in pictures)


def test_markdown_shows_pictures_that_exist(written):
    path = written[0].with_suffix(".md")
    text = path.read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) > 2 * len(METRICS)
    assert all((path.parent / picture).is_file() for picture in pictures)
    assert "| first set | good | 0." in text
    assert "piq:odd\\|name" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) > 5
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


@pytest.mark.slow
def test_no_score_at_all_still_makes_a_page(tmp_path):
    made = made_up(tmp_path)
    table = made.scores.table.assign(score=np.nan, error="cannot read it")
    scores = summary.Scores(table, made.scores.lower_is_better, made.scores.opinion_lower_is_better)
    empty = benchmark.Benchmark(scores, made.metrics, made.made, Run())
    page = report.write_report(empty, summary.summarise(scores, resamples=20), tmp_path / "out").read_text()
    assert "No metric has a rank correlation here" in page
    assert "384 in all; failures.csv lists them" in page


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = selenium.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def page(browser, written):
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(written[0].as_uri())
    return browser


def column(page, table, index):
    return page.execute_script(
        "return [...document.querySelectorAll('table.sortable')[arguments[0]].tBodies[0].rows]"
        ".map(r => r.cells[arguments[1]].textContent.trim())",
        table,
        index,
    )


def click_heading(page, table, index):
    page.find_elements("css selector", "table.sortable")[table].find_elements("css selector", "th button")[index].click()


def test_sorting(page, written):
    srcc = written[1].table["srcc"].tolist()
    shown = [f"{value:.3f}" for value in srcc]
    assert [text.split(" ")[0] for text in column(page, 0, 2)] == shown
    click_heading(page, 0, 2)
    assert [text.split(" ")[0] for text in column(page, 0, 2)] == [f"{value:.3f}" for value in sorted(srcc, reverse=True)]
    heading = page.find_elements("css selector", "table.sortable thead th")[2]
    assert heading.get_attribute("aria-sort") == "descending"
    click_heading(page, 0, 2)
    assert [text.split(" ")[0] for text in column(page, 0, 2)] == [f"{value:.3f}" for value in sorted(srcc)]
    click_heading(page, 0, 1)
    assert column(page, 0, 1) == sorted(list(METRICS) * 2)


def test_shares_can_be_changed(page, written):
    overall = written[1].overall
    assert column(page, 1, 0) == overall["metric"].tolist()
    assert column(page, 1, 5) == [f"{value:.3f}" for value in overall["overall"]]
    for name, share in {"accuracy": 0, "monotonicity": 0, "consistency": 0, "speed": 1}.items():
        page.execute_script(
            "const i = document.querySelector(`input[data-factor=${arguments[0]}]`);"
            "i.value = arguments[1]; i.dispatchEvent(new Event('input'))",
            name,
            share,
        )
    fastest = overall.sort_values("speed", ascending=False)
    assert column(page, 1, 0) == fastest["metric"].tolist()
    assert column(page, 1, 5) == [f"{value:.3f}" for value in fastest["speed"]]
    assert written[1].factors == dict(summary.FACTORS)


def test_every_picture_is_drawn_and_nothing_is_wider_than_the_page(page):
    sizes = page.execute_script("return [...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt])")
    assert len(sizes) > 30
    assert all(natural > 0 and shown > 0 and alt for natural, shown, alt in sizes)
    for width in (1200, 600):
        page.set_window_size(width, 900)
        assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.slow
def test_names_cannot_become_markup_in_the_markdown(tmp_path):
    bad = "<img src=x onerror=alert(1)> [a](javascript:alert(1)) `|\n# head"
    made = made_up(tmp_path)
    table = made.scores.table
    table["error"] = table["error"].where(table["error"].isna(), bad)
    summed = summary.summarise(made.scores, resamples=0)
    tested = summed.significance
    chosen = (tested["dataset"] == "second") & (tested[["a", "b"]] == "good").any(axis=1)
    tested.loc[chosen, "p_holm"] = 0.0
    # On the images that both scored, one of the others is higher.
    tested.loc[chosen & (tested["b"] == "fair(alexnet)"), "difference"] *= -1
    text = (report.write_report(made, summed, tmp_path / "out").parent / "report.md").read_text()
    for sign in ("<img", "[a](javascript", "\n# head"):
        assert sign not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "; not shown to be lower: fair(alexnet)." in text


@pytest.mark.slow
def test_a_report_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    made = made_up(tmp_path)
    summed = summary.summarise(made.scores, resamples=0)
    path = report.write_report(made, summed, tmp_path / "out")
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Document, "to_html", full)
    with pytest.raises(OSError, match=r"cannot write the report to .*out: No space left"):
        report.write_report(made, summed, tmp_path / "out")
    assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == before
