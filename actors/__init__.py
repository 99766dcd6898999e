"""Virtual actors: activations, turns, messages, reminders. Knows nothing of workflows."""
