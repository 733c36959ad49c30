"""Tables of labels as people and programs write them."""

from __future__ import annotations

import pytest
from msds_plugin.adapters.benchmark.datasets import load_csv

ROWS = [["r1.png", "d1.png", "4.4"], ["r2.png", "d2.png", "3.8"], ["r3.png", "d3.png", "3.2"]]
HEADER = ["reference", "distorted", "score"]


def table(rows=ROWS, separator=",", header=HEADER, newline="\n"):
    return "".join(separator.join(row) + newline for row in ([header] if header else []) + rows)


def scores(path):
    return load_csv(path).table["score"].tolist()


@pytest.mark.parametrize("separator", [",", ";", "\t", ", ", "; "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
def test_separators_encodings_and_lines(tmp_path, separator, encoding, newline):
    rows = [["é" + reference, *rest] for reference, *rest in ROWS]
    path = tmp_path / "labels.csv"
    path.write_bytes(table(rows, separator, newline=newline).encode(encoding))
    found = load_csv(path).table
    assert found["score"].tolist() == [4.4, 3.8, 3.2]
    assert [value.rpartition("/")[2] for value in found["reference"]] == ["ér1.png", "ér2.png", "ér3.png"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(tmp_path, separator):
    (tmp_path / "t.csv").write_text(table([[r, d, s.replace(".", ",")] for r, d, s in ROWS], separator))
    assert scores(tmp_path / "t.csv") == [4.4, 3.8, 3.2]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_without_a_header_keeps_its_first_image(tmp_path, separator):
    (tmp_path / "t.csv").write_text(table(separator=separator, header=None))
    assert scores(tmp_path / "t.csv") == [4.4, 3.8, 3.2]


def test_a_header_of_other_words_is_no_image(tmp_path):
    (tmp_path / "t.csv").write_text(table(header=["original", "coded", "opinion"]))
    assert scores(tmp_path / "t.csv") == [4.4, 3.8, 3.2]


def test_names_are_text(tmp_path):
    rows = [["NA", "001", "1"], ["null", "1e3", "2"], ["nan", "1.0", "3"]]
    (tmp_path / "t.csv").write_text(table(rows))
    found = load_csv(tmp_path / "t.csv").table
    assert [value.rpartition("/")[2] for value in found["distorted"]] == ["001", "1e3", "1.0"]
    assert [value.rpartition("/")[2] for value in found["reference"]] == ["NA", "null", "nan"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (",d4.png,1.4", "line 6 has no reference"),
        ("r4.png,,1.4", "line 6 has no distorted"),
        ("r4.png,d4.png,", "line 6 has no score"),
        ("r4.png,d4.png,many", "score in lines 6"),
        ("r4.png,d4.png,inf", "score in lines 6"),
        ("r4.png,d4.png,1.4,more", "line 6 has 4 fields"),
        ("r4.png,d4.png", "line 6 has no score"),
        ("r1.png,d1.png,4.4", "line 6 twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says, recwarn):
    (tmp_path / "labels.csv").write_text(table() + "\n" + line + "\n")
    with pytest.raises(ValueError, match=says) as error:
        load_csv(tmp_path / "labels.csv")
    assert "labels.csv" in str(error.value)
    assert not recwarn.list


def test_separators_at_the_end_of_every_line(tmp_path):
    (tmp_path / "t.csv").write_text("".join(line + ",,\n" for line in table().splitlines()))
    assert scores(tmp_path / "t.csv") == [4.4, 3.8, 3.2]
