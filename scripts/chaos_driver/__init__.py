"""The chaos test: real workers, injected faults, and a check of what is left.

Owns nothing of the engine: it knows the command line, the documented headers of
`http.request`, and the tables, and judges the engine by them from outside.
"""
