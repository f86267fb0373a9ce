"""The grammar of SIP as regular expressions over bytes, each beside the ABNF it stands for (RFC 3261 25.1).

Knows bytes only: no header, no message. Everything is ASCII by construction (a bytes pattern knows no other
digits). Repetitions of single characters are possessive (`*+`, `++`), and those of groups start each round with a
character that nothing else there can start with: a match has nothing to try again, so its time is linear in its
input. Groups are never possessive: CPython before 3.11.5, which Debian 12 ships, mis-matches those (gh-106052).
"""

import re
from typing import Final

# token = 1*(alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~")
TOKEN_CHARS: Final = rb"A-Za-z0-9\-.!%*_+`'~"
TOKEN: Final = re.compile(rb"[" + TOKEN_CHARS + rb"]++")

# DIGIT = %x30-39. Written out: `\d` and isdigit() are too easily read as "any digit of any script".
DIGITS: Final = re.compile(rb"[0-9]++")

# quoted-string = SWS DQUOTE *(qdtext / quoted-pair) DQUOTE
# quoted-pair   = "\" (%x00-09 / %x0B-0C / %x0E-7F)
# Read liberally: any byte may follow the backslash, any byte above %x7F may stand in the text (Latin-1
# names).
QUOTED: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*"'
QUOTED_STRING: Final = re.compile(QUOTED, re.DOTALL)
QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)
# What cannot stand in the text without a backslash: the two delimiters and the control characters but HTAB.
TO_ESCAPE: Final = re.compile(rb"[\"\\\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

# Up to the next separator outside "..." (and outside <...> for the comma of address lists). A match ends at
# the separator, at the end of the value, or at a quote or angle bracket that is never closed.
UNTIL_COMMA: Final = re.compile(rb"(?:[^\",]++|" + QUOTED + rb")*", re.DOTALL)
UNTIL_ADDRESS_COMMA: Final = re.compile(rb"(?:[^\",<]++|" + QUOTED + rb"|<[^>]*+>)*", re.DOTALL)
UNTIL_SEMICOLON: Final = re.compile(rb"(?:[^\";]++|" + QUOTED + rb")*", re.DOTALL)
# Where the addr-spec of a name-addr opens, or the parameters of a bare addr-spec begin.
UNTIL_ADDR_SPEC: Final = re.compile(rb"(?:[^\"<;]++|" + QUOTED + rb")*", re.DOTALL)

# Request-Line = Method SP Request-URI SP SIP-Version CRLF ; SIP-Version = "SIP" "/" 1*DIGIT "." 1*DIGIT
# One SP each and nothing around (RFC 4475 3.1.2.8-10), no "<" before the URI (3.1.2.7), version 2.0 only
# (3.1.2.16). The URI is any run without white space: a scheme that nobody knows must still be read (416).
REQUEST_LINE: Final = re.compile(rb"([" + TOKEN_CHARS + rb"]++) ([^\s<]\S*+) (?i:SIP/2\.0)")

# Status-Line = SIP-Version SP Status-Code SP Reason-Phrase CRLF ; Status-Code = 3DIGIT, here 100 to 699
# The SP before an empty phrase is often missing, so it may be.
STATUS_LINE: Final = re.compile(rb"(?i:SIP/2\.0) ([1-6][0-9]{2})(?: (.*+))?", re.DOTALL)

# CSeq = "CSeq" HCOLON 1*DIGIT LWS Method
CSEQ: Final = re.compile(rb"([0-9]++)[ \t\r]++([" + TOKEN_CHARS + rb"]++)")

# display-name = *(token LWS) / quoted-string. The LWS before "<" may be missing (RFC 4475 3.1.1.6).
# Bytes above %x7F pass: unquoted UTF-8 names are seen, and no caller is called malformed for one.
DISPLAY_NAME: Final = re.compile(
    rb"[ \t]*+(?:" + QUOTED + rb"[ \t]*+|(?:[" + TOKEN_CHARS + rb"\x80-\xff]++[ \t]*+)*)", re.DOTALL
)

# generic-param = token [ EQUAL gen-value ] ; gen-value = token / host / quoted-string
# The value is read liberally, as anything but separators: `received=2001:db8::1` (RFC 5118 4.5) and the URIs
# that later RFCs put into parameters pass.
PARAMETER: Final = re.compile(
    rb"[" + TOKEN_CHARS + rb"]++[ \t]*+(?:=[ \t]*+(?:" + QUOTED + rb"|<[^>]*+>|[^\x00-\x20\x7f\",;<>]++))?", re.DOTALL
)

# scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." )
SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+\-.]*+):")

