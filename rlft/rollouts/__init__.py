"""From a row to trajectories: who writes which tokens, and in which order."""
