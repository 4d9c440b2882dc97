"""The leaderboard in the formats of other tools: nothing lost, nothing that LaTeX would choke on."""

import csv
import io
import json

import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal
from pyarrow import parquet

from ad_assets.report.formats import escape, to_csv, to_json, to_latex, to_parquet
from ad_assets.report.leaderboard import SCHEMA, build, from_table, to_table
from tests.report.test_leaderboard import row


@pytest.fixture
def rows():
    return build(
        [
            row("bottle", "image_auroc", 0.99, detector="patchcore_10"),
            row("metal_nut", "image_auroc", 0.123456789012345, detector="patchcore_10"),
            row("bottle", "image_auroc", 0.98, detector="hetmm"),
            row("bottle", "pixel_auroc", None, detector="hetmm", seed=None),
            row("bottle", "image_f1", 0.9, detector="hetmm", protocol="oracle_f1"),
            row("bottle", "threshold", -1.5, detector="hetmm", protocol="nominal_threshold"),
        ],
        {"patchcore_10": ("PatchCore-10", "MVTec AD")},
    )


def test_every_format_holds_the_rows(rows):
    table = parquet.read_table(pa.BufferReader(to_parquet(rows)))
    assert table.schema.equals(SCHEMA)
    assert_frame_equal(from_table(table), rows)
    plain = table.to_pylist()
    assert [each["value"] for each in plain if each["category"] == "metal_nut"] == [0.123456789012345]
    assert [each["seed"] for each in plain if each["metric"] == "pixel_auroc"] == [None]
    assert json.loads(to_json(rows)) == plain
    found = list(csv.DictReader(io.StringIO(to_csv(rows).decode())))
    assert [{**each, "value": float(each["value"]) if each["value"] else None} for each in found] == [
        {name: str("" if each[name] is None else each[name]) for name in each} | {"value": each["value"]}
        for each in plain
    ]


def test_a_table_that_earlier_code_stored_is_read_as_it_was():
    earlier = pa.Table.from_pylist(
        to_table(build([row("a", "image_auroc", 0.5, seed=None, seconds=None)], {})).to_pylist()
    )
    assert pa.types.is_null(earlier.schema.field("seed").type)
    assert from_table(earlier).seed.isna().all()
    assert to_table(from_table(earlier)).schema.equals(SCHEMA)


def test_a_board_of_nulls_has_the_same_columns():
    rows = build([row("bottle", "pixel_auroc", None, seed=None, seconds=None)], {})
    assert parquet.read_table(pa.BufferReader(to_parquet(rows))).schema.equals(SCHEMA)


def test_latex(rows):
    text = to_latex(rows)
    assert (
        text
        == r"""\begin{table}
\centering
\caption{Image AUROC in percent on mvtec\_ad; the best is bold. In brackets: as published.}
\label{tab:mvtec_ad-image_auroc}
\begin{tabular}{lrr}
\toprule
 & patchcore\_10 & hetmm \\
\midrule
bottle & \textbf{99.0} (100.0) & 98.0 \\
metal\_nut & 12.3 (100.0) & -- \\
\midrule
mean & 55.7 (100.0) & 98.0 [1 of 2] \\
\bottomrule
\end{tabular}
\end{table}
"""
    )


def test_other_protocols_are_named_and_oracles_called_so(rows):
    text = to_latex(rows, "image_f1", "oracle_f1")
    assert r"\caption{Image F1 in percent on mvtec\_ad, protocol oracle\_f1 (chosen on test labels" in text
    text = to_latex(rows, "threshold", "nominal_threshold")
    assert r"\caption{Threshold on mvtec\_ad, protocol nominal\_threshold;" in text
    assert r"bottle & -1.5 \\" in text
    with pytest.raises(
        ValueError, match=r"no metric image_f1 under the protocol standard; it has: image_auroc \(standard"
    ):
        to_latex(rows, "image_f1")
    with pytest.raises(ValueError, match="of one dataset"):
        to_latex(rows[:0])


def test_every_special_character_is_escaped():
    text = r"a&b%c$d#e_f{g}h~i^j\k<l>m|n–o"
    expected = (
        r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k\textless{}l\textgreater{}m"
        r"\textbar{}n--o"
    )
    assert escape(text) == expected
