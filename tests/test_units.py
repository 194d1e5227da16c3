import pytest

from tomopicker.cli.units import Length, parse_length
from tomopicker.errors import InputError


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("12vx", 12, "vx"),
        ("12 vx", 12, "vx"),
        (" 12VX ", 12, "vx"),
        ("160A", 160, "A"),
        ("160\N{LATIN CAPITAL LETTER A WITH RING ABOVE}", 160, "A"),
        ("160\N{ANGSTROM SIGN}", 160, "A"),
        ("160A\N{COMBINING RING ABOVE}", 160, "A"),
        ("16nm", 16, "nm"),
        (".5vx", 0.5, "vx"),
        ("13.48 A", 13.48, "A"),
    ],
)
def test_a_length_is_read_in_any_of_its_spellings(text: str, value: float, unit: str) -> None:
    length = parse_length(text)
    assert (length.value, length.unit) == (value, unit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12", "12vx for voxels, 12A for ångström"),
        ("12px", "known are vx"),
        ("0vx", "above 0"),
        ("-3A", "above 0"),
        ("nanA", "not a length"),
        ("infA", "not a length"),
        ("9" * 400 + "A", "above 0"),
        ("12,5A", "not a length"),
        ("", "not a length"),
        ("vx", "not a length"),
    ],
)
def test_what_is_not_a_length_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_length(text)


def test_lengths_convert_by_the_voxel_size() -> None:
    assert parse_length("135A").voxels(13.5) == 10
    assert parse_length("13.5nm").voxels(13.5) == 10
    assert parse_length("10vx").angstrom(13.5) == 135


def test_lengths_that_need_no_conversion_need_no_voxel_size() -> None:
    assert parse_length("10vx").voxels(None) == 10
    assert parse_length("16nm").angstrom(None) == 160


def test_a_length_that_needs_the_voxel_size_asks_for_it() -> None:
    with pytest.raises(InputError, match=r"135A .*--voxel-size"):
        parse_length("135A").voxels(None)
    with pytest.raises(InputError, match=r"10vx .*--voxel-size"):
        parse_length("10vx").angstrom(None)


def test_a_length_prints_as_it_is_typed() -> None:
    assert str(Length(value=10.0, unit="vx")) == "10vx"
