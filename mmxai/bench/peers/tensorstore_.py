"""TensorStore: the same sharded Zarr v3 array of bfloat16, written shard by shard, fsynced by default."""

import shutil

import ml_dtypes
import numpy as np
import tensorstore as ts


def prepare(job):
    x = np.fromfile(job["data"], np.int16).reshape(-1, job["width"]).view(ml_dtypes.bfloat16)
    rows = np.fromfile(job["rows"], np.int64)
    chunk, shard = [job["per_chunk"], job["width"]], [job["per_part"], job["width"]]
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": chunk,
        "codecs": inner,
        "index_codecs": inner,
        "index_location": "end",
    }
    metadata = {
        "shape": list(x.shape),
        "data_type": "bfloat16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }

    def make(path):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}, "metadata": metadata}
        return ts.open(spec, create=True, delete_existing=True).result()

    def write(path):
        array = make(path)
        for first in range(0, len(x), job["per_part"]):
            array[first : first + job["per_part"]].write(x[first : first + job["per_part"]]).result()

    kept = job["folder"] + "/peer-tensorstore"
    write(kept)
    array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": kept}}).result()
    found = []

    def gather():
        found[:] = [array.oindex[rows].read().result()]

    def answer():
        total = int(found[0].view(np.int16).sum(dtype=np.int64))
        shutil.rmtree(kept)
        return {"gathered": total}

    return {"write": write, "gather": gather}, answer
