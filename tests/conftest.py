"""Every test runs offline and on one thread: two test processes share two cores."""

import os

# Before any import of torch or of a Hugging Face library: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

# How long an example takes says more about the neighbours of this process than about the code.
settings.register_profile("athanor", deadline=None)
settings.load_profile("athanor")
torch.set_num_threads(1)
