"""Who takes part, and which node owns which partition.

Lowest first: `hashing`, `quota` and `table` are pure; `service` decides, as a state machine; `leader` and `client` are
its shells at the two ends of a `session`; `embedded` puts both into one process.
"""
