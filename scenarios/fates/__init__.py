"""Deterministic simulation: whole histories of the controller, drawn from seeds, with promises to keep.

What belongs here: drawing what goes wrong (`fate`), doing it to the replicas' connections and clocks
(`hindrance`), and watching whether the controller keeps its word all the same (`witness`). What does
not: how the world works; that is `scenarios.virtual` and `scenarios.cluster`.
"""
