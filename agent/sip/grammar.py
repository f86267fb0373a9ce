"""The grammar of SIP as regular expressions over bytes, each beside the ABNF it stands for (RFC 3261 25.1).

Knows bytes only: no header, no message. Everything is ASCII by construction (bytes patterns know no other digits),
and every repetition is possessive (`*+`, `++`): a pattern never backtracks, so its time is linear in its input.
"""

import re
from typing import Final

# token = 1*(alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~")
TOKEN_CHARS: Final = rb"A-Za-z0-9\-.!%*_+`'~"
TOKEN: Final = re.compile(rb"[" + TOKEN_CHARS + rb"]++")

# DIGIT = %x30-39. Written out: `\d` and bytes.isdigit() are read too easily as "any digit of any script".
DIGITS: Final = re.compile(rb"[0-9]++")

# quoted-string = SWS DQUOTE *(qdtext / quoted-pair) DQUOTE
# quoted-pair   = "\" (%x00-09 / %x0B-0C / %x0E-7F)
# Read liberally: any byte may follow the backslash, and any byte above %x7F may stand in the text (Latin-1 names).
QUOTED: Final = rb'"(?:[^"\\]++|\\.)*+"'
QUOTED_STRING: Final = re.compile(QUOTED, re.DOTALL)
QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)

# Up to the next separator that stands outside "..." and <...>. The match ends at the separator, at the end of the
# value, or at a quote or angle bracket that is never closed.
UNTIL_COMMA: Final = re.compile(rb"(?:[^\",<]++|" + QUOTED + rb"|<[^>]*+>)*+", re.DOTALL)
UNTIL_SEMICOLON: Final = re.compile(rb"(?:[^\";<]++|" + QUOTED + rb"|<[^>]*+>)*+", re.DOTALL)
# Up to the first "<" outside a quoted string: where the addr-spec of a name-addr begins.
UNTIL_ANGLE: Final = re.compile(rb"(?:[^\"<]++|" + QUOTED + rb")*+", re.DOTALL)

# Request-Line = Method SP Request-URI SP SIP-Version CRLF ; SIP-Version = "SIP" "/" 1*DIGIT "." 1*DIGIT
# One SP each, nothing before or after (RFC 4475 3.1.2.8-10), no "<" around the URI (3.1.2.7), version 2.0 only
# (3.1.2.16). The URI is any run of bytes that are neither blank nor control characters: an unknown scheme must
# still be read, so that it can be answered with 416.
REQUEST_LINE: Final = re.compile(
    rb"([" + TOKEN_CHARS + rb"]++) ([^\x00-\x20\x7f<][^\x00-\x20\x7f]*+) (SIP/2\.0)", re.IGNORECASE)

# Status-Line = SIP-Version SP Status-Code SP Reason-Phrase CRLF ; Status-Code = 3DIGIT, 100 to 699
# The SP before an empty phrase is often missing in practice, so it may be.
STATUS_LINE: Final = re.compile(rb"(SIP/2\.0) ([1-6][0-9]{2})(?: (.*+))?", re.IGNORECASE | re.DOTALL)

# CSeq = "CSeq" HCOLON 1*DIGIT LWS Method
CSEQ: Final = re.compile(rb"([0-9]++)[ \t]++([" + TOKEN_CHARS + rb"]++)")

# display-name = *(token LWS) / quoted-string. The LWS before "<" may be missing (RFC 4475 3.1.1.6).
# Bytes above %x7F are let through: unquoted UTF-8 names are seen, and no peer is refused for one.
DISPLAY_TOKENS: Final = re.compile(rb"(?:[" + TOKEN_CHARS + rb"\x80-\xff]++[ \t]*+)*+")

