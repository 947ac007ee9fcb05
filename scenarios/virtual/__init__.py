"""What a story in virtual time is made of: an event loop that jumps, pods and traffic without sockets.

What belongs here: things that need no wall clock and are the same every time. `scenarios.play` is the
way in.
"""
