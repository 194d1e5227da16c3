"""What streaming holds is counted, and running out of memory is told from other errors."""

import sys

import pytest
import torch

from tomopicker import cli
from tomopicker.config import Network
from tomopicker.errors import is_out_of_memory
from tomopicker.memory import automatic_bytes, free_in_groups, streamed_bytes


def _bytes(**settings):
    return streamed_bytes(Network(**settings), torch.float32)


def test_two_convolutions_hold_what_is_counted_by_hand():
    """4 channels of float32 and planes of 1: at the second convolution its input of 3 planes, two

    of them kept in copies for either convolution, its output and the slab that came in.
    """
    held = _bytes(block="plain", channels=(4,)) / 1.3
    assert 16 * 3 < held < 16 * 10


def test_twice_the_channels_hold_about_twice_the_memory():
    once = _bytes(block="residual", channels=(8, 16))
    assert 1.8 * once < _bytes(block="residual", channels=(16, 32)) < 2.1 * once


def test_half_precision_holds_about_half_the_memory():
    network = Network(block="residual", channels=(16, 32))
    half = streamed_bytes(network, torch.float16)
    assert 0.45 < half / streamed_bytes(network, torch.float32) < 0.6


def test_running_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert is_out_of_memory(RuntimeError("can't start new thread"))
    segment = "x.so: failed to map segment from shared object"
    assert is_out_of_memory(ImportError(segment))
    assert is_out_of_memory(ImportError(f"{segment}: Cannot allocate memory"))
    # A disk that is mounted noexec.
    assert not is_out_of_memory(ImportError(f"{segment}: Operation not permitted"))
    assert not is_out_of_memory(ModuleNotFoundError("No module named 'uvicorn'"))


def test_a_library_that_does_not_fit_the_memory_is_told_in_words(monkeypatch, capsys):
    def load(_):
        raise ImportError("libx.so: failed to map segment from shared object")

    monkeypatch.setattr("typer.main.get_command", load)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "out of memory" in capsys.readouterr().err


def test_on_a_processor_a_gigabyte_is_enough_and_the_most_is_a_part_of_what_is_free():
    enough, most = automatic_bytes("cpu")
    assert 0 < enough <= 1e9
    assert enough <= most


def _group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def test_a_jobs_limit_above_the_processs_own_group_counts_and_files_in_memory_are_free(tmp_path):
    (tmp_path / "table").write_text("0::/job_7/step_0/task_0\n")
    stat = "anon 100\nfile 900\nshmem 50\ninactive_file 600\nactive_file 250"
    _group(tmp_path / "job_7" / "step_0" / "task_0", max="max", current=1000, stat=stat)
    _group(tmp_path / "job_7" / "step_0", max=5000, current=1000, stat=stat)
    _group(tmp_path / "job_7", max=2000, current=1000, stat=stat)
    assert free_in_groups(tmp_path / "table", tmp_path) == 2000 - 1000 + 600 + 250


def test_the_first_version_of_control_groups_is_understood_from_inside_a_container(tmp_path):
    """Which sees its own group at the root, and not the path that the table has."""
    (tmp_path / "table").write_text("5:cpu,cpuacct:/\n4:memory:/outside/7\n0::/\n")
    stat = "cache 1\ninactive_file 1\ntotal_cache 9\ntotal_inactive_file 30\ntotal_active_file 4"
    _group(tmp_path / "memory", limit_in_bytes=500, usage_in_bytes=100, stat=stat)
    assert free_in_groups(tmp_path / "table", tmp_path) == 500 - 100 + 30 + 4


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert free_in_groups(tmp_path / "none", tmp_path) == float("inf")
