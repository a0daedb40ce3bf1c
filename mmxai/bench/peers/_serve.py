"""Runs in a peer's environment: reads a message a line, does what it says, answers a line. Standard library only."""

import importlib.util
import json
import os
import sys


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not stand between our answers
    spec = importlib.util.spec_from_file_location("peer", sys.argv[1])
    if spec is None or spec.loader is None:
        sys.exit(f"{sys.argv[1]} is no Python file")
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    works: dict = {}
    answer = None
    for line in sys.stdin:
        message, reply = json.loads(line), None
        if "prepare" in message:
            works, answer = peer.prepare(message["prepare"])
        elif "run" in message:
            works[message["run"]](*message["args"])
        elif "answer" in message:
            reply = answer()
        replies.write(json.dumps({"reply": reply}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
