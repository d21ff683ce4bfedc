"""What a running model shows of its units, and the gains that come of it."""
