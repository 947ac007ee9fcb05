"""A Kubernetes API server that exists to be tested against, and the controllers behind it.

What belongs here: what a real cluster would do, held to it by one conformance suite. What does not:
stories, pods' insides, and anything that knows of Serin's controller. `scenarios.world` is the way in.
"""
