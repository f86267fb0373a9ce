"""Where lists are kept, as agents fetch them: section [artifacts] of controller.toml. Opens nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from agent.model import ConfigError
from agent.settings import Range
from controller.names import check_place, name_fault

DEFAULT_DIRECTORY: Final = Path("/var/lib/sbc-edge-controller/artifacts")


SOURCES_MAX: Final = 100
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Source:
    """A list that the controller fetches by itself: [[artifacts.sources]]. `authorization` is a file that holds the
    header of that name, `https_ca` one of those who may have issued the server's certificate (PEM).
    """

    kind: Literal["dno", "trust-list", "crl"]
    name: str
    url: str
    every_seconds: Annotated[float, Range(60.0, 30 * DAY)] = 3600.0
    within_seconds: Annotated[float, Range(1.0, 3600.0)] = 300.0
    authorization: Path | None = None
    https_ca: Path | None = None

    def __post_init__(self) -> None:
        if fault := name_fault(self.name):
            raise ConfigError("name", fault)
        if fault := url_fault(self.url):
            raise ConfigError("url", fault)

    @property
    def id(self) -> str:
        """By which the store remembers how it went."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """`url` is a place on object storage ("s3://bucket/lists"), the same for all controllers of a fleet; "" is
    `directory`. `fetches` is how many agents get a list at the same time; others wait for their turn. `signers` is a
    PEM file of those who may sign trust lists and revocation lists: the roots of the policy administrators and the
    certificates of their CRL signers. `keep` is how many generations of a list stay besides those that are in
    use, and of how many policies before one that is in use the lists stay, too.
    """

    directory: Path = DEFAULT_DIRECTORY
    url: str = ""
    fetches: Annotated[int, Range(1, 1024)] = 64
    signers: Path | None = None
    keep: Annotated[int, Range(1, 1000)] = 10
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        if self.url:
            check_place(self.url)
        if len(self.sources) > SOURCES_MAX:
            raise ConfigError("sources", f"at most {SOURCES_MAX}")
        for n, source in enumerate(self.sources):
            if source.id in {other.id for other in self.sources[:n]}:
                raise ConfigError(f"sources[{n}].name", f"there is a {source.kind} {source.name} already")
            if source.kind != "dno" and self.signers is None:
                raise ConfigError(
                    "signers", f"is needed: a {source.kind} from a URL is taken only if one of these signed"
                )


def url_fault(url: str) -> str:
    """Why nothing is fetched from there; "" if it can be."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme != "https" or not host:
        return 'must be an https URL: "https://lists.example.net/dno.list"'
    if parts.username is not None or parts.password is not None:
        return "must not hold a password: write it to a file, and name that as `authorization`"
    return ""
