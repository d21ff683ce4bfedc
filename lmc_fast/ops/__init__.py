"""The inner loops: one folder an operation, each with a plain torch reference (naive.py) beside its fast forms."""
