# The compiled twin of agent.sip.answers.build_reply_py, which says what is built; None where that has to be asked.

def build(
    request: bytes, status_line: bytes, rows: bytes, tag: str, host: str | None, port: int, /
) -> tuple[bytes, int] | None: ...
