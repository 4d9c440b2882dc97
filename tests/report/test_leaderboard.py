"""Means, sums, rates and differences against numbers worked out by hand."""

import itertools

import pytest
from pandas.testing import assert_frame_equal

from ad_assets.metrics.uncertainty import Interval
from ad_assets.papers import published as papers
from ad_assets.report import comparison
from ad_assets.report.certainty import certainty
from ad_assets.report.formats import TIDY, to_latex
from ad_assets.report.leaderboard import build, from_table, rows_of, to_table
from ad_assets.report.tables import matrix, percent, signed_percent
from ad_assets.report.text import text_table


def row(
    category,
    metric,
    value,
    *,
    detector="pc",
    protocol="standard",
    n=10,
    seed=0,
    dataset="mvtec_ad",
    seconds=2.0,
):
    return {
        "dataset": dataset,
        "category": category,
        "detector": detector,
        "protocol": protocol,
        "metric": metric,
        "value": value,
        "n": n,
        "seconds": seconds,
        "seed": seed,
        "fingerprint": f"{category}-{detector}",
    }


def cell_of(board, metric, category, protocol="standard", detector="pc"):
    """The row of one cell, None where there is none."""
    own = (board.metric == metric) & (board.protocol == protocol) & (board.detector == detector)
    rows = to_table(board[own & (board.category == category)]).to_pylist()
    assert len(rows) < 2
    return rows[0] if rows else None


def mean_of(board, metric, protocol="standard", detector="pc"):
    return cell_of(board, metric, "mean", protocol, detector)


def test_mean_and_difference_over_a_part_of_the_papers_categories():
    rows = build(
        [row("bottle", "image_auroc", 0.99), row("cable", "image_auroc", 0.97)],
        {"pc": ("PatchCore-10", "MVTec AD")},
    )
    # PatchCore-10 prints bottle 100.0 and cable 99.4.
    bottle, cable = (cell_of(rows, "image_auroc", name) for name in ("bottle", "cable"))
    assert (bottle["paper_value"], bottle["paper_system"]) == (1.0, "PatchCore-10")
    assert bottle["delta"] == pytest.approx(-0.01)
    assert cable["delta"] == pytest.approx(-0.024)
    mean = mean_of(rows, "image_auroc")
    assert mean["value"] == pytest.approx(0.98)
    assert (mean["n"], mean["aggregate"], mean["seconds"], mean["seed"]) == (2, "mean", 4.0, 0)
    assert mean["paper_value"] == pytest.approx(0.997)  # of the same two, not the printed 99.0 of all fifteen
    assert mean["delta"] == pytest.approx(-0.017)


def test_a_complete_run_is_compared_with_the_printed_mean():
    names = sorted(papers.categories("MVTec AD"))
    rows = build([row(name, "image_auroc", 0.95) for name in names], {"pc": ("PatchCore-10", "mvtec_ad")})
    mean = mean_of(rows, "image_auroc")
    assert mean["paper_value"] == 0.99  # its categories average 98.93
    assert mean["delta"] == pytest.approx(-0.04)


def test_a_paper_that_prints_only_a_mean_is_compared_only_with_a_complete_run():
    names = sorted(papers.categories("MVTec AD"))
    pair = {"pc": ("PatchCluster-25", "MVTec AD")}
    complete = build([row(name, "image_auroc", 0.95) for name in names], pair)
    partial = build([row(name, "image_auroc", 0.95) for name in names[:3]], pair)
    assert mean_of(complete, "image_auroc")["paper_value"] == 0.983
    assert mean_of(partial, "image_auroc")["paper_value"] is None
    # A dataset whose categories no paper lists: the printed mean is all there is.
    tiles = build([row("tile", "image_auroc", 0.9, dataset="mtd")], {"pc": ("PatchCore-10", "MTD")})
    assert mean_of(tiles, "image_auroc")["delta"] == pytest.approx(0.9 - 0.979)
    assert cell_of(tiles, "image_auroc", "tile")["paper_value"] is None


