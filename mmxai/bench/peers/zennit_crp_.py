"""zennit-crp: its activation maximisation keeps, a channel, the samples that drive it most."""

import numpy as np
import torch
from crp.concepts import ChannelConcept
from crp.maximization import Maximization


def prepare(job):
    torch.set_num_threads(job["threads"])
    rows = job["rows"]
    batches = torch.from_numpy(np.fromfile(job["data"], np.float32)).view(-1, rows, job["width"])
    concept, found = ChannelConcept(), []

    def stream():
        maximization = Maximization("activation", max_target="sum", path=job["folder"])
        maximization.SAMPLE_SIZE = job["k"]
        for i, x in enumerate(batches):
            index = np.arange(i * rows, (i + 1) * rows)
            maximization.analyze_layer(x[:, :, None], concept, "layer", index, [0] * rows)
        found[:] = [maximization.rel_c_sorted["layer"]]

    def answer():
        return {"top": float(found[0].double().mean())}

    return {"stream": stream}, answer
