"""What each library computes with a folder of its layout: from its sources, sharing nothing with ours.

Each function returns the latents `[N, M]` and the reconstruction `[N, E]` of rows `x`.
"""

import json

import torch
from safetensors.torch import load_file


def keep_top(values, k):
    kept = torch.zeros_like(values)
    top = values.topk(k, dim=-1)
    return kept.scatter(-1, top.indices, top.values)


def normed(x, how):
    if how != "layer_norm":
        return x, lambda y: y
    mean = x.mean(-1, keepdim=True)
    std = (x - mean).std(-1, keepdim=True)
    return (x - mean) / (std + 1e-5), lambda y: y * std + mean


def saelens(folder, x):
    config = json.loads((folder / "cfg.json").read_text())
    w = {k: v.float() for k, v in load_file(folder / "sae_weights.safetensors").items()}
    kind = config.get("architecture", "standard")
    given = x
    x, back = normed(x, config.get("normalize_activations"))
    if "transcoder" not in kind and config.get("apply_b_dec_to_input", True):
        x = x - w["b_dec"]
    lengths = torch.ones(len(w["W_dec"]))
    if config.get("rescale_acts_by_decoder_norm"):
        lengths = w["W_dec"].norm(dim=-1).clamp(min=1e-8)
    if kind == "gated":
        open_ = (x @ w["W_enc"] + w["b_gate"] > 0).float()
        f = open_ * (x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
    else:
        pre = (x @ w["W_enc"] + w["b_enc"]) * lengths
        k = config.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
        if kind == "topk" or config.get("activation_fn_str") == "topk":
            f = keep_top(pre, k).relu()
        elif "jumprelu" in kind:
            f = pre.relu() * (pre > w["threshold"])
        elif "batchtopk" in kind:  # once folded and saved for inference
            f = pre.relu() * (pre > w["topk_threshold"])
        else:
            f = pre.relu()
    y = (f / lengths) @ w["W_dec"] + w["b_dec"]
    if "skip" in kind:
        y = y + given @ w["W_skip"].T
    return f, back(y)


def sparsify(folder, x):
    config = json.loads((folder / "cfg.json").read_text())
    w = {k: v.float() for k, v in load_file(folder / "sae.safetensors").items()}
    seen = x if config["transcode"] else x - w["b_dec"]
    f = keep_top((seen @ w["encoder.weight"].T + w["encoder.bias"]).relu(), config["k"])
    y = f @ w["W_dec"] + w["b_dec"]
    return f, y + x @ w["W_skip"].T if config["skip_connection"] else y


def dictionary_learning(folder, x, kind=None):
    w = torch.load(folder / "ae.pt", weights_only=True)
    kind = kind or json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
        f = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        f = keep_top(f, int(w["k"])) if kind == "AutoEncoderTopK" else f * (f > w["threshold"])
        return f, f @ w["decoder.weight"].T + w["b_dec"]
    if kind == "AutoEncoder":
        lengths = w["decoder.weight"].norm(dim=0)  # its from_pretrained makes them 1
        f = ((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        return f * lengths, f @ w["decoder.weight"].T + w["bias"]
    if kind == "AutoEncoderNew":
        f = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        return f, f @ w["decoder.weight"].T + w["decoder.bias"]
    if kind == "GatedAutoEncoder":
        h = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        f = (h + w["gate_bias"] > 0).float() * (w["r_mag"].exp() * h + w["mag_bias"]).relu()
        return f, f @ w["decoder.weight"].T + w["decoder_bias"]
    if kind == "JumpReluAutoEncoder":
        pre = x @ w["W_enc"] + w["b_enc"]
        f = (pre * (pre > w["threshold"])).relu()
    else:
        pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        f = pre * (pre > w["threshold"])
    return f, f @ w["W_dec"] + w["b_dec"]


def prisma(config, w, x):
    given = x
    x, back = normed(x, config["normalize_activations"])
    x = x - w["b_dec"]
    if config["architecture"] == "gated":
        open_ = (x @ w["W_enc"] + w["b_gate"] > 0).float()
        f = open_ * (x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
    else:
        f = x @ w["W_enc"] + w["b_enc"]
        topk = config["activation_fn_str"] == "topk"
        f = keep_top(f, config["activation_fn_kwargs"]["k"]).relu() if topk else f.relu()
    if config["is_transcoder"]:
        y = f @ w["W_dec"] + w["b_dec_out"]
        return f, y + given @ w["W_skip"].T if "W_skip" in w else y
    return f, back(f @ w["W_dec"] + w["b_dec"])
