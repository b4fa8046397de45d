"""What every test shares: no network, one thread of arithmetic, calm hypothesis."""

import os

# Before transformers or huggingface_hub are imported: a test that reaches for the hub must fail
# at once and in the same way on every machine.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# A user's own default model must not change what the suite tests.
os.environ.pop("PGVISION_MODEL", None)

from hypothesis import HealthCheck, settings  # noqa: E402  (the environment comes first)

# Deadlines measure the machine, not the code; two busy cores would make them a coin toss.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
