"""The HTTP API of ATIS-1000082, by which SBCs of other makers have calls signed and verified."""
