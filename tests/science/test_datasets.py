"""Tables of labels as people and programs write them, and pyiqa's data sets by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from msds_plugin.adapters.benchmark.datasets import Dataset, from_pyiqa, load_csv, load_pyiqa

HEADER = ["reference", "distorted", "score"]
ROWS = [["é–1.png", "001", "4.5"], ["NA", "1e3", "3.25"], ["null", "1.0", "3"]]


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def load(tmp_path, text, **options):
    (tmp_path / "t.csv").write_text(text)
    return load_csv(tmp_path / "t.csv", **options).table


def names(column):
    return [Path(path).name for path in column]


def test_a_guess_at_columns_is_said(tmp_path):
    (tmp_path / "t.csv").write_text("No,Original,Version\n1,r.png,a.png\n2,r.png,b.png\n")
    (note,) = load_csv(tmp_path / "t.csv").notes
    assert note.endswith("taken as reference: Original, distorted: Version, score: No")
    for text in ("ref,dist,mos\nr.png,a.png,1\n", "r.png,a.png,1\n"):
        (tmp_path / "t.csv").write_text(text)
        assert load_csv(tmp_path / "t.csv").notes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize(("separator", "comma"), [(",", False), (", ", False), (";", False), ("; ", True), ("\t", True)])
@pytest.mark.parametrize("header", [HEADER, ["one", "two", "three"], None])
@pytest.mark.parametrize("end", ["\n", "\r\n\r\n", ",,\n"])
def test_tables_as_they_are_written(tmp_path, encoding, separator, comma, header, end):
    rows = [[r, d, s.replace(".", ",") if comma else s] for r, d, s in ROWS]
    end = end.replace(",", separator.strip(" "))
    text = "".join(separator.join(row) + end for row in ([header] if header else []) + rows)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table = load_csv(tmp_path / "t.csv", root="x").table
    assert names(table["reference"]) == ["é–1.png", "NA", "null"]
    assert names(table["distorted"]) == ["001", "1e3", "1.0"]
    assert table["score"].tolist() == [4.5, 3.25, 3]


def test_columns_by_name_in_any_order(tmp_path):
    text = "MOS,DMOS,img_name,type,ref,mos_std,dmos_std\n6,3.5,a/d.png,blur,r.png,7,0.2\n5,4,b/d.png,,r.png,7,\n"
    table = load(tmp_path, text, root="images", lower_is_better=True)
    assert table["score"].tolist() == [3.5, 4.0]
    assert table["reference"].tolist() == [str(Path("images/r.png"))] * 2
    assert table["distorted"].tolist() == [str(Path("images/a/d.png")), str(Path("images/b/d.png"))]
    assert table["distortion"][0] == "blur"
    assert pd.isna(table["distortion"][1])
    assert table["std"][0] == 0.2
    assert np.isnan(table["std"][1])


@pytest.mark.parametrize(
    "text",
    [
        "r.png,a.png,1\n# r.png,c.png,9\nr.png,b.png,2\n",
        "a.png,r.png,1\nb.png,r.png,2\n",
        "1,r.png,a.png\n2,r.png,b.png\n",
        "x,y,z,w\n0,r.png,a.png,1\n1,r.png,b.png,2\n",
        "image,ref,MOS\na.png,r.png,1\nb.png,r.png,2\n",
        "ref,dis,MOS\nr.png,a.png,1\nr.png,b.png,2\n",
        "dist_img,ref_img,dmos,var\na.png,r.png,1,4\nb.png,r.png,2,9\n",
        "original,version,std,rating\nr.png,a.png,2,1\nr.png,b.png,3,2\n",
        "sep=\t\nref\tdist\tmos\nr.png\ta.png\t1\nr.png\tb.png\t2\n",
    ],
)
def test_order_of_columns(tmp_path, text):
    table = load(tmp_path, text)
    assert names(table["reference"]) == ["r.png", "r.png"]
    assert names(table["distorted"]) == ["a.png", "b.png"]
    assert table["score"].tolist() == [1, 2]
    if "var" in text or "std" in text:
        assert table["std"].tolist() == [2, 3]


def test_tid_names_its_references_in_the_names_of_the_images(tmp_path):
    for name in ("reference_images/I01.BMP", "distorted_images/i01_01_1.bmp", "distorted_images/i01_24_5.bmp"):
        image(tmp_path / name)
    table = load(tmp_path, "5.51 I01_01_1.bmp\n3.2 I01_24_5.bmp\n")
    assert table["score"].tolist() == [5.51, 3.2]
    assert names(table["reference"]) == ["I01.BMP"] * 2
    assert names(table["distorted"]) == ["i01_01_1.bmp", "i01_24_5.bmp"]


def test_names_that_differ_from_the_files(tmp_path):
    image(tmp_path / "Sub/R.png"), image(tmp_path / "d.PNG"), image(tmp_path / "gro\u0308\u00dfe.png")  # o and its dots apart
    rows = "sub\\r.png,D.png,1\nSub/R.png,gr\u00f6\u00dfe.png,2\nR.png,../D.PNG,3\n"
    (tmp_path / "t.csv").write_text(f"ref,dist,mos\n{rows}", encoding="utf-8")
    data = load_csv(tmp_path / "t.csv")
    assert data.table[["reference", "distorted"]].map(lambda path: Path(path).is_file()).sum().tolist() == [2, 2]
    assert load_csv(tmp_path / "t.csv", tmp_path / "Sub").table["distorted"].map(lambda path: Path(path).is_file()).sum() == 1
    assert "3 names differ from the files' in case, slashes or accents" in data.notes[0]
    image(tmp_path / "D.pnG")  # now there are two
    assert load_csv(tmp_path / "t.csv").table["distorted"][0] == str(tmp_path / "D.png")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (['"1,432"', "987.5", '"1,105"'], [1432, 987.5, 1105]),
        (['"1,432,000"', "1", "2"], [1432000, 1, 2]),
        (['"1.432,5"', '"2,5"', "1.432"], [1432.5, 2.5, 1432]),
        (['"1.432,5"', "987.5", "1"], "decimal points in some lines and commas in others"),
        (['"4,25"', '"3,125"', "4"], [4.25, 3.125, 4]),
        (["\u22121.5", "-2", "1e3"], [-1.5, -2, 1000]),
        (['"1,432"', "987", "1"], "may be 1432 or 1.432"),
        (['"1,4"', "987.5", "1"], "decimal points in some lines and commas in others"),
    ],
)
def test_commas_in_numbers(tmp_path, scores, expected):
    text = "".join(f"r.png,{place}.png,{score}\n" for place, score in enumerate(scores))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            load(tmp_path, text)
    else:
        assert load(tmp_path, text)["score"].tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ref,dist,mos\nr,d,1\n\n,e,2\n", r"t\.csv: line 4 has no reference"),
        ("ref,dist,mos\nr,d,\n", r"t\.csv: line 2 has no score"),
        ("ref,dist,mos\nr,d\n", r"t\.csv: line 2 has no score"),
        ("ref,dist,mos\nr,d,1,x\n", r"t\.csv: line 2 has 4 fields, the first row 3"),
        ("r.png,d.png,bad\nr.png,e.png,1\n", r"t\.csv has no finite score in line 1: 'bad'"),
        ("ref,dist,mos\n\nr,d,inf\n", r"t\.csv has no finite score in line 3"),
        ("ref,dist,mos\nr,d,nan\nr,e,--\n", r"t\.csv has no finite score in lines 2, 3"),
        ("ref,dist,mos,std\nr,d,1,x\n", r"t\.csv has no finite std in line 2: 'x'"),
        ("ref,dist,mos,std\nr,d,1,-1\n", r"t\.csv: line 2 has a negative std"),
        ("ref,dist,mos,var\nr,d,1,2\nr,e,1,-1\n", r"t\.csv: line 3 has a negative variance"),
        ("ref,dist,mos,MOS\nr,d,1,2\n", r"t\.csv has two columns of the name mos"),
        ('ref,dist,mos\n"r,d,1\n', r"t\.csv: line 2 cannot be read"),
        ("ref,dist,mos\nr,d,1\nr,d,2\n", "line 3 twice"),
        ("ref_name,other,mos\nr,d,1\n", "no column for distorted: its header is ref_name, other, mos. Accepted names"),
        ("a,b\nr,d\n", "2 columns"),
        ("image,mos\na.png,1\n", "no column for reference"),
        ("ref,dist,mos\n", "no rows"),
        ("", r"t\.csv has no rows"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path, text, message, recwarn):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text)
    assert not recwarn.list


def test_what_is_no_table(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"PK\3\4\0\0\0\0\1\0")
    with pytest.raises(ValueError, match="not a table of text"):
        load_csv(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="no CSV file"):
        load_csv(tmp_path / "absent.csv")


def test_what_is_no_data_set():
    table = pd.DataFrame({"reference": "r", "distorted": ["a", "b", "c"], "score": [1, np.nan, 3]})
    for wrong, message in (
        (table, "no finite opinion for 1 images: b"),
        (table.drop(columns="score"), "no column score"),
        (table.assign(distorted=["a", "c", "c"]), "lists a pair twice: c"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset("mine", wrong, False)


@pytest.mark.parametrize(
    ("name", "target", "names", "kinds", "std"),
    [
        ("live", "LIVEIQA_release2", ["jp2k/img2.bmp", "wn/img2.bmp"], ["jp2k", "wn"], None),
        ("csiq", "CSIQ/dst_imgs", ["1600.AWGN.1.png", "1600.jpeg2000.5.png"], ["AWGN", "jpeg2000"], None),
        ("tid2013", "tid2013/distorted_images", ["i01_08_3.bmp", "I01_24_1.bmp"], ["Gaussian blur", "sparse sampling"], 0.13),
        ("kadid10k", "kadid10k/images", ["I01_01_01.png", "I01_25_05.png"], ["Gaussian blur", "contrast change"], 0.5),
    ],
)
def test_pyiqa_data_sets(tmp_path, capsys, name, target, names, kinds, std):
    import pyiqa

    info = pyiqa.get_dataset_info(name)
    meta = tmp_path / Path(*Path(info["meta_info_file"]).parts[1:])
    meta.parent.mkdir(parents=True)
    frame = pd.DataFrame({"ref_name": "ref.bmp", "dist_name": names, "mos": [1.0, 2.0]})
    if std is not None:
        frame["std"] = std
    frame.to_csv(meta, index=False)
    for path in names:
        image(tmp_path / target / path)
    data = load_pyiqa(name, tmp_path)
    assert data.lower_is_better == info["lower_better"]
    assert data.table["distortion"].tolist() == kinds
    assert data.table["score"].tolist() == [1.0, 2.0]
    assert all(Path(path).is_file() for path in data.table["distorted"])
    assert ("std" in data.table) == (std is not None)
    if std is not None:
        assert data.table["std"].tolist() == [std, std]
    assert capsys.readouterr().out == ""


def test_pyiqa_names(tmp_path):
    with pytest.raises(ValueError, match="knows no data set named 'nothing'"):
        load_pyiqa("nothing", tmp_path)
    with pytest.raises(ValueError, match="no reference images"):
        load_pyiqa("koniq10k", tmp_path)


def test_deviations_follow_a_split():
    class Loaded:
        opt = {"dataroot_target": "images"}  # noqa: RUF012
        meta_info = pd.DataFrame({"r": ["a", "a"], "d": ["x.png", "y.png"], "mos": [1, 2], "MOS_std": [0.1, 0.2]})
        paths_mos = [["refs/a", str(Path("images/y.png")), 2]]  # noqa: RUF012

    data = from_pyiqa(Loaded(), "mine", False)
    assert data.table["std"].tolist() == [0.2]
    assert "distortion" not in data.table
