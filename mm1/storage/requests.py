"""Requests to an object store through fsspec: each has a deadline, is repeated a few
times, and fails with one line that says what to do.

    MM1_STORAGE_TIMEOUT     seconds for one request, or for 8 MiB of it (default: 60)
    MM1_STORAGE_ATTEMPTS    how often one is made before it has failed (default: 5)

The store's own variables say where it is and who asks: `AWS_ENDPOINT_URL`,
`AWS_PROFILE`, `AWS_ACCESS_KEY_ID` and so on, or fsspec's (`FSSPEC_S3_ENDPOINT_URL`).
"""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from mm1.config import UserError
from mm1.extras import installs

Value = TypeVar("Value")
Call = Callable[[Any, str], Coroutine[Any, Any, Any]]

STORES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
}
"""Scheme of a URL -> the package that opens it."""
CREDENTIALS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    " (with AWS_SESSION_TOKEN where they are temporary)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default"
    " login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or"
    " AZURE_STORAGE_CONNECTION_STRING",
}
ENDPOINTS = {
    "s3": "AWS_ENDPOINT_URL",
    "gs": "STORAGE_EMULATOR_HOST",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
}
BLOCK_BYTES = 8 << 20
"""What must come within one deadline."""
CONNECT_SECONDS = 10
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""

REFUSED = {
    "PermissionError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "SSOTokenLoadError",
    "ProfileNotFound",
    "GoogleAuthError",
    "ClientAuthenticationError",
}
"""Classes of exceptions, by name as their packages may be missing: nobody is let in."""
FINAL = {
    "InvalidBucketName",
    "InvalidArgument",
    "KeyTooLongError",
    "MethodNotAllowed",
    "NotImplemented",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "301",
    "405",
    "501",
}
"""Codes of errors that stay, as of another region than the bucket's."""
EMPTY_RANGE = ("416", "InvalidRange")
"""Codes where nothing of an object is in the range that is asked for."""
LIBRARIES = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "urllib3",
    "http",
    "gcsfs",
    "google",
    "azure",
    "adlfs",
)
"""Packages whose other exceptions are about the connection."""

_lock = threading.Lock()
_systems: dict[str, tuple[int, Any]] = {}
"""Scheme -> the process that opened it, and its fsspec file system."""


class StorageError(UserError):
    """An object store does not do what is asked, and will not if asked again."""


class EmptyRange(StorageError):
    """An object has no byte in the range that is asked for."""


class StorageUnavailable(StorageError):
    """An object store cannot be reached, or does not answer in time. A launcher may
    start the command again."""

    exit_code = (
        69  # EX_UNAVAILABLE of sysexits.h, as of a run that has lost a rank
    )


def positive_number(variable: str, default: float) -> float:
    """The value of a variable of the environment.

    Raises:
        StorageError: it is none.
    """
    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise StorageError(f"{variable}={text} is no positive number")
    return value


def timeout() -> float:
    """Seconds."""
    return positive_number("MM1_STORAGE_TIMEOUT", 60.0)


def max_attempts() -> int:
    return max(1, int(positive_number("MM1_STORAGE_ATTEMPTS", 5.0)))


def _seconds(num_bytes: int) -> float:
    return timeout() * max(1, num_bytes / BLOCK_BYTES)


def request(url: str, call: Call, num_bytes: int = 0) -> Any:
    """What `call` returns, given the store's fsspec file system and the path of `url`
    in it; `num_bytes` are sent or received.

        request(url, lambda store, path: store._info(path))

    Raises:
        FileNotFoundError: there is no such object, or no such bucket.
        StorageError: the credentials are missing, wrong or expired, or the store's
            package is not installed.
        StorageUnavailable: no attempt has succeeded.
    """
    return retried(url, lambda: result(submit(url, call, num_bytes), num_bytes))


def submit(url: str, call: Call, num_bytes: int = 0) -> "Future[Any]":
    """One attempt at a `request`, made in the background by fsspec's thread."""
    scheme, path = split_url(url)
    system = _system(scheme)

    async def attempt() -> Any:
        return await asyncio.wait_for(call(system, path), _seconds(num_bytes))

    return asyncio.run_coroutine_threadsafe(attempt(), system.loop)


def result(future: "Future[Any]", num_bytes: int = 0) -> Any:
    """What a submitted attempt returns, or raises."""
    # Longer than it takes to fail by itself: its thread may hang, too.
    return future.result(_seconds(num_bytes) + CONNECT_SECONDS)


