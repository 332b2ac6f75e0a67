"""One thread, as the learner's default: two of torch's that share a busy core wait for each other."""

import torch

torch.set_num_threads(1)
