# The compiled twins of agent.sip.answers.build_reply_py (None where that has to be asked) and of
# agent.sip.tags.transaction_tag_py, which say what is returned and raised.

from agent.model import Scan

def build(
    request: bytes, status_line: bytes, rows: bytes, tag: str, host: str | None, port: int, /
) -> tuple[bytes, int] | None: ...
def transaction_tag(secret: bytes, message: Scan, /) -> str: ...
