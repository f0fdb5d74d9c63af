"""Library lookup, sessions, doctor."""
