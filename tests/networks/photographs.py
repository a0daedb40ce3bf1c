"""COCO's photographs that have masks, apart from those that have none."""

import json


def annotated(coco, folder):
    """Links to the 159 in a folder of their own, which is returned."""
    folder.mkdir(exist_ok=True)
    known = set()
    for path in coco.glob("annotations/instances_*.json"):
        known |= {image["file_name"] for image in json.loads(path.read_text())["images"]}
    for path in sorted(coco.glob("*2017/*.jpg")):
        if path.name in known and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return folder
