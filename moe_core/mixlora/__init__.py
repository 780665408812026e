"""MixLoRA: low-rank experts on a frozen dense transformer, and their published file format.

Source: Li et al., MixLoRA, arXiv:2404.15159; the format is that of the PyPI package ``mixlora``.
"""

from moe_core.mixlora.adapter import MixLoraAdapter, load_adapter, save_adapter
from moe_core.mixlora.attach import adapter_of, attach
from moe_core.mixlora.config import MixLoraConfig
from moe_core.mixlora.export import ADAPTER_FOLDER, BASE_FOLDER, adapter_on, export_adapter

__all__ = [
    "ADAPTER_FOLDER",
    "BASE_FOLDER",
    "MixLoraAdapter",
    "MixLoraConfig",
    "adapter_of",
    "adapter_on",
    "attach",
    "export_adapter",
    "load_adapter",
    "save_adapter",
]
