"""State stores: the contract and its backends. Knows nothing of actors, placement or workflows."""
