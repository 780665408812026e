"""The layer in Triton: programs, what launches them, and the operators that torch knows them by.

Imported only where triton is there and is to be used.
"""
