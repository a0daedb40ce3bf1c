"""Runs in a peer's environment, standard library alone: a message a line in, an answer a line out."""

import importlib.util
import json
import os
import sys


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not stand between our answers
    sys.path.append(os.path.dirname(sys.argv[1]))  # last, for what scripts share; -I has left it out
    spec = importlib.util.spec_from_file_location("peer", sys.argv[1])
    if spec is None or spec.loader is None:
        sys.exit(f"{sys.argv[1]} is no Python file")
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    works: dict = {}
    answer: object = None
    for line in sys.stdin:
        message = json.loads(line)
        reply: object = None
        if "prepare" in message:
            works, answer = peer.prepare(message["prepare"])
        elif "run" in message:
            works[message["run"]](*message["args"])
        elif "answer" in message:
            reply = answer() if callable(answer) else None
        replies.write(json.dumps({"reply": reply}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
