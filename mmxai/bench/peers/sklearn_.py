"""scikit-learn: one fit a fold, penalty and task, of the rows of one site held in memory."""

import warnings
from pathlib import Path

import numpy as np
from _threads_ import quickest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from threadpoolctl import threadpool_limits


def prepare(job):
    warnings.simplefilter("ignore", ConvergenceWarning)
    folder = Path(job["folder"])
    x = np.fromfile(job["data"], np.float32).reshape(-1, job["width"])
    labels, fold = np.load(folder / "labels.npy"), np.load(folder / "fold.npy")
    kept = [fold != f for f in range(job["folds"])]
    rows = [x[k] for k in kept]  # not timed: ours reads a store and chooses rows while the clock runs
    makes = {
        "ridge": lambda penalty: RidgeClassifier(alpha=penalty),
        "logistic": lambda penalty: LogisticRegression(C=1 / penalty, max_iter=job["iterations"]),
    }
    found, kind, threads = {}, job["found"], {}
    for name, make in makes.items():
        middle = make(job["penalties"][len(job["penalties"]) // 2])

        def one(count, middle=middle):
            with threadpool_limits(count):
                middle.fit(rows[0], labels[kept[0], 0])

        threads[name] = quickest(one, job["threads"])

    def fits(make, name, dtype=np.float32):
        coef, intercept = [], []
        for penalty in job["penalties"]:
            for own, k in zip(rows, kept, strict=True):
                for task in labels.T:
                    fitted = makes[make](penalty).fit(own.astype(dtype, copy=False), task[k])
                    coef.append(fitted.coef_)
                    intercept.append(fitted.intercept_)
        shape = (len(job["penalties"]), len(rows), labels.shape[1])
        found[name] = [np.reshape(v, (*shape, *v[0].shape)) for v in (coef, intercept)]

    def ridge():
        with threadpool_limits(threads["ridge"]):
            fits("ridge", "ridge")

    def exact():
        fits("ridge", "exact", np.float64)

    def logistic():
        with threadpool_limits(threads["logistic"]):
            fits("logistic", "logistic")

    def answer():
        paths = {"threads": threads}
        for name, arrays in found.items():
            for part, values in zip(("coef", "intercept"), arrays, strict=True):
                path = folder / f"{kind}-{name}-{part}.npy"
                np.save(path, values)
                paths[f"{name}_{part}"] = str(path)
        return paths

    return {"ridge": ridge, "exact": exact, "logistic": logistic}, answer
