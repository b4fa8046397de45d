"""What every test shares: no network, one thread of arithmetic, calm hypothesis."""

import os

# Before transformers or huggingface_hub are imported: a test that reaches for the hub must fail
# at once and in the same way on every machine.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The suite asks the fast one of the carried checkpoints, whatever a user's own default is.
os.environ["PGVISION_MODEL"] = "tiny"

from hypothesis import HealthCheck, settings  # noqa: E402  (the environment comes first)

# Deadlines measure the machine, not the code; two busy cores would make them a coin toss.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
