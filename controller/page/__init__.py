"""The page: every run and one run, as people look at them in a browser.

What belongs here: what the page is told (`views`), the curves a leader keeps for it (`traces`), how it is
served (`routes`), and the page itself, written by hand. What does not: anything that decides, or that a
decision could wait for.
"""
