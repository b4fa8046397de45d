"""``pgvision train`` for launchers of several processes.

``torchrun --nproc-per-node 2 -m pgvision.training DATA --out DIR``, or ``accelerate launch -m
pgvision.training DATA --out DIR``: the options are those of ``pgvision train``. On processors
alone: ``accelerate launch --multi_gpu --num_processes 2 ... --device cpu``, since accelerate's own
``--cpu`` starts one process, whatever number it is given. With ``--use_fsdp`` in place of
``--multi_gpu`` each process has a shard of weights, gradients and the optimiser's state; the
first also keeps the whole weights, which it validates and writes.
"""

import sys

from pgvision.cli.app import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
