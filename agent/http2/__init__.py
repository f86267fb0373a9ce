"""HTTP/2 as a server speaks it, without I/O: bytes in, bytes out, streams between (RFC 9113, RFC 7541)."""
