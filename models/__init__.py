"""What is true: settings, tables, the state machine, ledger verbs and queries.

Knows Postgres; imports neither Dramatiq nor Redis nor HTTP.
"""

#: Lets ``actors`` tell this package from an adopter's own ``models`` package (ADR 0003).
__callboard__ = True
