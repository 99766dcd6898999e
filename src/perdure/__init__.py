"""Perdure: virtual actors and durable workflows."""
