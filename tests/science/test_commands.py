"""What the commands of the benchmark and the studies refuse, and how they go on after a stop."""

import numpy as np
import pytest

from msds_plugin.adapters.scoring.store import Results

BENCHMARK, FIT, STUDY = "benchmark -m psnr", "fit -m ms-ssim -o f.json", "study -b squeezenet1_1:random"
COMPARE = "compare -m piq:psnr -r GT/Set5"
TRAIN = "train --backbone alexnet -o x.safetensors"


@pytest.fixture
def folder(tmp_path, save):
    for place in ("GT/Set5", "GT/Set8", "EDSR/Set5", "Bicubic/Set5", "photographs"):
        save(np.full((40, 40, 3), 99), tmp_path / place / "a.png")
    (tmp_path / "t.csv").write_text("ref,dist,mos\nGT/Set5/a.png,EDSR/Set5/a.png,3\nGT/Set8/a.png,Bicubic/Set5/a.png,4\n")
    (tmp_path / "same.csv").write_text("ref,dist,mos\nGT/Set5/a.png,EDSR/Set5/a.png,3\nGT/Set5/a.png,GT/Set8/a.png,3\n")
    (tmp_path / "one.csv").write_text("ref,dist,mos\nGT/Set5/a.png,EDSR/Set5/a.png,3\nGT/Set5/a.png,GT/Set8/a.png,4\n")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (BENCHMARK, "no data set"),
        (f"{BENCHMARK} --dataset live", "--data-root"),
        (f"{BENCHMARK} --csv absent.csv", "no CSV file"),
        (f"{BENCHMARK} --csv a --csv b --csv c --root x --root y", "2 times for 3 tables"),
        (f"{BENCHMARK} --csv t.csv --factors speed", "name=share"),
        (f"{BENCHMARK} --csv t.csv --factors beauty=1", "unknown factors"),
        (f"{BENCHMARK} --csv t.csv --report same.csv", "is a file"),
        (f"{BENCHMARK} --csv t.csv --resize seam", "choose nearest, bilinear, bicubic"),
        (f"{BENCHMARK} --csv t=t.csv -o t.csv", "both csv and output"),
        (f"{BENCHMARK} --csv t.csv --seed -1", "--seed"),
        ("compare -m piq:psnr EDSR/Set5 Bicubic/Set5 -r GT/Set5", "two methods of the name Set5"),
        (f"{COMPARE} -r GT/Set8 EDSR", "give each of several references a name"),
        (f"{COMPARE} EDSR/Set5 -o t.pdf", "its name must end in"),
        (f"{COMPARE} EDSR/Set5 -o no/t.tex", "no folder no"),
        (f"{COMPARE} EDSR=none", "no file or folder at none"),
        (f"{COMPARE} x*", "no folder at x"),
        (f"{COMPARE} EDSR/Set5 -m psnrr", "did you mean"),
        ("fit -m ms-ssim -o no/where.json --csv t.csv", "no folder"),
        (FIT, "no data set"),
        ("fit -m ssim -o f.json --csv t.csv --folds 2", "no levels to weigh"),
        (STUDY, "no data set"),
        (f"{STUDY} --csv same.csv", "the opinions of same are all the same"),
        (f"{STUDY} --csv one.csv", "one has one reference: at least two are needed"),
        (f"{TRAIN} --twoafc GT -m msds", "spips can be trained"),
        (f"{TRAIN} --twoafc GT --csv t.csv", "one of --twoafc, --dataset and --csv"),
        ("train --twoafc GT -o no/x.safetensors", "no folder no"),
        ("robustness photographs -m psnr --images photographs", "both photographs and images"),
        ("robustness photographs -m psnr --deform rotation=0", "no deformation has a strength above zero"),
        ("robustness photographs -m psnr --deform twist", "no deformation named 'twist'"),
        ("robustness photographs -m ssim-nobody --deform shift=4 --distort blur=1", "no metric named 'ssim-nobody'"),
        ("reproduce msds --data-root nowhere", "give the folder"),
        ("demo -o no/demo.png", "make it first"),
    ],
)
def test_what_cannot_work_is_one_line(folder, msds, command, message):
    done = msds(*command.split(), code=2, stderr=message)
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "command", [f"{BENCHMARK} --csv many.csv --results t.sqlite", "compare -m psnr -r GT/many EDSR/many -o t.tex"]
)
def test_a_command_that_is_stopped_goes_on(tmp_path, save, msds, stopped, command):
    rng, rows = np.random.default_rng(0), ["ref,dist,mos"]
    for i in range(8):
        pixels = rng.integers(30, 220, (40, 40, 3))
        save(pixels, tmp_path / f"GT/many/{i}.png")
        save(pixels + rng.normal(0, 5 + i, pixels.shape), tmp_path / f"EDSR/many/{i}.png")
        rows.append(f"GT/many/{i}.png,EDSR/many/{i}.png,{i}")
    (tmp_path / "many.csv").write_text("\n".join(rows))
    arguments = [*command.split(), "--workers", "0", "--device", "cpu"]
    with stopped():
        msds(*arguments, code=130, stderr="start again to go on from here")
    with Results(tmp_path / "t.sqlite") as kept:
        assert len(kept.scored(1)) == 5
    msds(*arguments)
