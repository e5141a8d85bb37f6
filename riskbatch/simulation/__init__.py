"""Whether a budget is enough for some traffic: the real client on a virtual clock, beside hand-made ones."""
