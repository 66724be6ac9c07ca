"""`tallformer train` for several processes: `torchrun -m tallformer_training`, with the same options."""

from __future__ import annotations

import os
import sys

from tallformer_infer.cli import run

if __name__ == "__main__":
    code = run(["train", *sys.argv[1:]])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is on disk. On a normal exit torch's distributed threads sometimes abort the process ("terminate called
    # without an active exception"), and torchrun would report a finished run as failed.
    os._exit(code)
