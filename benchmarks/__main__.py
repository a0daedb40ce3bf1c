"""`python -m benchmarks CASE ...` is `mmxai bench CASE ...`."""

import sys

from mmxai.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
