"""Tiny networks are fastest on one thread, and one thread adds up in one order."""

import os

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
torch.set_num_threads(1)
