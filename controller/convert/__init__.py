"""What people wrote for Flagger or Argo Rollouts, as what Serin needs: `serin convert`.

What belongs here: reading the peers' objects, a rule for each of their fields, and the report that accounts
for every one. All of it is pure. What does not: files, the command line (`converting`), and how the peers
decide, which is `analysis.peers`.
"""
