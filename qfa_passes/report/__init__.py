"""What happened, for people (tables) and for programs (JSON)."""
