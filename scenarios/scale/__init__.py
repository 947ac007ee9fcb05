"""A thousand canaries on one machine: what `make bench-scale` is made of.

What belongs here: the processes around the controller (pods' pages, the emulated API server with all its
objects) and what is measured of it from outside. What does not: anything that a story needs.
"""
