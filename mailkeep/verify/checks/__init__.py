"""The checks, one function for each promise. The first line of its docstring is the promise that operators read.

Their fixtures are in mailkeep.verify.session; `observed` is the probe's result.
"""
