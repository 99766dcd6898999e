"""`dapr.ext`."""
