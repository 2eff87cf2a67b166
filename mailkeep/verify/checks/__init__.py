"""The promises, one function each: its docstring is what is shown. They judge what the probe saw (`seen`)."""
