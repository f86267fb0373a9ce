"""What this machine is and has: read by `sbc-agent setup` and `sbc-agent doctor`. Changes nothing, screens nothing."""
