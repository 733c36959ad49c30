"""Methods side by side."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from msds_plugin.adapters.benchmark import compare
from msds_plugin.adapters.benchmark.compare import _tables, means, to_document, to_latex, to_text, verdicts, with_signs
from msds_plugin.adapters.cli.compare import _methods
from msds_plugin.adapters.scoring import Run, store

METRICS = ["piq:psnr", "piq:gmsd"]
RUN = Run("cpu", workers=0)
NOISE = {"EDSR": 8, "Swin_IR": 4, "Bicubic": 24}


@pytest.fixture
def root(tmp_path, save):
    """Two data sets, and the results of three methods; one lacks an image."""
    rng = np.random.default_rng(0)
    for group, count in (("Set5", 5), ("Set8", 8)):
        for i in range(count):
            image = rng.integers(30, 220, (48, 64, 3))
            save(image, tmp_path / "GT" / group / f"im{i}.png")
            for method, noise in NOISE.items():
                noisy = image + rng.normal(0, noise * rng.uniform(0.9, 1.1), image.shape)
                save(noisy, tmp_path / "results" / method / group / f"im{i}.png")
    (tmp_path / "results/Bicubic/Set5/im4.png").unlink()
    return tmp_path


def folders(root, group):
    return {method: root / "results" / method / group for method in NOISE}


def test_means_ranks_and_differences(root):
    made = compare(folders(root, "Set8"), root / "GT/Set8", METRICS, run=RUN)
    assert made.methods == list(NOISE)
    assert (made.notes, made.lacking, len(made.failures)) == ((), 0, 0)
    wide = made.scores.pivot(index=["metric", "image"], columns="method", values="score")
    table = made.table.set_index(["metric", "method"])
    for metric, lower in made.lower_is_better.items():
        own = wide.loc[metric]
        order = own.mean().sort_values(ascending=lower).index
        assert table.loc[metric, "rank"][order].tolist() == ["best", "second", ""]
        assert order[0] == "Swin_IR"
        row = table.loc[(metric, "EDSR")]
        assert (row["mean"], row["std"], row["n"]) == pytest.approx((own["EDSR"].mean(), own["EDSR"].std(ddof=1), 8))
    theirs = stats.ttest_rel(wide.loc["piq:psnr", "EDSR"], wide.loc["piq:psnr", "Bicubic"])
    tested = made.differences.set_index(["metric", "a", "b"]).loc[("piq:psnr", "EDSR", "Bicubic")]
    assert tested["p"] == pytest.approx(theirs.pvalue)
    assert [tested["low"], tested["high"]] == pytest.approx(list(theirs.confidence_interval()))
    assert verdicts(made)[0] == "piq:psnr: Swin_IR is better than EDSR and Bicubic; EDSR is better than Bicubic."


def test_images_that_a_method_lacks(root, save):
    common = compare(folders(root, "Set5"), root / "GT/Set5", METRICS[:1], run=RUN)
    assert common.notes[0] == "Bicubic lacks 1 of 5 images: im4.png."
    assert "the 4 images that all methods have" in common.notes[1]
    assert common.lacking == 1
    assert common.table["n"].tolist() == [4, 4, 4]
    shutil.copy(root / "GT/Set5/im0.png", root / "GT/Set5/unused.png")
    shutil.copy(root / "GT/Set5/im0.png", root / "results/EDSR/Set5/alone.png")
    shutil.copytree(root / "results/EDSR/Set8", root / "results/EDSR/Set5/sub")
    more = compare(folders(root, "Set5"), root / "GT/Set5", METRICS[:1], run=RUN)
    assert more.notes[0] == "EDSR has results without a reference (2): alone.png, sub (a folder that was not looked into)."
    assert more.notes[2] == "No method has a result of these references (1): unused.png."
    masked = compare(folders(root, "Set5"), root / "GT/Set5", METRICS[:1], run=RUN, mask=root / "GT/Set5")  # one is unused
    assert masked.table["n"].equals(more.table["n"])
    assert more.lacking == 3
    own = compare(folders(root, "Set5"), root / "GT/Set5", METRICS[:1], run=RUN, own=True)
    assert own.table["n"].tolist() == [5, 5, 4]
    assert own.table["mean"][0] != common.table["mean"][0]
    save(np.zeros((48, 64, 3)), root / "other/im4.png")
    methods = {"Bicubic": root / "results/Bicubic/Set5", "other": root / "other"}
    with pytest.raises(ValueError, match="no image is there by all methods: Bicubic, other"):
        compare(methods, root / "GT/Set5", METRICS[:1], run=RUN)


def test_groups_and_their_overall(root):
    groups = {group: root / "GT" / group for group in ("Set5", "Set8")}
    methods = {method: root / "results" / method for method in NOISE}
    made = compare(methods, groups, METRICS[:1], run=RUN)
    assert made.groups == ["Set5", "Set8", "overall"]
    assert made.table.groupby("group", sort=False)["n"].first().tolist() == [4, 8, 12]
    of = made.table[made.table["method"] == "EDSR"].set_index("group")["mean"]
    assert of["overall"] == pytest.approx((4 * of["Set5"] + 8 * of["Set8"]) / 12)
    placed = compare({"EDSR": root / "results/EDSR/{group}"}, groups, METRICS[:1], run=RUN)
    assert placed.table["n"].tolist() == [5, 8, 13]
    with pytest.raises(ValueError, match="'overall' is the name of the table of all groups"):
        compare(methods, {**groups, "overall": root / "GT/Set5"}, METRICS[:1], run=RUN)
    with pytest.raises(ValueError, match="two metrics of one name: piq:psnr, piq:psnr"):
        compare(methods, groups, METRICS[:1] * 2, run=RUN)
    with pytest.raises(ValueError, match=r"EDSR has no folder .*Set9.*\{group\}"):
        compare({"EDSR": root / "results/EDSR"}, {"Set9": root / "GT/Set5"}, METRICS[:1], run=RUN)
    with pytest.raises(ValueError, match=r"EDSR: no two names agree; the first are im0\.png and Set5/im0\.png: give both"):
        compare({"EDSR": root / "results/EDSR"}, root / "GT/Set5", METRICS[:1], run=RUN)


def test_several_results_of_each_reference_count_as_one_reference(root, save):
    for method in ("jpeg", "webp"):
        for i in range(3):
            for quality in (10, 30):
                image = np.asarray(Image.open(root / f"GT/Set5/im{i}.png")).astype(int) + i + quality * (method == "jpeg")
                save(image, root / method / f"im{i}_q{quality}.png")
    made = compare({name: root / name for name in ("jpeg", "webp")}, root / "GT/Set5", METRICS[:1], run=RUN)
    assert made.table["n"].tolist() == [6, 6]
    assert made.differences["count"].tolist() == [3]
    save(np.zeros((48, 64, 3)), root / "webp/im0_q10.bmp")
    with pytest.raises(ValueError, match="webp has two files of the name im0_q10 but for the suffix"):
        compare({"webp": root / "webp"}, root / "GT/Set5", METRICS[:1], run=RUN)


def test_equal_results_are_equally_good(root):
    methods = {"one": root / "results/EDSR/Set8", "two": root / "results/EDSR/Set8", "worse": root / "results/Bicubic/Set8"}
    made = compare(methods, root / "GT/Set8", METRICS[:1], run=RUN)
    assert made.table["rank"].tolist() == ["best", "best", "second"]
    assert "not shown to differ: one and two" in verdicts(made)[0]
    single = compare({"one": methods["one"]}, root / "GT/Set8", METRICS[:1], run=RUN)
    assert single.table["rank"].tolist() == [""]
    assert single.differences.empty


def test_a_broken_result_costs_its_image_for_all_methods(root):
    (root / "results/EDSR/Set8/im3.png").write_bytes(b"broken")
    made = compare(folders(root, "Set8"), root / "GT/Set8", METRICS[:1], run=RUN)
    assert made.table["n"].tolist() == [7, 7, 7]
    assert made.failures["distorted"].tolist() == [str(root / "results/EDSR/Set8/im3.png")]
    made = replace(made, unavailable={"msds": "no weights"})
    for text in (to_text(made), to_latex(made), to_document(made).to_markdown()):
        assert "piq:psnr has no score of EDSR for im3.png: its means are without." in text
        assert "msds could not be made: no weights" in text


def test_methods_that_are_one_image_each(root):
    methods = {name: path / "im0.png" for name, path in folders(root, "Set8").items()}
    made = compare(methods, root / "GT/Set8/im0.png", METRICS[:1], run=RUN)
    assert made.table["n"].tolist() == [1, 1, 1]
    assert not made.lacking


def test_as_text_latex_and_a_page(root):
    made = compare(folders(root, "Set8"), root / "GT/Set8", METRICS, run=RUN)
    best = made.table[made.table["rank"] == "best"].iloc[0]
    shown = f"{best['mean']:.2f} ± {best['std']:.2f}"
    assert f"{shown} *" in to_text(made)
    latex = to_latex(made)
    in_latex = shown.replace("±", "$\\pm$")
    assert f"\\textbf{{{in_latex}}}" in latex
    assert "\\underline{" in latex
    for text in ("\\toprule", "Swin\\_IR &", "piq:psnr $\\uparrow$ & piq:gmsd $\\downarrow$ & images", "\\bottomrule"):
        assert text in latex
    assert f"**{shown}**" in to_document(made).to_markdown()
    page = to_document(made, RUN).to_html()
    assert f'class="best" data-value="{best["mean"]}"' in page
    assert page.count("<img") == 6 * 5  # reference, its cut, and three methods
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((2e-8, 1e-8, 5e-9), ["0.0000000200 *", "0.0000000100 +", "0.0000000050"]),
        ((0.90004, 0.90001, 0.5), ["0.9000 *", "0.9000 *", "0.5000 +"]),  # equal as they are shown
        ((0.3, np.nan, 0.3), ["0.3000", "–", "0.3000"]),
    ],
)
def test_means_as_they_are_shown(root, values, shown):
    made = compare(folders(root, "Set8"), root / "GT/Set8", METRICS[:1], run=RUN)
    made.scores["score"] = made.scores["method"].map(dict(zip(NOISE, values, strict=True)))
    made = replace(made, table=_tables(made.scores, list(NOISE), {METRICS[0]: False}, True)[0])
    assert [row[1].replace(" ± 0." + "0" * (len(row[1].split()[0]) - 2), "") for row in with_signs(means(made)[0])] == shown


def test_odd_names_of_methods_are_shown_as_text(root):
    names = "[12] A_b", "*best*", "<i>$x^2$|`_c_\\|"
    made = compare(dict(zip(names, folders(root, "Set8").values(), strict=True)), root / "GT/Set8", METRICS[:1], run=RUN)
    latex, text = to_latex(made), to_document(made).to_markdown()
    first = [line.split(" & ")[0] for line in latex.splitlines() if " & " in line][1:4]
    assert first == [
        "{[}12] A\\_b",  # else \\\\ takes it for a distance
        "{*}best{*}",
        "\\textless{}i\\textgreater{}\\$x\\textasciicircum 2\\$\\textbar{}`\\_c\\_\\textbackslash \\textbar{}",
    ]
    for name in ("| [12] A_b |", "| \\*best\\* |", "| &lt;i&gt;\\$x^2\\$\\|\\`\\_c\\_\\\\\\| |"):
        assert name in text


def test_command(root, msds, monkeypatch):
    options = "compare", "--workers", 0, "--device", "cpu"
    outputs = [part for suffix in ("tex", "html", "md", "txt", "csv") for part in ("-o", f"t.{suffix}")]
    shutil.copytree("GT", "results/GT")
    sets = ["-r", "Set5=results/GT/Set5", "-r", "Set8=results/GT/Set8"]
    done = msds(*options, *sets, "results/[A-R]*", "swin=results/Swin_IR", "-m", ",".join(METRICS), *outputs, code=1)
    assert "results/GT is the reference itself, and no method: left out" in done.stderr
    assert _methods(["one=results"], {"": Path("results/GT")}) == {"one": Path("results")}  # may hold results of its own
    assert "Bicubic lacks 1 of 5 images of Set5: im4.png" in done.stderr
    assert "piq:psnr overall: swin is better than Bicubic and EDSR; EDSR is better than Bicubic." in done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["group", "method", "piq:psnr ↑", "piq:gmsd ↓", "images"]
    assert [line[:2] for line in lines[1:4]] == [["Set5", "Bicubic"], ["Set5", "EDSR"], ["Set5", "swin"]]
    assert all((root / name).stat().st_size for name in outputs[1::2])
    table = pd.read_csv(root / "t.csv")
    assert table.columns.tolist() == ["group", "method", "metric", "mean", "std", "n", "rank"]
    assert len(pd.read_csv(root / "t.scores.csv")) == 2 * (3 * 13 - 1)
    assert len(pd.read_csv(root / "t.differences.csv")) == 2 * 3 * 3
    assert lines[11] == ["group", "metric", "method", "minus", "difference", "p (Holm)"]
    with monkeypatch.context() as terminal:
        terminal.setattr("msds_plugin.adapters.cli.compare.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
        shown = msds(*options, *sets, "results/*", "-m", METRICS[0], code=1).stdout
    assert shown.count("metric\tmethod\tminus\tdifference\tp (Holm)\n") == 3  # a table for each group
    scored = []
    original = store.score_pairs
    monkeypatch.setattr(store, "score_pairs", lambda pairs, *rest: original(scored.append(list(pairs)) or scored[-1], *rest))
    given = f"-r GT/Set8 EDSR=results/EDSR/Set8 bare=GT/Set8 new=results/Swin_IR/Set5 -m {METRICS[0]} -o t.csv"
    msds(*options, *given.split(), code=1, stderr="GT/Set8 is the reference itself, and no method: left out")
    assert all(pair.distorted.parts[-3] == "Swin_IR" for pairs in scored for pair in pairs)  # what was kept is not scored again
