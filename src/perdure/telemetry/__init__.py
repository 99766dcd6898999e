"""What a node tells those who watch it: metrics (`page`) and traces (`otel`, `otlp`)."""
