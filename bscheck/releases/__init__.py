"""Keras and its backends release by release: isolated environments, the gate in each, and the search for a culprit.

`combination` says what is asked for, `uv` and `environments` make it, `engine` runs the gate in it and keeps the
record, `bisect` finds the release that changed a verdict. Nothing here imports Keras.
"""
