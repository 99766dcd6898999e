"""For tests: of users of Perdure, and of other stores' authors."""
