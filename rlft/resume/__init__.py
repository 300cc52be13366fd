"""Exact resume: a run that was killed goes on as if it had not been.

manifest.py     is a checkpoint whole? its files' digests, written last
marks.py        how far the record had come, so that what a killed run wrote after its checkpoint is cut off
identity.py     what must be equal for a run to go on, and what may change
find.py         the place to go on from
elsewhere.py    going on in another folder
trainer.py      `Resumable`, which does all this in a transformers trainer
randomness.py   what is made before training leaves no trace in its random states
termination.py  SIGTERM ends a run with a checkpoint
"""
