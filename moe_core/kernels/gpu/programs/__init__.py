"""The Triton programs alone; what launches them is one folder up.

``do_not_specialize`` names what changes from batch to batch: else each is compiled several times.
"""
