"""``pgvision train`` for launchers of several processes.

``torchrun --nproc-per-node 2 -m pgvision.training DATA --out DIR``, or ``accelerate launch -m
pgvision.training DATA --out DIR``: the options are those of ``pgvision train``. On processors
alone: ``accelerate launch --multi_gpu --num_processes 2 ... --device cpu``, since accelerate's own
``--cpu`` starts one process, whatever number it is given.
"""

import sys

from pgvision.cli.app import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
