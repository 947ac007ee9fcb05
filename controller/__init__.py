"""The operator: a pure middle that decides and a thin shell that reads, saves and acts.

What belongs here: the words (`model`), the one state machine (`machine`), and one adapter for each
thing outside (`ports` names them). What does not: statistics (`analysis`) and anything that only
exists to be tested against (`scenarios`).
"""
