"""The package's table of contents is true, and importing it costs nothing."""

import subprocess
import sys

import pytest

import tomopicker


@pytest.mark.parametrize("name", tomopicker.__all__)
def test_every_public_name_is_there(name):
    assert getattr(tomopicker, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tomopicker.nothing


def test_importing_the_package_imports_no_torch():
    code = "import tomopicker, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
