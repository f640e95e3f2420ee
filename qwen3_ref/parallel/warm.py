"""Imports what the first collective does, so that processes forked from one that has them begin at once."""

from __future__ import annotations

import torch._dynamo  # noqa: F401  (the functional collectives reach for it: five seconds of imports)
import torch.distributed.checkpoint.state_dict  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import torch.distributed.tensor.parallel  # noqa: F401

import qwen3_ref.parallel.plan  # noqa: F401
