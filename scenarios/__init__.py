"""A world to fail in: an emulated API server, a live lab around a real Envoy, and named stories.

What belongs here: everything that exists so that Serin can be shown, tested and measured without a
cluster. What does not: anything the controller needs in one.
"""
