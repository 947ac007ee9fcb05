"""What a story played live is made of: a real Envoy, model servers and load in processes of their own.

What belongs here: things that need real sockets and the wall clock. What does not: the story itself, and
who plays it; `scenarios.lab` is the way in.
"""
