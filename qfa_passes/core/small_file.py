"""Small files (reports, plans) written whole: the new one is complete, or the old one stays."""

import secrets
from pathlib import Path

from qfa_passes.core.printable import printable
from qfa_passes.errors import SaveError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file by way of a temporary one beside it.

    Raises:
        SaveError: The folder cannot be written; nothing has changed.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(
            f"'{printable(str(path))}' cannot be written", why=error.strerror or ""
        ) from error