def test_errors_add_up_times_add_up_and_rates_are_over_all_images():
    rows = build(
        [
            row("a", "false_positives", 3, protocol="nominal_threshold"),
            row("b", "false_positives", 4, protocol="nominal_threshold"),
            row("a", "threshold", 1.5, protocol="nominal_threshold"),
            row("b", "threshold", 2.5, protocol="nominal_threshold"),
            row("a", "image_f1", 0.5, protocol="nominal_threshold"),
            row("b", "image_f1", 1.0, protocol="nominal_threshold"),
            row("a", "fit_seconds", 8.0, protocol="timing"),
            row("b", "fit_seconds", 2.5, protocol="timing"),
            row("a", "score_images_per_second", 5.0, protocol="timing", n=10),
            row("b", "score_images_per_second", 30.0, protocol="timing", n=30),
        ],
        {},
    )
    errors = mean_of(rows, "false_positives", "nominal_threshold")
    assert (errors["value"], errors["aggregate"]) == (7, "sum")
    assert mean_of(rows, "threshold", "nominal_threshold") is None
    assert mean_of(rows, "image_f1", "nominal_threshold")["value"] == 0.75
    assert mean_of(rows, "fit_seconds", "timing")["value"] == 10.5
    rate = mean_of(rows, "score_images_per_second", "timing")
    assert rate["value"] == pytest.approx(40 / 3)  # 40 images in 2 s + 1 s; the plain mean would say 17.5
    assert rate["aggregate"] == "throughput"


def test_a_mean_over_a_part_of_the_datasets_categories_says_so_everywhere_and_is_no_best():
    rows = [row(c, "image_auroc", 0.9) for c in "abcd"] + [row("a", "image_auroc", 1.0, detector="one")]
    board = build(rows, {})
    assert mean_of(board, "image_auroc")["aggregate"] == "mean"
    assert mean_of(board, "image_auroc", detector="one")["aggregate"] == "mean, 1 of 4 categories"
    cells = {cell.part: cell.best for _, line in matrix(rows_of(board), "image_auroc").rows[-1:] for cell in line}
    assert cells == {"": False, "1 of 4": False}
    assert "1 of 4 categories" in TIDY["csv"](board).decode()
    assert "[1 of 4]" in to_latex(board, "image_auroc", "standard")
    compared = comparison.text_table(comparison.compare(board))
    assert "90.0*" in compared
    assert "100.0 [1 of 4]" in compared
    # Where no lane has the others' rows, the dataset says how many there are.
    alone = build([row("a", "image_auroc", 0.9)], {}, categories=4)
    assert "90.0 [1 of 4]" in text_table(alone)
    assert mean_of(from_table(to_table(alone)), "image_auroc")["aggregate"] == "mean, 1 of 4 categories"
    assert rows_of(alone)[-1].complete == 4


def test_no_mean_where_a_category_lacks_the_metric():
    rows = build(
        [
            row("a", "image_auroc", 0.9),
            row("b", "image_auroc", 0.8),
            row("a", "pixel_auroc", 0.7),
            row("a", "aupro_0.30", 0.6),
            row("b", "aupro_0.30", float("nan")),
        ],
        {},
    )
    assert mean_of(rows, "image_auroc")["value"] == pytest.approx(0.85)
    assert mean_of(rows, "pixel_auroc") is None
    assert mean_of(rows, "aupro_0.30") is None
    assert cell_of(rows, "aupro_0.30", "b")["value"] is None


def test_oracle_rows_come_last_and_stand_beside_no_paper_that_chose_otherwise():
    rows = build(
        [
            row("bottle", "image_auroc", 1.0, protocol="oracle_threshold"),
            row("bottle", "image_auroc", 0.9),
            row("bottle", "image_f1", 0.9, protocol="nominal_threshold"),
        ],
        {"pc": ("SimpleNet", "MVTec AD")},
    )
    assert list(rows.protocol) == ["standard"] * 2 + ["nominal_threshold"] * 2 + ["oracle_threshold"] * 2
    assert rows.paper_value.notna().tolist() == [True, True, False, False, False, False]
    assert rows.paper_value[0] == 1.0
    assert mean_of(rows, "image_auroc")["value"] == 0.9


