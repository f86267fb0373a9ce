"""The hook: SBCs ask over gRPC what to do with a call. `wire` maps messages, `server` listens, the rest is between."""
