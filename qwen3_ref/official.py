"""Hugging Face's implementation, the other side of our comparisons, loaded without its noise.

transformers is a test dependency: nothing else in the package needs it.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch


def official_model(directory: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model of a checkpoint directory, in evaluation mode and with eager attention, so
    that it can return attention weights.

    Progress bars and start-up warnings are off, since notebooks compare what they print.
    Raises ImportError in one sentence if transformers is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm warns in every notebook without ipywidgets
        try:
            import transformers
        except ImportError:
            raise ImportError(
                "comparing with the official code needs transformers; `pip install 'transformers>=5,<6'`."
            ) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", local_files_only=True
    )
    return model.eval()