def test_the_order_of_rows_changes_nothing_but_the_order_of_detectors():
    given = [
        row(category, metric, value / 100, detector=detector, seed=seed)
        for detector in ("z", "a")
        for seed, (category, metric, value) in enumerate(
            [
                ("x", "image_auroc", 91),
                ("y", "image_auroc", 83),
                ("x", "pixel_auroc", 97),
                ("y", "pixel_auroc", 71),
            ]
        )
    ]
    expected = build(given, {})
    assert list(expected.detector.unique()) == ["z", "a"]
    assert mean_of(expected, "image_auroc", detector="z")["seed"] is None  # two seeds have no one seed
    for shuffled in itertools.permutations(given[:4]):
        assert_frame_equal(build([*shuffled, *given[4:]], {}), expected)


def test_a_mean_changes_its_fingerprint_with_any_part():
    one = build([row("a", "image_auroc", 0.9), row("b", "image_auroc", 0.8)], {})
    other = build([row("a", "image_auroc", 0.9), {**row("b", "image_auroc", 0.8), "fingerprint": "new"}], {})
    assert mean_of(one, "image_auroc")["fingerprint"] != mean_of(other, "image_auroc")["fingerprint"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are none: materialize the metrics"),
        ([{"dataset": "d", "category": "c"}], "row 0 lacks detector, protocol"),
        ([row("a", "image_auroc", 1.0)] * 2, "row 1 repeats a / pc / standard / image_auroc"),
        ([row("mean", "image_auroc", 1.0)], "'mean' is taken"),
        ([row("a", "image_auroc", 1.0), row("a", "image_ap", 1.0, dataset="other")], "of mvtec_ad, other"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        build(rows, {})


def test_unknown_paper_is_an_error_and_an_unused_one_is_not():
    with pytest.raises(ValueError, match="PatchCore 25"):
        build([row("a", "image_auroc", 1.0)], {"pc": ("PatchCore 25", "MVTec AD")})
    assert len(build([row("a", "image_auroc", 1.0)], {"not_run": ("nobody", "MVTec AD")})) == 2


def test_a_matrix_puts_the_mean_last_and_keeps_the_detectors_order():
    rows = build([row(c, "image_auroc", 0.9, detector=d) for d in ("z", "a") for c in ("zipper", "nut")], {})
    table = matrix(rows_of(rows), "image_auroc")
    assert table.columns == ("z", "a")
    assert [category for category, _ in table.rows] == ["nut", "zipper", "mean"]
    assert matrix(rows_of(rows), "image_ap").rows == ()


def test_text_table():
    rows = build(
        [
            row("bottle", "image_auroc", 0.9914),
            row("metal_nut", "image_auroc", 0.9998),
            row("bottle", "pixel_auroc", 0.98),
            row("metal_nut", "pixel_auroc", 0.97),
            row("bottle", "image_auroc", 0.5, detector="long_name"),
            row("bottle", "false_positives", 2, protocol="nominal_threshold"),
            row("metal_nut", "false_positives", 1, protocol="nominal_threshold"),
            row("bottle", "false_negatives", 0, protocol="oracle_f1"),
            row("metal_nut", "false_negatives", 5, protocol="oracle_f1"),
        ],
        {"pc": ("PatchCore-10", "MVTec AD")},
    )
    assert text_table(rows) == "\n".join(
        [
            "mvtec_ad: image AUROC, % (paper, difference)",
            "",
            "                           pc      long_name",
            "bottle     99.1 (100.0, -0.9)           50.0",
            "metal_nut  100.0 (100.0, 0.0)              –",
            "mean       99.6 (100.0, -0.4)  50.0 [1 of 2]",
            "",
            "means over categories, % (paper, difference)",
            "",
            "                  image AUROC        pixel AUROC  AUPRO 0.30",
            "pc         99.6 (100.0, -0.4)  97.5 (98.5, -1.0)           –",
            "long_name       50.0 [1 of 2]                  –           –",
            "",
            "threshold from nominal training images",
            "",
            "           false alarms",
            "pc                    3",
            "long_name             –",
            "",
            "ORACLE threshold, chosen on test labels: an upper bound, not a result",
            "",
            "           misses",
            "pc              5",
            "long_name       –",
        ]
    )


def test_an_epoch_chosen_on_test_labels_stands_beside_the_paper_and_apart():
    rows = build(
        [
            row("bottle", "image_auroc", 0.95),
            row("bottle", "image_auroc", 0.99, protocol="oracle_best_epoch"),
            row("bottle", "image_auroc", 0.9, detector="other"),
        ],
        {"pc": ("SimpleNet", "MVTec AD")},
    )
    # SimpleNet prints bottle 100.
    assert mean_of(rows, "image_auroc", "oracle_best_epoch")["delta"] == pytest.approx(-0.01)
    plain, apart = text_table(rows).split("ORACLE epoch")
    assert "95.0 (100.0, -5.0)" in plain
    assert "99.0" not in plain
    assert "99.0 (100.0, -1.0)" in apart
    assert "other" not in apart


def test_text_table_keeps_its_width():
    rows = build(
        [
            row(category, "image_auroc", 0.5 + k / 100, detector=f"a_detector_with_a_name_{k}")
            for k in range(12)
            for category in ("bottle", "metal_nut")
        ],
        {f"a_detector_with_a_name_{k}": ("HETMM-60sheets", "MVTec AD") for k in range(12)},
    )
    text = text_table(rows)
    assert max(map(len, text.splitlines())) <= 110
    assert all(f"a_detector_with_a_name_{k}" in text for k in range(12))
    assert text.count("metal_nut") == 4  # 9 + 3 x (2 + 24) = 87 characters: three detectors a block
    with pytest.raises(ValueError, match="does not fit into 20"):
        text_table(rows, width=20)


def test_numbers_as_text():
    assert percent(1.0) == "100.0"
    assert signed_percent(0.0123) == "+1.2"
    assert signed_percent(-0.0004) == "0.0"


def test_intervals_of_means_are_not_means_of_ends():
    ends = [
        row(c, f"image_auroc_{end}", value, protocol="interval_95")
        for c in "ab"
        for end, value in (("low", 0.8), ("high", 0.9))
    ]
    rows = build(
        [row("a", "image_auroc", 0.85), row("b", "image_auroc", 0.85), *ends],
        {},
        {("pc", "mean", "interval_95"): Interval(0.82, 0.88)},
    )
    low, high = (mean_of(rows, f"image_auroc_{end}", "interval_95") for end in ("low", "high"))
    assert (low["value"], high["value"], low["n"]) == (0.82, 0.88, 2)
    assert "[82.0, 88.0]" in text_table(rows)
    without = build([row("a", "image_auroc", 0.85), *ends[:2]], {})
    assert mean_of(without, "image_auroc_low", "interval_95") is None


def test_only_differences_that_chance_does_not_explain_are_called_sure():
    names = [f"c{number}" for number in range(8)]
    better = [row(name, "image_auroc", 0.9 + number / 100, detector="good") for number, name in enumerate(names)]
    worse = [row(name, "image_auroc", 0.8 + number / 200, detector="poor") for number, name in enumerate(names)]
    told = certainty(rows_of(build([*better, *worse], {}, unseeded=["good", "poor"])))
    assert told[0] == "differences in image AUROC that are sure at p = 0.05, over categories and over seeds"
    assert told[2].strip().startswith("good over poor: 11.8 points, p = 0.0078, over seeds 0")  # 2 / 2^8
    few = certainty(rows_of(build([*better[:4], *worse[:4]], {})))
    assert few[0] == "no difference in image AUROC is sure at p = 0.05 (4 categories cannot go below p = 0.12)"
    assert certainty(rows_of(build(better, {}))) == []


def drawn(shifts, detector="good", base=0.8):
    """Rows of eight categories of a lane and its further draws, each better than another by the same."""
    return [
        row(f"c{number}", "image_auroc", base + number / 100 + shift, detector=f"{detector}{suffix}")
        for number in range(8)
        for shift, suffix in zip(shifts, ("", "_draw_2", "_draw_3"), strict=False)
    ]


def test_draws_are_one_row_with_mean_and_spread():
    threshold = [
        row("c0", "threshold", value, detector=name, protocol="nominal_threshold")
        for name, value in (("good", 3.0), ("good_draw_2", 5.0))
    ]
    draws = {"good": ("good_draw_2", "good_draw_3")}
    board = build([*drawn([0.0, 0.03, 0.06]), *threshold], {"good": ("PatchCore-10", "MVTec AD")}, draws=draws)
    assert set(board.detector) == {"good"}
    one, mean = cell_of(board, "image_auroc", "c0", detector="good"), mean_of(board, "image_auroc", detector="good")
    assert (one["value"], one["seed_std"], one["draws"]) == pytest.approx((0.83, 0.03, 3))
    assert (mean["value"], mean["seed_std"], mean["draws"]) == pytest.approx((0.865, 0.03, 3))
    kept = cell_of(board, "threshold", "c0", "nominal_threshold", "good")
    assert (kept["value"], kept["draws"], kept["seed_std"]) == (3.0, 1, None)  # of the first: scales differ
    assert "86.5 ±3.0" in text_table(board)
    assert "±" not in text_table(build(drawn([0.0]), {}))
    assert r"86.5 $\pm$3.0" in to_latex(board)
    assert "3 seeds from 0 on" in matrix(rows_of(board), "image_auroc").rows[-1][1][0].hint
    # A draw without one of the categories is in the rows of the others, and in no mean.
    part = build(drawn([0.0, 0.03, 0.06])[:-1], {}, draws=draws)
    assert [mean_of(part, "image_auroc", detector="good")[name] for name in ("draws", "n")] == [2, 8]
    assert cell_of(part, "image_auroc", "c0", detector="good")["draws"] == 3


@pytest.mark.parametrize(
    ("shifts", "said"),
    [
        ([0.05, 0.06, 0.07], "differences in image AUROC that are sure at p = 0.05, over categories and over seeds"),
        ([0.05, -0.1, 0.3], "sure over categories, not over seeds"),
        ([0.05], "sure over categories; nothing is known over seeds (draws: 5)"),
    ],
)
def test_better_is_what_is_so_over_categories_and_over_seeds(shifts, said):
    draws = {"good": ("good_draw_2", "good_draw_3")[: len(shifts) - 1]}
    board = build([*drawn(shifts), *drawn([0.0], "poor", 0.79)], {}, draws=draws, unseeded=["poor"])
    told = certainty(rows_of(board))
    assert told[told.index(said) + 1 + (said == told[0])].strip().startswith("good over poor")
    assert (said == told[0]) == told[0].startswith("differences")


def test_an_interval_over_seeds_stands_beside_that_over_images():
    ends = [row("a", f"image_auroc_{end}", 0.5, protocol="interval_95") for end in ("low", "high")]
    intervals = {
        ("pc", c, p): Interval(low, 0.9)
        for c in ("a", "mean")
        for p, low in (("interval_95", 0.8), ("interval_95_seeds", 0.7))
    }
    board = build([row("a", "image_auroc", 0.85), *ends], {}, intervals)
    for category in ("a", "mean"):
        assert cell_of(board, "image_auroc_low", category, "interval_95")["value"] == 0.8
        assert cell_of(board, "image_auroc_low", category, "interval_95_seeds")["value"] == 0.7
    lines = text_table(board).splitlines()
    assert any("95 % interval  over seeds too" in line for line in lines)
    assert any("[80.0, 90.0]    [70.0, 90.0]" in line for line in lines)
