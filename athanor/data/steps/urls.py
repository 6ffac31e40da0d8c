"""One form of a URL for all that lead to the same page."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

#: Query parameters that say where a visitor came from, not what the page shows.
_TRACKING = re.compile(
    r"utm_.*|mc_[ce]id|_hs(enc|mi)|hsCtaTracking|ga_.*|pk_.*|mtm_.*|[gdfmt]clid|dclid|msclkid|yclid|igshid|fbclid|twclid|"
    r"wbraid|gbraid|_openstat|spm|scm|ref|ref_src|ref_url|referrer|source|share_(token|source|medium|from)|from_source|"
    r"vd_source|phpsessid|jsessionid|sid|sessionid|aspsessionid.*|cmpid|trk|trkcampaign|ncid|_ga",
    re.IGNORECASE,
)
_DEFAULT_PAGE = re.compile(r"/(index|default)\.(html?|php|aspx?|jsp)$", re.IGNORECASE)


def canonical_url(url: str) -> str | None:
    """The URL without scheme, ``www.``/``m.``, default port, fragment, tracking parameters, session ids, default page
    and trailing slash; host in lower case, parameters sorted, percent signs resolved. None where there is no host.

    A fragment that routes a page (``#!/path``, ``#/path``) stays.
    """
    text = url.strip()
    try:
        parts = urlsplit(text if "://" in text else f"//{text.lstrip('/')}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    if not host or " " in host:
        return None
    host = re.sub(r"^(www\d?|m)\.(?=[^.]+\.)", "", host)
    suffix = f":{port}" if port not in (None, 80, 443) else ""
    path = unquote(re.sub(r";jsessionid=[^/?#]*", "", parts.path, flags=re.IGNORECASE))
    path = _DEFAULT_PAGE.sub("/", re.sub(r"/{2,}", "/", path)).rstrip("/")
    kept = sorted((k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not _TRACKING.fullmatch(k))
    query = f"?{urlencode(kept)}" if kept else ""
    fragment = f"#{parts.fragment.rstrip('/')}" if parts.fragment.startswith(("!/", "/")) else ""
    return f"{host}{suffix}{path}{query}{fragment}"
