"""Object storage by its URL, for records and lists. Blocks; runs in threads only.

S3, and what speaks its protocol, is read and written by the client that pyarrow brings: nothing has to be installed for
it. Other protocols are those of fsspec, with the package that it names for each. Knows nothing of what is in objects.
"""

from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from agent.model import ConfigError

S3: Final = "s3"

S3_OPTIONS: Final = frozenset({"endpoint_override", "region", "scheme", "tls_ca_file_path"})
"""Of a URL: "s3://bucket/records?endpoint_override=objects.example.net:9000&region=us-east-1"."""

# Left to itself the client waits for minutes, some requests for ever. What fails is asked for again by who wants it.
CONNECT_SECONDS: Final = 3.0
SILENT_SECONDS: Final = 10.0
ATTEMPTS: Final = 2


class S3Objects(ArrowFSWrapper):  # type: ignore[misc]  # fsspec has no types
    """S3 has no folders, only names; objects that stand for folders are written by nobody but who asks for them."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: ARG002  (of fsspec)
        """Nothing to be made; but whether its bucket is there is known then. Raises FileNotFoundError, OSError."""
        bucket = path.partition("/")[0]
        if self.fs.get_file_info(bucket).type is fs.FileType.NotFound:
            raise FileNotFoundError(f"there is no bucket {bucket}")

    def find(self, path: str, *_: Any, detail: bool = False, **__: Any) -> Any:
        """In one listing, not one for each folder. Raises OSError."""
        entries = self.fs.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
        found = {entry.path: self._make_entry(entry) for entry in entries if entry.type is fs.FileType.File}
        return found if detail else sorted(found)


def open_objects(url: str, field: str) -> tuple[Any, str]:
    """The file system, and where in it the URL is. Raises ConfigError naming `field`, and what its client raises."""
    try:
        if urlsplit(url).scheme == S3:
            return _open_s3(url)
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        return system, str(root).rstrip("/")
    except (ImportError, ValueError) as error:  # `pip install ...` of a package that is missing; no such protocol
        raise ConfigError(field, f"{url}: {error}") from error


def _open_s3(url: str) -> tuple[Any, str]:
    """Keys are found as all of S3's clients find them: by the environment, a file that it names, or the host's role."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - S3_OPTIONS):
        raise ValueError(f"{unknown[0]} is not known; known are {', '.join(sorted(S3_OPTIONS))}")
    if not parts.netloc:
        raise ValueError("names no bucket")
    system = fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # an object of less than 10 MB goes whole, in one request
        background_writes=False,
    )
    return S3Objects(system, skip_instance_cache=True), f"{parts.netloc}{parts.path}".rstrip("/")


def changed_at(info: dict[str, Any]) -> float:
    """When an object of a listing was written, epoch seconds; 0: the place does not say."""
    for key in ("LastModified", "mtime", "modified", "created", "updated"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
