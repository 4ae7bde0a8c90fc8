"""One call to the producer: connection, phases, outcome, who answered."""
