"""Tells outages of a tracking store, which pass by waiting, from refusals, and what to do about a refusal."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

#: MLflow's error codes for outages: a server that is down, overloaded, or busy with another transaction.
_PASSING_CODES = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "ABORTED", "RESOURCE_CONFLICT", "CANCELLED",
}  # fmt: skip
#: Outages of networks and databases, by name of class and package, as these packages are not imported here.
_PASSING_CLASSES = {"OperationalError", "InterfaceError", "DisconnectionError", "TimeoutError"}
_PASSING_PACKAGES = {"requests", "urllib3"}

_SERVER = "see whether MLFLOW_TRACKING_URI is the address of an MLflow server, and of one that fits this MLflow"
_SIGN_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_RIGHTS = "get the right to write there, or set MLFLOW_TRACKING_URI to another store"
_PATH = "make that path a folder or file that can be written, or set MLFLOW_TRACKING_URI to another store"
_OTHER = "no outage: see MLFLOW_TRACKING_URI and the versions of MLflow and of its database"

#: Pattern in a message -> what to do.
_WORDS = {
    r"database schema": "run `mlflow db upgrade` on the store with the newer of the two versions of MLflow",
    r"not in a valid JSON format": _SERVER,
    r"maintenance mode": "set MLFLOW_TRACKING_URI to a database such as sqlite:///mlflow.db, or to a server",
    r"failed with error code (401|407)": _SIGN_IN,
    r"failed with error code 403": _RIGHTS,
    r"failed with error code (?!408|425|429)[34]\d\d": _SERVER,
    r"(password )?authentication failed|[Aa]ccess denied": "correct user and password in MLFLOW_TRACKING_URI",
    r"database .* does not exist|[Uu]nknown database": "make that database, or correct MLFLOW_TRACKING_URI",
}
_SQLITE = {
    "SQLITE_READONLY": "make the database writable, or set MLFLOW_TRACKING_URI to another store",
    "SQLITE_CANTOPEN": _PATH,
    "SQLITE_PERM": _RIGHTS,
    "SQLITE_AUTH": _RIGHTS,
    "SQLITE_NOTADB": "move that file away, or set MLFLOW_TRACKING_URI to another store",
    "SQLITE_CORRUPT": "move that file away: the next command fills a new one",
    "SQLITE_ERROR": "see whether that database is one of MLflow's",
}
_CODES = {
    "UNAUTHENTICATED": _SIGN_IN,
    "CUSTOMER_UNAUTHORIZED": _SIGN_IN,
    "PERMISSION_DENIED": _RIGHTS,
}
_LASTING_ERRNO = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


def way_out(error: BaseException) -> str:
    """What to do about a refusal; empty for an outage, which passes by itself."""
    chain = list(_chain(error))
    for part in chain:
        if isinstance(part, ImportError):
            return f"install {part.name or 'mlflow'}, or give tracker=none"
        name = getattr(part, "sqlite_errorname", "")
        for start, advice in _SQLITE.items():
            if name.startswith(start):
                return advice
        for words, advice in _WORDS.items():
            if re.search(words, str(part)):
                return advice
    return "" if any(_passes(part) for part in chain) else _lasting(chain)


def _lasting(chain: list[BaseException]) -> str:
    codes = [code for part in chain if isinstance(code := getattr(part, "error_code", None), str)]
    if codes:
        return _CODES.get(codes[0], _SERVER)
    return _PATH if any(isinstance(part, OSError) for part in chain) else _OTHER


def _passes(part: BaseException) -> bool:
    if type(part).__module__.partition(".")[0] in _PASSING_PACKAGES or type(part).__name__ in _PASSING_CLASSES:
        return True
    if isinstance(part, OSError):
        return part.errno not in _LASTING_ERRNO
    return getattr(part, "error_code", None) in _PASSING_CODES


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and its causes, with the errors of database drivers."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        original = getattr(error, "orig", None)
        if isinstance(original, BaseException):
            yield original
        error = error.__cause__ or error.__context__


def try_database(uri: str) -> None:
    """Open a database once: MLflow would retry for minutes before it reports that it cannot be opened."""
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///").partition("?")[0]).parent.mkdir(parents=True, exist_ok=True)
    if uri.startswith(("sqlite:", "postgresql", "mysql", "mssql")):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri)
        try:
            sqlalchemy.inspect(engine)
        finally:
            engine.dispose()
