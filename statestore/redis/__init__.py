"""The state store over Redis (6.2 or newer) or Valkey: one server, Sentinel, or Cluster.

store (the contract) · commits (what a commit says to commit.lua) · lists, merge (pages over many partitions) · lease ·
layout, order, records (names, places and values in Redis) · single, cluster, sentinel, place (which server) · server,
session, lane, link (the way there) · acknowledged (whether a server lost something) · durability · diagnosis · errors ·
url
"""
