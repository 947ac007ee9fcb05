"""What a story in virtual time is made of: an event loop that jumps, pods and traffic without sockets.

What belongs here: things that are the same every time and wait for nothing. What does not: the story
itself, and who plays it; `scenarios.play` is the way in.
"""
