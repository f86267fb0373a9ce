"""The way in over netfilter's queue: in path, beside an SBC that knows nothing of it."""
