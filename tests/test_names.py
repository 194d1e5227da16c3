"""Names of tomograms, tilt series and particles belong together by rule, never by luck."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopicker.errors import InputError
from tomopicker.io.names import match_names, plain_name, series_name

BEFORE = st.sampled_from(["", "rec_", "REC_", "tomograms/rec_"])
BEHIND = st.sampled_from(
    ["", "_rec", "_REC", "_recon", "_full_rec", "_Vol", "_bin4", "__bin8", "_10.00Apx", "_6.7apx"]
)
SUFFIX = st.sampled_from(["", ".mrc", ".MRC", ".rec", ".hdf", ".ome.zarr"])
SERIES = st.sampled_from(["TS_01", "001", "1", "20240301_pos7", "lamella-3_ts_012", "a b"])


@given(SERIES, BEFORE, BEHIND, BEHIND, SUFFIX)
def test_whatever_programs_put_around_it_a_series_is_found(
    series: str, before: str, behind: str, further: str, suffix: str
) -> None:
    name = f"{before}{series}{behind}{further}{suffix}"
    assert series_name(name) == series
    assert match_names([name], [f"{series}x", series.upper(), f"{series}0"]) == {
        name: series.upper()
    }
    assert match_names([f"{series}.tomostar"], [name]) == {f"{series}.tomostar": name}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("TS_1", "TS_10"),
        ("TS_01", "TS_1"),
        ("TS_1", "xTS_1"),
        ("TS_01_binned", "TS_01"),
        ("TS_01bin4", "TS_01"),
        ("recTS_01", "TS_01"),
        ("TS_01_b", "TS_01"),
        ("4", "TS_01_bin4"),
        ("10", "TS_01_10Apx"),
    ],
)
def test_what_is_no_rule_is_no_match(name: str, other: str) -> None:
    assert match_names([name], [other]) == {}
    assert plain_name(name) != plain_name(other)


def test_a_bare_number_is_the_series_not_its_binning() -> None:
    assert match_names(["1"], ["TS_01_bin4", "TS_04_bin4"]) == {"1": "TS_01_bin4"}


def test_of_two_binnings_the_stated_one_is_meant_and_without_one_nobody_knows() -> None:
    both = ["TS_01_bin4", "TS_01_bin8.mrc"]
    assert match_names(["rec_TS_01_bin8"], both) == {"rec_TS_01_bin8": "TS_01_bin8.mrc"}
    with pytest.raises(InputError, match="TS_01 could be any of TS_01_bin4, TS_01_bin8"):
        match_names(["TS_01"], both)
    sizes = ["TS_01_10.00Apx", "TS_01_5.00Apx"]
    assert match_names(["TS_01_5Apx"], sizes) == {"TS_01_5Apx": "TS_01_5.00Apx"}


def test_nothing_but_an_addition_is_a_name() -> None:
    assert series_name("rec_") == "rec_"
    assert series_name("_bin4") == "_bin4"
