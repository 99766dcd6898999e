"""Durable workflows: instances are actors, their history is their state."""
