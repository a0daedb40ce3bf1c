"""TransformerLens: `get_act_patch_resid_pre`, on the cells of some layers. Every forward reads out all
positions."""

import json
import os
import tempfile

os.environ["TQDM_DISABLE"] = "1"  # it shows its progress otherwise

import pandas
import torch
from tokenizers import Tokenizer, models
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


def prepare(job):
    torch.set_num_threads(job["threads"])
    tokens = {name: torch.tensor(x) for name, x in job["tokens"].items()}
    bridge = bridged(job["config"])
    cells = [(b, p) for b in job["layers"] for p in range(tokens["clean"].shape[1])]
    index = pandas.DataFrame(cells, columns=["layer", "pos"])
    rows = torch.arange(len(tokens["answers"]))
    found = {}

    def difference(logits):
        last = logits[:, -1]
        return last[rows, tokens["answers"]] - last[rows, tokens["foils"]]

    def patch():
        with torch.no_grad():
            _, cache = bridge.run_with_cache(tokens["clean"], names_filter=lambda n: n.endswith("resid_pre"))
            found["values"] = patching.get_act_patch_resid_pre(
                bridge, tokens["corrupted"], cache, difference, index_axis_names=None, index_df=index,
                reduce="none",
            ).values  # fmt: skip

    def answer():
        return {"values": json.dumps(found["values"].double().tolist())}

    return {"patch": patch}, answer


def bridged(config):
    torch.manual_seed(0)  # the same weights as ours
    config = GPT2Config(**config, bos_token_id=None, eos_token_id=None, architectures=["GPT2LMHeadModel"])
    model = GPT2LMHeadModel(config).eval()
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="a", eos_token="b", pad_token="b")
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, device="cpu")
