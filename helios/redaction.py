"""Taking secrets out of what leaves a process: lines of its log, and notices. No I/O happens here."""

import re
from urllib.parse import unquote, urlsplit

from helios.notify import read_secrets
from helios.settings import Settings

HIDDEN = "***"
SECRET_CHARACTERS = 4
"""What is shorter would be found everywhere; it is no secret either."""

_SIGNED = re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)|signature|token|password)=[^&\s\"'\\]+")
_BEARER = re.compile(r"(?i)\bBearer\s+[A-Za-z0-9._~+/=-]+")


class Redaction:
    """Knows this process's own secrets, and what those of signed URLs and headers look like."""

    def __init__(self, settings: Settings) -> None:
        password = unquote(urlsplit(settings.redis_url).password or "")
        signing = read_secrets(settings.notify_secrets).values()
        own = (password, settings.s3_secret_key, settings.token_key, settings.keeper_key, *signing)
        self.own = sorted({each for each in own if len(each) >= SECRET_CHARACTERS}, key=len, reverse=True)

    def clean(self, text: str) -> str:
        for secret in self.own:
            text = text.replace(secret, HIDDEN)
        return _BEARER.sub(f"Bearer {HIDDEN}", _SIGNED.sub(rf"\1={HIDDEN}", text))
