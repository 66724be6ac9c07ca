"""`tallformer train` for several processes: `torchrun -m tallformer_training`, with the same options."""

from __future__ import annotations

import sys

from tallformer_infer.cli import run

if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