# userinfo   = ( user / telephone-subscriber ) [ ":" password ] "@"
# user       = 1*( unreserved / escaped / user-unreserved )
# unreserved = alphanum / mark ; mark = "-" / "_" / "." / "!" / "~" / "*" / "'" / "(" / ")"
# user-unreserved = "&" / "=" / "+" / "$" / "," / ";" / "?" / "/" ; escaped = "%" HEXDIG HEXDIG
# "#" must be escaped there (RFC 3261 19.1.6), yet dialled strings carry it bare; bytes above %x7F likewise.
USER: Final = re.compile(rb"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/#\x80-\xff]++|%[0-9A-Fa-f]{2})+")
# password = *( unreserved / escaped / "&" / "=" / "+" / "$" / "," )
PASSWORD: Final = re.compile(rb"(?:[A-Za-z0-9\-_.!~*'()&=+$,]++|%[0-9A-Fa-f]{2})*")
ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")

# hostport = host [ ":" port ] ; host = hostname / IPv4address / IPv6reference
# sent-by  = host [ COLON port ], COLON = SWS ":" SWS. Underscores are not in domainlabel, but in host names
# of running networks.
HOSTPORT: Final = re.compile(rb"(\[[0-9A-Fa-f:.]++\]|[A-Za-z0-9_][A-Za-z0-9_\-.]*+)(?:[ \t]*+:[ \t]*+([0-9]++))?")

# uri-parameter = pname [ "=" pvalue ] ; paramchar = param-unreserved / unreserved / escaped
# param-unreserved = "[" / "]" / "/" / ":" / "&" / "+" / "$"
_PARAMCHARS: Final = rb"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$\x80-\xff]++|%[0-9A-Fa-f]{2})"
URI_PARAMETER: Final = re.compile(_PARAMCHARS + rb"+(?:=" + _PARAMCHARS + rb"*)?")

# header = hname "=" hvalue ; hnv-unreserved = "[" / "]" / "/" / "?" / ":" / "+" / "$"
_HEADERCHARS: Final = rb"(?:[A-Za-z0-9\-_.!~*'()\[\]/?:+$]++|%[0-9A-Fa-f]{2})"
URI_HEADER: Final = re.compile(_HEADERCHARS + rb"+=" + _HEADERCHARS + rb"*")

# telephone-subscriber = global-number / local-number (RFC 3966 3); visual-separator = "-" / "." / "(" / ")"
# global-number-digits = "+" *phonedigit DIGIT *phonedigit
# local-number-digits  = *phonedigit-hex (HEXDIG / "*" / "#") *phonedigit-hex
TELEPHONE: Final = re.compile(rb"\+[\-.()]*+[0-9][0-9\-.()]*+|[\-.()]*+[0-9A-Fa-f*#][0-9A-Fa-f*#\-.()]*+")

# absoluteURI of any other scheme: printable, without blanks and the delimiters of RFC 2396 2.4.3.
OPAQUE: Final = re.compile(rb"[^\x00-\x20\x7f\"<>]++")

# sent-protocol = protocol-name SLASH protocol-version SLASH transport ; SLASH = SWS "/" SWS
SENT_PROTOCOL: Final = re.compile(
    rb"(["
    + TOKEN_CHARS
    + rb"]++)[ \t]*+/[ \t]*+(["
    + TOKEN_CHARS
    + rb"]++)[ \t]*+/[ \t]*+(["
    + TOKEN_CHARS
    + rb"]++)[ \t]++"
)

# SIP-date = rfc1123-date = wkday "," SP 2DIGIT SP month SP 4DIGIT SP time SP "GMT"
SIP_DATE: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} "
    rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4} "
    rb"[0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
    re.IGNORECASE,
)

# Control characters that stand bare in a value (group 1); quoted pairs may hold them and are consumed first.
CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
BARE_CONTROL: Final = re.compile(rb"\\[\x00-\x09\x0b\x0c\x0e-\x7f]|([\x00-\x08\x0a-\x1f\x7f])")
