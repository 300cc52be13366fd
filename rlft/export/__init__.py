"""`rlft export`: what a run learnt as folders to load, publish and evaluate elsewhere, compared with what it saved."""