# generic-param = token [ EQUAL gen-value ] ; gen-value = token / host / quoted-string
# Read liberally in the value: anything but separators, so that `received=2001:db8::1` (RFC 5118 4.5) and SIP-URIs
# in parameters of later RFCs pass.
PARAMETER: Final = re.compile(
    rb"([" + TOKEN_CHARS + rb"]++)[ \t]*+(?:=[ \t]*+(" + QUOTED + rb"|<[^>]*+>|[^\x00-\x20\x7f\",;<>]*+))?", re.DOTALL)

# scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." )
SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+\-.]*+):")

# userinfo  = ( user / telephone-subscriber ) [ ":" password ] "@"
# user      = 1*( unreserved / escaped / user-unreserved )
# unreserved = alphanum / "-" / "_" / "." / "!" / "~" / "*" / "'" / "(" / ")"
# user-unreserved = "&" / "=" / "+" / "$" / "," / ";" / "?" / "/" ; escaped = "%" HEXDIG HEXDIG
# "#" is not in the grammar, yet dialled strings carry it unescaped (RFC 3261 19.1.6 would have it escaped).
USER: Final = re.compile(rb"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/#\x80-\xff]++|%[0-9A-Fa-f]{2})++")
PASSWORD: Final = re.compile(rb"(?:[A-Za-z0-9\-_.!~*'()&=+$,]++|%[0-9A-Fa-f]{2})*+")
ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")

# hostport = host [ ":" port ] ; host = hostname / IPv4address / IPv6reference
# Underscores are not in RFC 3261's domainlabel, but stand in host names of running networks.
HOSTPORT: Final = re.compile(
    rb"(\[[0-9A-Fa-f:.]++\]|[A-Za-z0-9_](?:[A-Za-z0-9_\-.]*+))[ \t]*+(?::[ \t]*+([0-9]++))?")

# uri-parameter = pname [ "=" pvalue ] ; paramchar = param-unreserved / unreserved / escaped
# param-unreserved = "[" / "]" / "/" / ":" / "&" / "+" / "$"
_PARAMCHARS: Final = rb"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$\x80-\xff]++|%[0-9A-Fa-f]{2})++"
URI_PARAMETER: Final = re.compile(rb"(" + _PARAMCHARS + rb")(?:=(" + _PARAMCHARS + rb")?)?")

# headers = "?" header *( "&" header ) ; header = hname "=" hvalue ; hnv-unreserved = "[" "]" "/" "?" ":" "+" "$"
_HEADERCHARS: Final = rb"(?:[A-Za-z0-9\-_.!~*'()\[\]/?:+$]++|%[0-9A-Fa-f]{2})"
URI_HEADER: Final = re.compile(rb"(" + _HEADERCHARS + rb"++)=(" + _HEADERCHARS + rb"*+)")

# telephone-subscriber = global-number / local-number (RFC 3966 3); visual-separator = "-" / "." / "(" / ")"
GLOBAL_NUMBER: Final = re.compile(rb"\+[0-9\-.()]*+(?<=[0-9\-.()])")
LOCAL_NUMBER: Final = re.compile(rb"[0-9A-Fa-f*#\-.()]++")
# phone-context = ";phone-context=" ( domainname / global-number-digits )
PHONE_CONTEXT: Final = re.compile(rb"\+[0-9\-.()]++|[A-Za-z0-9](?:[A-Za-z0-9\-.]*+)")

# absoluteURI of any other scheme: printable, no blanks, no delimiters that RFC 2396 2.4.3 excludes.
OPAQUE: Final = re.compile(rb"[^\x00-\x20\x7f\"<>]++")

# SIP-date = rfc1123-date = wkday "," SP 2DIGIT SP month SP 4DIGIT SP time SP "GMT"
SIP_DATE: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} "
    rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", re.IGNORECASE)

# Control characters that no header value may hold bare; quoted pairs are consumed first because they may (group 1).
BARE_CONTROL: Final = re.compile(rb"\\[\x00-\x09\x0b\x0c\x0e-\x7f]|([\x00-\x08\x0a-\x1f\x7f])")
ANY_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
