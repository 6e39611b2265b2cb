"""Files of the user that a package never contains: by their names, they may hold a secret."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

# of files and folders, without regard to case; modules are code, whatever they are called
SECRET_NAMES = (
    *("*credential*", "*secrets*", "*secret.*", "*client_secret*", "*password*", "*passwd*"),
    *("id_*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("*.gpg", "*.env", "*.tfvars", "*.tfstate*", "_netrc", "*kubeconfig*"),
    *("*service_account*", "*service-account*"),
)
# hidden files are never copied; of these it is said
HIDDEN_SECRET_NAMES = (
    *(".env*", ".netrc", ".npmrc", ".pypirc", ".pgpass", ".my.cnf", ".boto", ".s3cfg"),
    *(".git-credentials", ".htpasswd", ".dockercfg"),
    *(".aws", ".azure", ".docker", ".gnupg", ".kube", ".ssh"),
)


def is_secret(path: Path, source: Path) -> bool:
    """Return whether a file below `source`, or the file that it is a link to, may hold a secret.

    A link to a hidden file counts as well.
    """
    if _has_secret_name(path.relative_to(source)):
        return True
    if not path.is_symlink():
        return False
    target = path.resolve().relative_to(source.resolve())
    return _has_secret_name(target) or any(part.startswith(".") for part in target.parts)


def is_hidden_secret(inside: Path) -> bool:
    """Return whether a hidden file may hold a secret, by its first hidden folder or its name."""
    hidden = next((part for part in inside.parts if part.startswith(".")), "")
    return _matches(hidden, HIDDEN_SECRET_NAMES)


def _has_secret_name(inside: Path) -> bool:
    return inside.suffix != ".py" and any(_matches(part, SECRET_NAMES) for part in inside.parts)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)
