"""The state store over Redis (6.2 or newer) or Valkey: one server, Sentinel, or Cluster.

store (the contract) · commits (what a commit says to commit.lua) · layout, order (names and places of keys) · merge
(pages over many partitions) · lease · link, lane (connections) · single, cluster (which server) · errors · url
"""
