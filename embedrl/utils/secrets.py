"""What must not be written or shown: passwords in addresses, and secrets that a configuration takes from outside."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
_PASSWORD = re.compile(r"(?<=://)[^/@\s'\"]+@")
_NAMES = (
    r"(?:api[_-]?key|access[_-]?key|secret|secret[_-]?key|password|passwd|auth[_-]?token|access[_-]?token"
    r"|authorization|credentials?)"
)
_SECRET_KEY = re.compile(rf"(^|[_-]){_NAMES}$", re.IGNORECASE)
# `--extra.api_key=...` and `{"api_key": "..."}`, on a command line or in an error
_ASSIGNED = re.compile(rf"(\b(?:\w*[_-])?{_NAMES}(?:=|['\"]: ?['\"]))(?!\$\{{)[^\s'\",}}]+", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(
    r"(^|_)(api_?key|key|token|secret|pass|password|passwd|pw|cred|creds|credentials?|auth)(_|$)", re.IGNORECASE
)
_read: dict[str, str] = {}


def watch_environment() -> None:
    """Note what `${oc.env:NAME}` in a configuration is replaced by, so that it can be put back."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers.oc import env

    def noted(*arguments: Any) -> str | None:
        if (name := str(arguments[0])) in os.environ:
            _read[name] = os.environ[name]
        return env(*arguments)

    OmegaConf.register_resolver("oc.env", noted, replace=True, annotation_validation="off")


def without_secrets(value: Any, again: bool = True) -> Any:
    """Plain values without secrets.

    Args:
        value: Mappings, lists and plain values.
        again: Write `${oc.env:NAME}` for what came from there, which a configuration reads again; otherwise `***`.

    >>> without_secrets({"base_url": "http://me:pw@host/v1", "extra": {"api_key": "sk-1"}, "api_key_env": "KEY"})
    {'base_url': 'http://***@host/v1', 'extra': {'api_key': '***'}, 'api_key_env': 'KEY'}
    """
    if isinstance(value, dict):
        return {key: HIDDEN if _is_secret(key, item) else without_secrets(item, again) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_secrets(item, again) for item in value)
    return hide(value, again) if isinstance(value, str) else value


def hide(text: str, again: bool = False) -> str:
    """Text without secrets; see `without_secrets`."""
    for name, secret in _read.items():
        if secret in text and _may_be_secret(name, secret, again):
            text = text.replace(secret, f"${{oc.env:{name}}}" if again else HIDDEN)
    return _ASSIGNED.sub(rf"\g<1>{HIDDEN}", _PASSWORD.sub(f"{HIDDEN}@", text))


def has_secrets(text: str) -> bool:
    """Whether a text may hold any."""
    return hide(text) != text or any(_SECRET_KEY.search(word) for word in re.findall(r"[\w-]+(?=['\"]?:)", text))


def _is_secret(key: Any, value: Any) -> bool:
    return (
        isinstance(key, str)
        and isinstance(value, str)
        and bool(value and _SECRET_KEY.search(key))
        and not hide(value, True).startswith("${oc.env:")
    )


def _may_be_secret(name: str, value: str, widely: bool) -> bool:
    """Whether a variable holds a secret by its name; widely: or by its value, which is no path and no short word."""
    if len(value) < 4:
        return False
    if _SECRET_VARIABLE.search(name):
        return True
    return widely and bool(_PASSWORD.search(value) or (len(value) >= 12 and not re.search(r"[/\s.:]", value)))
