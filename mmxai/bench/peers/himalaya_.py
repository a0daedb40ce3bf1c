"""himalaya: ridge regression of all tasks' class indicators side by side, the penalty chosen by folds."""

from pathlib import Path

import numpy as np
import torch
from _threads_ import quickest
from himalaya.backend import set_backend
from himalaya.ridge import RidgeCV
from himalaya.scoring import r2_score
from sklearn.model_selection import PredefinedSplit


def prepare(job):
    set_backend("torch")
    folder = Path(job["folder"])
    x = torch.from_numpy(np.fromfile(job["data"], np.float32).reshape(-1, job["width"]))
    labels, fold = np.load(folder / "labels.npy"), np.load(folder / "fold.npy")
    targets = np.concatenate([np.eye(job["classes"], dtype=np.float32)[task] for task in labels.T], 1)
    y = torch.from_numpy(targets)
    found = []

    def run(threads):
        torch.set_num_threads(threads)
        model = RidgeCV(
            job["penalties"],
            fit_intercept=True,
            cv=PredefinedSplit(fold),
            solver_params={"score_func": r2_score},
        )
        found[:] = [model.fit(x, y)]

    threads = quickest(run, job["threads"])

    def ridge():
        run(threads)

    def answer():
        return {"r2": float(found[0].cv_scores_.mean()), "threads": {"ridge": threads}}

    return {"ridge": ridge}, answer
