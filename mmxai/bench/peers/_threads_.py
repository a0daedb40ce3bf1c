"""With how many threads a library is quickest here, for the scripts of peers; standard library alone."""

import time


def quickest(run, default):
    """1 or `default`: the number with which `run(number)` takes the least time, of three turns of both."""
    seconds = {}
    for _ in range(3):
        for count in {1, default}:
            start = time.perf_counter()
            run(count)
            seconds[count] = min(seconds.get(count, float("inf")), time.perf_counter() - start)
    return min(seconds, key=seconds.get)
