"""The main job on real models and real data, against plain transformers and plain hooks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import mmxai
from mmxai.harvesting import harvest
from mmxai.shapes.model import random_clip
from mmxai.store.verify import verify
from tests.networks.resnet import load_resnet20, normalise


def test_all_of_sst2_through_a_real_language_model(shared_data, tmp_path):
    """Every resid_post of every token of 6,920 sentences, compared with `output_hidden_states`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, texts = shared_data / "stories260K", shared_data / "text_labels" / "stsa.binary.train"
    path = tmp_path / "sst2.zarr"
    report = harvest(str(folder), str(texts), sites="text.*.resid_post", store=path, batch_size=64)
    assert report.complete
    lines = texts.read_text().splitlines()
    assert report.samples == len(lines) == 6920
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not verify(path).problems
    with mmxai.open_store(path) as store:
        table = store.rows["text"]
        order = np.lexsort((table.position.numpy(), table.sample.numpy()))
        starts = np.searchsorted(table.sample.numpy()[order], np.arange(len(lines) + 1))
        total = 0
        for sample in range(len(lines)):
            ids = tokenizer(lines[sample], return_tensors="pt")["input_ids"]
            total += ids.shape[1]
            mine = torch.from_numpy(order[starts[sample] : starts[sample + 1]])
            assert table.token_id[mine].tolist() == ids[0].tolist()
            if sample % 20:  # every token's identity; every twentieth sentence's activations
                continue
            with torch.no_grad():
                states = reference.model(ids, output_hidden_states=True).hidden_states
            for block in range(4):  # transformers' last state is normed
                got = store[f"text.{block}.resid_post"].gather(mine, dtype=torch.float32)
                torch.testing.assert_close(got, states[block + 1][0], rtol=1 / 128, atol=1e-3)
            last = store["text.4.resid_post"].gather(mine, dtype=torch.float32)
            torch.testing.assert_close(reference.model.norm(last), states[5][0], rtol=1 / 32, atol=2e-2)
        assert total == len(table)


@pytest.fixture(scope="module")
def coco(shared_data, tmp_path_factory):
    """A CSV of the photographs with their captions, beside links to the pictures."""
    root = shared_data / "coco_mini"
    lines = ["image,caption,coco_id"]
    for split in ("train2017", "val2017"):
        notes = json.loads((root / "annotations" / f"captions_{split}.json").read_text())
        names = {image["id"]: image["file_name"] for image in notes["images"]}
        for note in notes["annotations"]:
            caption = note["caption"].strip().replace('"', "'")
            lines.append(f'{root / split / names[note["image_id"]]},"{caption}",{note["image_id"]}')
    path = tmp_path_factory.mktemp("coco") / "captions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_coco_photographs_and_captions_through_a_clip(coco, tmp_path):
    """Both towers in one pass; rows equal transformers' hidden states; boxes find their patches."""
    from transformers import AutoImageProcessor, AutoTokenizer

    folder = random_clip(tmp_path / "clip")
    model = mmxai.load_model(str(folder))
    path = tmp_path / "coco.zarr"
    sites = ["vision.*.resid_post", "text.*.resid_post"]
    report = harvest(model, str(coco), sites=sites, store=path, store_dtype="float32", limit=300)
    assert report.complete
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with mmxai.open_store(path) as store:
        vision, text = store.rows["vision"], store.rows["text"]
        assert len(vision) == 300 * 65
        for sample in range(0, 300, 17):
            record = store.samples[sample]
            image = Image.open(
                coco.parent / record.key if not record.columns.get("image") else record.columns["image"]
            )
            assert record.size == image.size
            pixels = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
            words = tokenizer(record.text, return_tensors="pt")
            with torch.no_grad():
                seen = model.module.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
                read = model.module.text_model(**words, output_hidden_states=True).hidden_states
            for table, tower, states, blocks in ((vision, "vision", seen, 6), (text, "text", read, 3)):
                mine = (table.sample == sample).nonzero().squeeze(1)
                for block in range(blocks):
                    got = store[f"{tower}.{block}.resid_post"].gather(mine)
                    torch.testing.assert_close(got, states[block + 1][0], rtol=1e-4, atol=1e-4)


def test_a_resnet_through_wrap_against_a_plain_hook(shared_data, tmp_path):
    net = load_resnet20(shared_data / "resnet_cifar10")
    photos = sorted((shared_data / "coco_mini" / "train2017").glob("*.jpg"))[:40]
    images = [Image.open(p).convert("RGB").resize((32, 32)) for p in photos]
    model = mmxai.wrap(net, prepare=lambda sample: normalise(sample.image), name="resnet20")
    path = tmp_path / "resnet.zarr"
    sites = ["module:layer1.2", "module:layer3.1.conv2", "module:linear"]
    report = harvest(model, images, sites=sites, store=path, store_dtype="float32", batch_size=16)
    assert report.rows == {"module.32x32": 40 * 1024, "module.8x8": 40 * 64, "module.vector": 40}
    maps = {}
    paths = [s.removeprefix("module:") for s in sites]
    hooks = [
        net.get_submodule(p).register_forward_hook(lambda m, a, out, p=p: maps.update({p: out}))
        for p in paths
    ]
    with torch.no_grad():
        net(torch.stack([normalise(image) for image in images]))
    for hook in hooks:
        hook.remove()
    with mmxai.open_store(path) as store:
        for site, name in zip(sites, paths, strict=True):
            rows, expected = store.rows[store[site].space], maps[name]
            if expected.ndim == 4:
                expected = expected[rows.sample.long(), :, rows.y.long(), rows.x.long()]
            else:
                expected = expected[rows.sample.long()]
            torch.testing.assert_close(store[site][:], expected, rtol=1e-4, atol=1e-4)
