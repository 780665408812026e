"""Untrusted bytes to a suspect: sniff, gate, read, fit."""

from badexpert.loading.load import load_suspect
from badexpert.preprocessing import PreprocessingOverrides

__all__ = ["PreprocessingOverrides", "load_suspect"]
