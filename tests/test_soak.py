"""What the hour of training is summed up to."""

import runpy
from pathlib import Path

import pytest

SOAK = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks" / "soak.py"))


def test_memory_that_grows_by_a_megabyte_a_minute_grows_by_60_an_hour_from_the_first_tenth_on():
    # Every minute for an hour; before the sixth, caches fill.
    samples = [(60.0 * minute, 500.0 + minute) for minute in range(61)]
    samples[:6] = [(60.0 * minute, 100.0) for minute in range(6)]
    told = SOAK["summarised"](samples)
    assert told["megabytes_per_hour"] == pytest.approx(60)
    assert told["megabytes_at_start"] == 100
    assert told["megabytes_at_a_tenth"] == 506
    assert told["megabytes_at_end"] == told["megabytes_at_most"] == 560
    assert told["minutes"] == 60
