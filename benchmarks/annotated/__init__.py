"""How good annotations are, against recordings whose truth is known."""
