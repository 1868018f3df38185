"""The built-in checks, on tables whose verdict is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from surgeon.errors import StudyError
from surgeon.statistics import spearman
from surgeon.studies import Row, Table
from surgeon.studies.checks import BUILT_IN
from surgeon.studies.judging import judge, load_check
from surgeon.studies.study_file import Check

NUMBERS = st.integers(-5, 5).map(float)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8))
def test_spearman_is_scipys(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) == 0
    else:
        assert math.isclose(
            spearman(first, second), spearmanr(first, second).statistic, abs_tol=1e-12
        )


def grid(values, figure="psnr", missing=()):
    """A table of axes `line` and `k` from {line: [value for each k]}; None: no such row."""
    deepest = max(len(v) for v in values.values())
    axes = {"line": list(values), "k": [str(k) for k in range(deepest)]}
    rows = [
        Row({"line": line, "k": str(k)}, f"blocks[{k}]", {figure: value}, Path(f"{line}{k}"), "p")
        for line, found in values.items() for k, value in enumerate(found) if value is not None
    ]  # fmt: skip
    return Table(tuple(rows), axes, tuple(missing))


def verdict(check, table, **settings):
    (found,) = judge(table, (Check(claim="c", check=check, **settings),))
    return found


def test_above_and_below():
    table = grid({"a": [1.0, 2.0, 3.0, 10.0]})
    found = verdict("above", table, figure="psnr", threshold=1.0)
    assert (found.verdict, found.value, found.threshold) == ("confirmed", 1.0, 1.0)
    assert "4 of 4 values (1 to 10)" in found.sentence
    found = verdict("above", table, figure="psnr", threshold=2.0)
    assert (found.verdict, found.value) == ("refuted", 1.0)
    assert "3 of 4" in found.sentence
    assert verdict("above", table, figure="psnr", threshold=2.0, share=0.75).value == 2.0
    assert verdict("above", table, figure="psnr", threshold=2.0, share=0.75).verdict == "confirmed"
    assert verdict("below", table, figure="psnr", threshold=3.0).verdict == "refuted"
    assert verdict("below", table, figure="psnr", threshold=3.0, share=0.5).verdict == "confirmed"


@given(st.lists(NUMBERS, min_size=1, max_size=9), NUMBERS, st.sampled_from([0.25, 0.5, 0.8, 1.0]))
def test_above_says_whether_so_many_are(values, threshold, share):
    found = verdict("above", grid({"a": values}), figure="psnr", threshold=threshold, share=share)
    met = np.mean([v >= threshold for v in values])
    assert (found.verdict == "confirmed") == (met >= share)


def test_spread_is_of_each_line_the_worst_counts():
    table = grid({"a": [10.0, 12.0, 11.0], "b": [10.0, 15.0, 10.0]})
    found = verdict("spread", table, figure="psnr", along="k", threshold=4.0)
    assert (found.verdict, found.value) == ("refuted", 5.0)
    assert "in all of 2 lines of 3 values" in found.sentence
    assert verdict("spread", table, figure="psnr", along="k", threshold=5.0).verdict == "confirmed"
    half = verdict("spread", table, figure="psnr", along="k", threshold=2.0, share=0.5)
    assert (half.verdict, half.value) == ("confirmed", 2.0)
    ratio = verdict("spread", table, figure="psnr", along="k", threshold=1.5, measure="ratio")
    assert (ratio.verdict, ratio.value) == ("confirmed", 1.5)
    least = verdict("spread", table, figure="psnr", along="k", threshold=2.0, wants="at least")
    assert (least.verdict, least.value) == ("confirmed", 2.0)
    one = verdict("spread", table, figure="psnr", along="k", threshold=2.0, where={"line": "a"})
    assert (one.verdict, one.value) == ("confirmed", 2.0)


def test_falls_and_rises():
    down, up = grid({"a": [9.0, 5.0, 4.0]}), grid({"a": [4.0, 5.0, 9.0]})
    asked = {"figure": "psnr", "along": "k", "threshold": 5.0}
    assert verdict("falls", down, **asked).verdict == "confirmed"
    assert verdict("rises", up, **asked).verdict == "confirmed"
    assert verdict("falls", up, **asked).verdict == "refuted"
    assert verdict("rises", down, **asked).verdict == "refuted"
    small = verdict("falls", grid({"a": [9.0, 6.0, 5.0]}), **asked)
    assert (small.verdict, small.value) == ("refuted", 4.0)
    disordered = grid({"a": [9.0, 1.0, 8.0, 7.0, 4.0]})
    assert verdict("falls", disordered, **asked).verdict == "refuted"
    assert verdict("falls", disordered, **{**asked, "correlation": 0.1}).verdict == "confirmed"
    assert verdict("falls", down, **{**asked, "measure": "ratio", "threshold": 2}).value == 2.25


def test_a_trend_is_in_the_axis_order_not_that_of_its_rows():
    table = grid({"a": [9.0, 5.0, 1.0]})
    shuffled = Table(table.rows[::-1], table.axes)
    assert verdict("falls", shuffled, figure="psnr", along="k", threshold=8.0).value == 8.0


def test_compare_takes_cells_in_pairs():
    table = grid({"a": [10.0, 20.0, 30.0], "b": [9.0, 15.0, 40.0]})
    asked = {"figure": "psnr", "axis": "line", "first": "a", "second": "b"}
    found = verdict("compare", table, **asked, threshold=1.0)
    assert (found.verdict, found.value) == ("confirmed", 1.0)
    assert "median 1 of 3 pairs (-10 to 5)" in found.sentence
    ratio = verdict("compare", table, **asked, measure="ratio", threshold=1.0, wants="at most")
    assert (ratio.verdict, ratio.value) == ("refuted", 10 / 9)
    by_number = {"figure": "psnr", "axis": "k", "first": 2, "second": 0, "threshold": 20}
    assert verdict("compare", table, **by_number).value == 25.5


def test_equal_of_numbers_and_texts():
    same, near = grid({"a": [1.0, 1.0], "b": [2.0, 2.0]}), grid({"a": [1.0, 1.5], "b": [2.0, 2.0]})
    assert verdict("equal", same, figure="psnr", along="k").verdict == "confirmed"
    assert verdict("equal", near, figure="psnr", along="k").verdict == "refuted"
    assert verdict("equal", near, figure="psnr", along="k", threshold=0.5).value == 0.5
    for words, expected in ((["x", "x"], "confirmed"), (["x", "y"], "refuted")):
        table = grid({"a": words}, figure="verdict")
        assert verdict("equal", table, figure="verdict", along="k").verdict == expected


MISSING = {"line": "a", "k": "3", "probe": "p"}


@pytest.mark.parametrize(
    ("check", "settings"),
    [
        ("above", {"threshold": 0.0}),
        ("below", {"threshold": 99.0}),
        ("spread", {"threshold": 99.0, "along": "k"}),
        ("falls", {"threshold": 1.0, "along": "k"}),
        ("equal", {"threshold": 99.0, "along": "k"}),
        ("compare", {"threshold": 0.0, "axis": "k", "first": 0, "second": 2}),
    ],
)
def test_what_would_be_confirmed_is_undecided_where_cells_are_missing(check, settings):
    values = {"a": [9.0, 5.0, 1.0]}
    whole = verdict(check, grid(values), figure="psnr", **settings)
    assert whole.verdict == "confirmed"
    concerned = {**MISSING, "k": "2"}
    part = verdict(check, grid(values, missing=[concerned]), figure="psnr", **settings)
    assert part.verdict == "undecided"
    assert "1 cells are missing" in part.sentence
    nothing = verdict(check, grid({"a": []}), figure="psnr", **settings)
    assert (nothing.verdict, nothing.value) == ("undecided", None)
    unknown = verdict(check, grid(values), figure="other", **settings)
    assert unknown.verdict == "undecided"


def test_missing_cells_that_were_not_asked_for_do_not_count():
    table = grid({"a": [9.0], "b": [9.0]}, missing=[{**MISSING, "line": "b"}])
    asked = {"figure": "psnr", "threshold": 1.0}
    assert verdict("above", table, **asked, where={"line": "a"}).verdict == "confirmed"
    assert verdict("above", table, **asked, where={"line": "b"}).verdict == "undecided"


def test_within_the_margin_nothing_is_decided():
    table = grid({"a": [10.0]})
    for threshold, expected in ((9.0, "confirmed"), (9.9, "undecided"), (10.1, "undecided"),
                                (11.0, "refuted")):  # fmt: skip
        found = verdict("above", table, figure="psnr", threshold=threshold, margin=0.5)
        assert found.verdict == expected


def test_several_sites_of_a_run_are_lines_of_their_own():
    rows = [
        Row({"k": str(k)}, site, {"psnr": value}, Path(str(k)), "p")
        for k in (0, 1) for site, value in (("stem", 1.0), ("head", 5.0))
    ]  # fmt: skip
    table = Table(tuple(rows), {"k": ["0", "1"]})
    assert verdict("spread", table, figure="psnr", along="k", threshold=0.0).value == 0.0
    along = verdict("rises", table, figure="psnr", along="site", threshold=4.0)
    assert (along.verdict, along.value) == ("confirmed", 4.0)


def test_a_claim_may_have_no_meaning():
    found = verdict("not_applicable", grid({"a": [1.0]}), why="clothes are no animals")
    assert (found.verdict, found.sentence) == ("not applicable", "clothes are no animals")


def test_a_check_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_check.py").write_text(
        "from surgeon.studies import Finding\n"
        "def most(table, settings):\n"
        "    value = max(table.column(settings['figure']))\n"
        "    met = value >= settings['least']\n"
        "    return Finding(settings['claim'], 'confirmed' if met else 'refuted', value,\n"
        "                   settings['least'], f'{value} of {len(table)}')\n"
        "def broken(table, settings):\n"
        "    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    table = grid({"a": [1.0, 4.0]})
    found = verdict("own_check:most", table, figure="psnr", least=3)
    assert (found.verdict, found.value, found.sentence) == ("confirmed", 4.0, "4.0 of 2")
    broken = verdict("own_check:broken", table)
    assert broken.verdict == "undecided"
    assert "ZeroDivisionError" in broken.sentence
    with pytest.raises(StudyError, match="own_check:none"):
        load_check("own_check:none")


def test_every_check_states_its_number_its_threshold_and_how_many():
    table = grid({"a": [9.0, 5.0, 1.0]})
    more = {"along": "k", "axis": "k", "first": 0, "second": 2}
    for name, (_, cls) in BUILT_IN.items():
        if name != "not_applicable":
            known = {key: value for key, value in more.items() if key in cls.model_fields}
            found = verdict(name, table, figure="psnr", threshold=4.0, **known)
            assert found.verdict in ("confirmed", "refuted"), found
            assert f"{found.value:.4g}" in found.sentence
            assert "4" in found.sentence
            assert " of " in found.sentence


def test_a_tables_rows_columns_and_files(tmp_path):
    table = grid({"a": [1.0, math.nan], "b, c": [2.5]})
    assert table.where(k=0).column("psnr") == [1.0, 2.5]
    assert table.where(line=["a"], k=[0, 1]).labels("k") == ["0", "1"]
    assert len(table.where(site="blocks[0]", probe="p")) == 2
    assert table.column("none") == [None] * 3
    lines = table.to_csv(tmp_path).splitlines()
    assert lines[0] == "line,k,probe,site,psnr,run"
    assert lines[3].startswith('"b, c",0,p,blocks[0],2.5,')
    assert lines[2].split(",")[4] == ""
    same = grid({"a": [1.0]}, figure="k").to_csv(tmp_path).splitlines()
    assert same[0] == "line,k,probe,site,k (figure),run"
