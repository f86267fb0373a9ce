"""Live capture: sees what comes to the SBC and what it sends, touches nothing, and enforces nothing."""
