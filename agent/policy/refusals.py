"""Which answers are lawful for which kind of refusal, and which one is the default.

The table of the product: 603+ is for analytics alone (47 CFR 64.1200(k)(9)(i)), a limit is no block of illegal
traffic, and 404, 410 or 604 would tell others that the called number does not exist (RFC 8688 section 1).
A policy that breaks the table does not compile.
"""

from typing import Final

from agent.model import Answer, Category, ConfigError
from agent.sip.answers import MAX_RETRY_AFTER, STANDARD_PHRASES
from sbcedge.policy.v1 import policy_pb2

# Category -> lawful codes, the default first.
LAWFUL: Final[dict[Category, tuple[int, ...]]] = {
    Category.PROVIDER_BLOCK: (603, 403),
    Category.DO_NOT_ORIGINATE: (603, 403),
    Category.CALLER_ID: (603, 403),
    Category.LIMIT: (503, 480, 486),
    Category.IDENTITY: (428, 403, 436, 437, 438),
    Category.SUBSCRIBER: (607, 603),
}
PHRASE_MAX: Final = 64


def answer_for(
    category: Category, spec: policy_pb2.AnswerSpec, field: str, default: tuple[int, str] = (0, "")
) -> Answer:
    """The answer that `spec` asks for, or the category's default. Raises ConfigError naming the field.

    `default` is a code, and its phrase, that stands for the category's here.
    """
    lawful = LAWFUL[category]
    code = spec.code or default[0] or lawful[0]
    if code not in lawful:
        allowed = ", ".join(map(str, lawful))
        raise ConfigError(f"{field}.code", f"{code} does not answer a refusal by {category}; lawful: {allowed}")
    phrase = spec.phrase or (default[1] if code == default[0] else STANDARD_PHRASES[code])
    if len(phrase) > PHRASE_MAX or not phrase.isascii() or not phrase.isprintable():
        raise ConfigError(f"{field}.phrase", f"must be at most {PHRASE_MAX} printable ASCII characters")
    if "".join(phrase.split()).lower() == "networkblocked":
        raise ConfigError(f"{field}.phrase", "'Network Blocked' marks an analytics block (603+); this is none")
    if not spec.retry_after_seconds:
        return Answer(code, phrase)
    if code != 503:
        raise ConfigError(f"{field}.retry_after_seconds", f"goes with 503 only, not with {code}")
    if spec.retry_after_seconds > MAX_RETRY_AFTER:
        raise ConfigError(f"{field}.retry_after_seconds", f"must be at most {MAX_RETRY_AFTER} s")
    return Answer(code, phrase, (("Retry-After", str(spec.retry_after_seconds)),))
