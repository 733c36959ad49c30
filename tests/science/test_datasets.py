from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from msds_plugin.adapters.benchmark.datasets import from_pyiqa, load_csv, load_pyiqa
from PIL import Image


def write_csv(tmp_path, header, *rows):
    path = tmp_path / "set.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_columns_by_name_in_any_order(tmp_path):
    path = write_csv(tmp_path, "DMOS,img_name,type,ref,mos_std,other", "3.5,a/d.png,blur,r.png,0.2,x", "4,b/d.png,,r.png,,y")
    data = load_csv(path, root="images", lower_is_better=True)
    assert data.name == "set"
    assert data.lower_is_better
    assert data.table["score"].tolist() == [3.5, 4.0]
    assert data.table["reference"].tolist() == [str(Path("images/r.png"))] * 2
    assert data.table["distorted"].tolist() == [str(Path("images/a/d.png")), str(Path("images/b/d.png"))]
    assert data.table["distortion"][0] == "blur"
    assert pd.isna(data.table["distortion"][1])
    assert data.table["std"][0] == 0.2
    assert np.isnan(data.table["std"][1])


def test_votes_are_scores(tmp_path):
    data = load_csv(write_csv(tmp_path, "ref_name,dist_name,votes,type", "r.png,d.png,43,CR", "r.png,e.png,50,SV"))
    assert data.table["score"].tolist() == [43, 50]


def test_columns_by_position(tmp_path):
    data = load_csv(write_csv(tmp_path, "one,two,three,four", "r.png,d.png,7,x"))
    assert data.table.to_dict("records") == [
        {"reference": str(tmp_path / "r.png"), "distorted": str(tmp_path / "d.png"), "score": 7.0}
    ]


@pytest.mark.filterwarnings("ignore:Length of header:pandas.errors.ParserWarning")
def test_a_comma_at_the_end_of_every_line(tmp_path):
    data = load_csv(write_csv(tmp_path, "ref_name,dist_name,mos", "r.png,d.png,7,", "r.png,e.png,8,"))
    assert data.table["score"].tolist() == [7.0, 8.0]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("a,b", ["r,d"], "2 columns"),
        ("ref_name,other,mos", ["r,d,1"], "no column for distorted"),
        ("ref_name,dist_name,mos", [], "no rows"),
        ("ref_name,dist_name,mos", ["r,d,1", "r,e,bad"], "finite score in lines 3"),
        ("ref_name,dist_name,mos", ["r,d,1", "r,d,2"], "line 3 twice"),
    ],
)
def test_bad_tables(tmp_path, header, rows, message):
    with pytest.raises(ValueError, match=message):
        load_csv(write_csv(tmp_path, header, *rows))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CSV file"):
        load_csv(tmp_path / "absent.csv")


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


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
    pyiqa = pytest.importorskip("pyiqa")
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
    pytest.importorskip("pyiqa")
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


ROWS = [("r1.png", "001", 4.5), ("NA", "1e3", 3.25)]


def written(separator: str, header: bool, comma: bool, space: str) -> str:
    rows = ([("reference", "distorted", "score")] if header else []) + [
        (r, d, str(s).replace(".", ",") if comma else str(s)) for r, d, s in ROWS
    ]
    return "\r\n".join((separator + space).join(row) for row in rows) + "\r\n\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize(("separator", "comma"), [(",", False), (";", False), (";", True), ("\t", True)])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("space", ["", " "])
def test_tables_as_they_are_written(tmp_path, encoding, separator, comma, header, space):
    (tmp_path / "t.csv").write_bytes(written(separator, header, comma, space).encode(encoding))
    table = load_csv(tmp_path / "t.csv", root="x").table
    assert [Path(path).name for path in table["reference"]] == ["r1.png", "NA"]
    assert [Path(path).name for path in table["distorted"]] == ["001", "1e3"]
    assert table["score"].tolist() == [4.5, 3.25]


def test_latin_1(tmp_path):
    (tmp_path / "t.csv").write_bytes("ref,dist,mos\ncaf\u00e9.png,d.png,1\n".encode("latin-1"))
    assert load_csv(tmp_path / "t.csv").table["reference"][0].endswith("caf\u00e9.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ref,dist,mos\nr,d,1\n\n,e,2\n", r"t\.csv: line 4 has no reference"),
        ("ref,dist,mos\nr,d,\n", r"t\.csv: line 2 has no score"),
        ("ref,dist,mos\nr,d\n", r"t\.csv: line 2 has no score"),
        ("ref,dist,mos\nr,d,1,x\n", r"t\.csv: line 2 has 4 fields, the first row 3"),
        ("r.png,d.png,bad\nr.png,e.png,1\n", r"t\.csv has no finite score in lines 1"),
        ("ref,dist,mos\n\nr,d,inf\n", r"t\.csv has no finite score in lines 3"),
        ("ref,dist,mos,std\nr,d,1,x\n", r"t\.csv: line 2 has the standard deviation 'x'"),
        ("ref,dist,mos,MOS\nr,d,1,2\n", r"t\.csv has two columns of the name mos"),
        ('ref,dist,mos\n"r,d,1\n', r"t\.csv: line 2 cannot be read"),
        ("", r"t\.csv has no rows"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_csv(tmp_path / "t.csv")


def test_what_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"PK\3\4\0\0\0\0\1\0")
    with pytest.raises(ValueError, match="not a table of text"):
        load_csv(tmp_path / "t.csv")
