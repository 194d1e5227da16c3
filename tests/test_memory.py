"""What streaming holds is counted, and running out of memory is told from other errors."""

import pytest
import torch

from tomopicker.config import Network
from tomopicker.memory import automatic_bytes, is_out_of_memory, streamed_bytes
from tomopicker.network import build, folded


def _bytes(**settings):
    network = Network(**settings)
    with torch.device("meta"):
        built = folded(build(network))
    channels = 1 + network.filter_channel
    return streamed_bytes(built, channels=channels, planes=network.stride, stride=network.stride)


def test_two_convolutions_hold_what_is_counted_by_hand():
    """4 channels of float32 and planes of 1: at the second convolution its input of 3 planes, two

    of them kept in copies for either convolution, its output and the slab that came in.
    """
    held = _bytes(block="plain", channels=(4,)) / 1.3
    assert 16 * 3 < held < 16 * 10


def test_twice_the_channels_hold_about_twice_the_memory():
    once = _bytes(block="residual", channels=(8, 16))
    assert 1.8 * once < _bytes(block="residual", channels=(16, 32)) < 2.1 * once


def test_running_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("sizes do not match"))


def test_on_a_processor_at_most_a_gigabyte_is_taken_unasked():
    assert 0 < automatic_bytes("cpu") <= 1e9
