"""Shadow replay: a service and an image of its own, another producer of evidence.

What belongs here: recording requests, replaying them on both models, comparing the answers. What
does not: anything that moves traffic. torch is imported here and nowhere else.
"""
