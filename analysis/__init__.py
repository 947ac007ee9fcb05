"""Canary statistics: from counts to a verdict, as pure functions on values.

What belongs here: sufficient statistics, tests that stay valid however often one looks, and how
their evidence combines into one verdict. What does not: clocks, I/O, logging, Kubernetes; a caller
passes in what was counted and when.
"""
