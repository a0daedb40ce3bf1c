"""For tests of how much memory is taken, which measure with `mmxai.bench.memory`."""

import sys

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc to read memory from")
