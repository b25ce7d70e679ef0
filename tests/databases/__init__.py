"""`make test-databases`: the tests of what talks to databases, on the servers that operators have, set up as they do.

A folder of its own, which `make test` does not collect: it needs root and Debian's mirror, and takes its time.
"""
