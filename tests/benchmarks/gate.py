"""How many harmful changes a gate catches that lets harmless ones pass: the tables of docs/research/gate.md.

python tests/benchmarks/gate.py ../shared/data [differences.csv [picture.png]]

The thresholds, and the terms of the local difference, are chosen on some images; what is printed is of others. FLIP is left out
where flip-evaluator is not installed, pages where chromium is not. Metrics that take longer see the first part of every
photograph alone, the deep ones no renders and pages.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from gate_pairs import of_pages, of_photograph, of_render
from PIL import Image
from scipy.stats import binomtest

import msds_plugin
from msds_plugin.adapters.local_difference import local_difference

DEEP = ("msds-auto", "msds-hybrid", "msds-align")
METRICS = ("local", "ssim", "psnr", "pixelmatch", "FLIP", "FLIP, largest", *DEEP)
#: How few false alarms among harmless changes are wanted.
RATE = 0.01


def photographs(data):
    """To choose on, and to report on; LIVE's caps is one of the Kodak photographs."""
    import skimage

    samples = Path(skimage.__file__).parent / "data"
    chosen = [*sorted((data / "kodak").glob("*.png"))]
    chosen += [samples / name for name in ("coffee.png", "rocket.jpg", "motorcycle_left.png", "astronaut.png")]
    others = [path for path in sorted((data / "live_gblur/images").glob("ref_*.png")) if path.stem != "ref_caps"]
    return {"choose": chosen, "report": [*others, *sorted((data / "sr4k_quarter/images").glob("*_GT.png"))]}


def changes(data, docs):
    """(set, change) of everything."""
    for part, paths in photographs(data).items():
        rng = np.random.default_rng(0)
        seeds = range(6) if part == "choose" else range(100, 108)
        for path in paths:
            yield from ((part, change) for change in of_photograph(path, rng))
        for seed in seeds:
            yield from ((part, change) for change in of_render(seed))
        yield from ((part, change) for change in of_pages(seeds, docs))


def pixelmatch(new, golden):
    """The share of pixels that pixelmatch finds different at its threshold of 0.1, without its rule for antialiasing."""
    yiq = np.array(
        [[0.29889531, 0.58662247, 0.11448223], [0.59597799, -0.2741761, -0.32180189], [0.21147017, -0.52261711, 0.31114694]]
    )
    delta = ((new.astype(float) - golden) @ yiq.T) ** 2 @ np.array([0.5053, 0.299, 0.1957])
    return (delta > 35215 * 0.1**2).mean()


def flip(new, golden):
    """Mean and largest value of FLIP's map."""
    import flip_evaluator

    found = flip_evaluator.evaluate(golden / np.float32(255), new / np.float32(255), "LDR", applyMagma=False)
    return found[1], found[0].max()


def measure(data, docs):
    """A row for each change: set, source, kind, name, harmful, and the difference by each metric."""
    rows, waiting = [], {}
    for part, change in changes(data, docs):
        pair = change.new, change.golden
        row = {"set": part, "kind": change.kind, "source": change.source, "change": change.name, "harmful": change.harmful}
        row["local"] = local_difference(*(image / np.float32(255) for image in pair)).max()
        row["pixelmatch"] = pixelmatch(*pair)
        rows.append(row)
        group = waiting.setdefault((part, change.source), {})
        if change.name not in group:  # of a photograph, the first of two parts
            group[change.name] = row, change
    for (_, source), group in waiting.items():
        changed = [change for _, change in group.values()]
        images = [Image.fromarray(each) for each in (changed[0].golden, *(change.new for change in changed))]
        metrics = ["ssim", "psnr", *(DEEP if changed[0].kind == "photograph" else ())]
        scores = msds_plugin.score(images, images[0], metrics)
        for place, (row, change) in enumerate(group.values(), 1):
            row |= {metric: abs(scores[metric][0] - scores[metric][place]) for metric in metrics}
            if find_spec("flip_evaluator"):
                row["FLIP"], row["FLIP, largest"] = flip(change.new, change.golden)
        print(source, file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def threshold(differences):
    """The smallest one that at most a hundredth of these harmless differences exceed."""
    ordered = np.sort(differences.dropna())
    return ordered[len(ordered) - 1 - int(RATE * len(ordered))]


def share(found):
    """A share with its exact interval of 95 %."""
    if not len(found):
        return "-"
    low, high = binomtest(int(found.sum()), len(found)).proportion_ci()
    return f"{found.mean():.1%} [{low:.1%}, {high:.1%}] of {len(found)}"


def report(table, title, **known):
    """False alarms and what is caught of the second set, at thresholds of the first unless known; and each change by itself."""
    metrics = [metric for metric in METRICS if metric in table and table[metric].notna().any()]
    chosen, others = (table[table["set"] == part] for part in ("choose", "report"))
    at = {metric: threshold(chosen[~chosen.harmful][metric]) for metric in metrics} | known
    failed = {metric: (others[metric] > at[metric])[others[metric].notna()] for metric in metrics}
    rows = {
        metric: {
            "threshold": f"{at[metric]:.3g}",
            "false alarms": share(found[~others.harmful]),
            "caught": share(found[others.harmful]),
        }
        for metric, found in failed.items()
    }
    print(f"\n{title}\n\n{pd.DataFrame(rows).T.to_markdown()}\n")
    each = pd.DataFrame(failed).astype(float).groupby([others.harmful, others.change], sort=False).mean()
    print((100 * each).round().to_markdown())


def draw(table, path):
    """Caught against false alarms on the second set."""
    from matplotlib.figure import Figure

    others = table[(table["set"] == "report") & (table.kind != "page")]
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="false alarms", ylabel="caught", ylim=(0, 1.02))
    axes.set_xscale("symlog", linthresh=0.01)
    for metric in (metric for metric in METRICS if metric in others and others[metric].notna().any()):
        calm, harm = (np.sort(others.loc[others.harmful == kind, metric].dropna()) for kind in (False, True))
        places = np.sort(np.concatenate([calm, harm]))[::-1]
        alarms, caught = (1 - np.searchsorted(side, places, "right") / len(side) for side in (calm, harm))
        axes.plot(alarms, caught, label=metric)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *outputs = map(Path, sys.argv[1:])
    measured = measure(folder, Path(__file__).parents[2] / "docs")
    if outputs:
        measured.to_csv(outputs[0], index=False)
    if len(outputs) > 1:
        draw(measured, outputs[1])
    pages = measured.kind == "page"
    still = ~measured.change.str.contains("moved by") | measured.harmful
    subpixel = measured.change == "no subpixel text"
    report(measured[~pages], "photographs and renders", local=1)
    report(measured[~pages & still], "photographs and renders, nothing harmless is moved", local=1)
    report(measured[pages], "pages")
    report(measured[pages & ~subpixel], "pages, without another placing of letters")