def retried(url: str, attempt: Callable[[], Value]) -> Value:
    """What `attempt` returns, made again with growing pauses where it fails for want of
    a connection, and once with new credentials where they are refused."""
    last: Exception | None = None
    for pause in _pauses():
        try:
            return attempt()
        except UserError:
            raise
        except FileNotFoundError as error:
            raise _not_found(url, error) from error
        except Exception as error:
            if not _is_about_the_store(error):
                raise
            if _code(error) in EMPTY_RANGE:
                raise EmptyRange(f"{url}: {_reason(error)}") from error
            if _is_final(error):
                raise StorageError(f"{url}: {_reason(error)}") from error
            # They may have been renewed in their file since it was read.
            refused_again = last is not None and _is_refusal(last)
            if _is_refusal(error) and refused_again:
                raise _refused(url, error) from error
            last = error
            if _is_refusal(error):
                forget_connections(url)
            else:
                time.sleep(pause)
    assert last is not None
    if _is_refusal(last):
        raise _refused(url, last) from last
    raise StorageUnavailable(
        f"{url}: {_reason(last)}, {max_attempts()} times in a row: is the network"
        f" there, and the store's address right ({ENDPOINTS[split_url(url)[0]]})?"
        " Run the command again to go on"
        " (MM1_STORAGE_ATTEMPTS and MM1_STORAGE_TIMEOUT say how long it tries)"
    ) from last


def split_url(url: str) -> tuple[str, str]:
    """(scheme, bucket/key).

    Raises:
        StorageError: it is not the URL of an object store.
    """
    scheme, mark, path = url.partition("://")
    if not mark or scheme not in STORES:
        raise StorageError(
            f"{url} is no URL of an object store (a scheme of {', '.join(STORES)})"
        )
    if not path.strip("/"):
        raise StorageError(f"{url} names no bucket")
    return scheme, path


def forget_connections(url: str) -> None:
    """The next request opens the store anew, with the credentials that are there
    then."""
    with _lock:
        _systems.pop(split_url(url)[0], None)


def _pauses() -> Iterator[float]:
    """Seconds after each attempt; some more or less, so that ranks come apart."""
    last = max_attempts() - 1
    for number in range(last):
        yield FIRST_PAUSE * 2**number * random.uniform(0.75, 1.25)
    yield 0.0


def _system(scheme: str) -> Any:
    """The store's file system. A fork inherits none: its thread is not there."""
    with _lock:
        process, system = _systems.get(scheme, (0, None))
        if process != os.getpid():
            system = _open_system(scheme)
            _systems[scheme] = os.getpid(), system
        return system


def _open_system(scheme: str) -> Any:
    import fsspec
    from fsspec.config import conf

    options: dict[str, Any] = {
        "skip_instance_cache": True,
        "use_listings_cache": False,
    }
    if scheme == "s3":
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": timeout(),
            # Attempts are counted here alone.
            "retries": {"total_max_attempts": 1},
        }
    try:
        system: Any = fsspec.filesystem(
            scheme, **options | conf.get(scheme, {})
        )
    except ImportError as error:
        raise StorageError(
            f"{scheme}:// needs {STORES[scheme]}: {installs('cloud')}"
        ) from error
    except ValueError as error:  # adlfs, without an account
        raise StorageError(
            f"{scheme}:// cannot be opened ({error}): set {CREDENTIALS[scheme]}"
        ) from error
    if scheme == "s3":
        system.retries = 1
        system.connect()  # two first requests at a time would do so twice
    return system


def _names(error: BaseException) -> set[str]:
    """The classes of an exception and of those that caused it."""
    names: set[str] = set()
    current: BaseException | None = error
    while current is not None:
        names |= {each.__name__ for each in type(current).__mro__}
        current = current.__cause__
    return names


def _code(error: BaseException) -> str:
    """The store's own code for an error, such as ExpiredToken, or ""."""
    current: BaseException | None = error
    while current is not None:
        response = getattr(current, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        current = current.__cause__
    return ""


def _is_refusal(error: BaseException) -> bool:
    # An answer to HEAD has no text: 400 is what S3 says of an expired token.
    return bool(_names(error) & REFUSED) or _code(error) in (
        "400",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
    )


def _is_final(error: BaseException) -> bool:
    return _code(error) in FINAL or "ParamValidationError" in _names(error)


def _is_about_the_store(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError)) or (
        package in LIBRARIES
    )


def _reason(error: BaseException) -> str:
    """One line."""
    names = _names(error)
    if names & {"TimeoutError", "FSTimeoutError", "ReadTimeoutError"}:
        return f"no answer, or too slow a one, within {timeout():g} s"
    code = _code(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} ({code})" if code and code not in text else text


def _refused(url: str, error: BaseException) -> StorageError:
    scheme, _ = split_url(url)
    missing = "NoCredentialsError" in _names(error)
    why = (
        "no credentials were found"
        if missing
        else f"the store refuses the credentials ({_reason(error)})"
    )
    return StorageError(
        f"{url}: {why}: set or renew them ({CREDENTIALS[scheme]}), and look what they"
        " may do; then run the command again"
    )


def _not_found(url: str, error: Exception) -> FileNotFoundError:
    scheme, path = split_url(url)
    bucket = path.partition("/")[0]
    if "bucket" in str(error).lower():
        return FileNotFoundError(
            f"{url}: there is no bucket {scheme}://{bucket}"
        )
    return FileNotFoundError(f"there is no object {url}")
