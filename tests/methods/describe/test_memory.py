"""The size that is promised: 2,048 units, 10,000 pictures and 20,000 words in less than 4 GB."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

UNITS, PICTURES, WORDS = 2048, 10_000, 20_000

DRIVER = """
import json, resource, sys
import numpy as np, torch
import mmxai
from mmxai.methods.describe import DescribeConfig, Judged, describe

units, pictures, words, path = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
draw = torch.Generator().manual_seed(0)
images = torch.nn.functional.normalize(torch.randn(pictures, 32, generator=draw), dim=1)
texts = torch.nn.functional.normalize(torch.randn(words, 32, generator=draw), dim=1)
with mmxai.create_store(path, sites={"vision.embeds": units}, dtype="bfloat16", durable=False) as writer:
    for start in range(0, pictures, 1000):
        x = torch.randn(1000, units, generator=draw) * 0.02 + images[start : start + 1000] @ texts[:units].T
        writer.write([str(start + i) for i in range(1000)], {"vision.embeds": x})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
judged = Judged(np.arange(pictures), images, tuple(map(str, range(words))), texts)
with mmxai.open_store(path, verify="never") as store:
    one = describe(store, judged, DescribeConfig(null=1, draws=1)).sites["vision.embeds"]
right = float(np.mean(one.index[:, 0] == np.arange(units)))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"before": before * 1024, "peak": peak * 1024, "right": right, "null": len(one.null)}))
"""


@pytest.mark.slow
def test_a_layer_of_2048_units_takes_less_than_4_gb(tmp_path):
    args = [sys.executable, "-c", DRIVER, str(UNITS), str(PICTURES), str(WORDS), str(tmp_path / "a.zarr")]
    root = Path(__file__).resolve().parents[3]
    ran = subprocess.run(args, cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    print(found)
    assert found["peak"] < 4e9
    assert found["right"] > 0.95 and found["null"] == 5
