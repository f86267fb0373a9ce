"""The SBC edge agent. `ARCHITECTURE.md` is the map."""
