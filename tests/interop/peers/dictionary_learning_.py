"""dictionary_learning loads our SAEs and saves its own."""

import json
from pathlib import Path

import torch
from _outputs_ import keep, rows
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary

D, M, K = 12, 40, 5


def prepare(job):
    return {"load": load, "make": make}, None


def load(folder, data, out):
    x = rows(data)
    ae, _ = load_dictionary(folder, device="cpu")
    keep(out, x, ae.encode(x), ae(x))


def make(folder):
    torch.manual_seed(0)
    made = [
        AutoEncoder(D, M),
        AutoEncoderNew(D, M),
        GatedAutoEncoder(D, M),
        JumpReluAutoEncoder(D, M),
        AutoEncoderTopK(D, M, K),
        BatchTopKSAE(D, M, K),
        MatryoshkaBatchTopKSAE(D, M, K, [10, 30]),
    ]
    x = torch.randn(64, D) * 2
    for ae in made:
        for name, value in ae.state_dict().items():
            if value.is_floating_point():
                value.normal_(0, 0.4)
            if name == "threshold":
                value.abs_()
        path = Path(folder) / type(ae).__name__
        path.mkdir(parents=True)
        torch.save(ae.state_dict(), path / "ae.pt")
        trainer = {"dict_class": type(ae).__name__, "k": K, "submodule_name": "resid_post_layer_3"}
        (path / "config.json").write_text(json.dumps({"trainer": trainer}))
        ae, _ = load_dictionary(str(path), device="cpu")
        keep(path / "expected.safetensors", x, ae.encode(x), ae(x))
