"""The Triton programs alone; what launches them is one folder up."""
