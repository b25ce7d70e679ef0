"""Python's requests, with urllib3's own retries.

python client_requests.py URL PLAN [CERTIFICATE]    (see tests/clients/programs/README.md)
"""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

OFFER = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
}


def slowly(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 6):
        time.sleep(0.2)
        yield body[start : start + 6]


def answer(session: requests.Session, url: str, manner: str, path: str) -> tuple[int, bytes, bytes]:
    body = Path(path).read_bytes()
    headers = {"Content-Type": "application/json"}
    if manner == "gzip":
        headers["Content-Encoding"] = "gzip"
    if manner == "offer":
        headers |= OFFER
    first = b""
    if manner == "retry":
        headers["Idempotency-Key"] = path
        first = session.post(url, body, headers=headers).content
    sent = slowly(body) if manner == "slow" else body
    response = session.post(url, sent, headers=headers)
    return response.status_code, response.content, first


def main() -> None:
    url, plan, *certificate = sys.argv[1:]
    with requests.Session() as session:
        retries = Retry(3, allowed_methods=None, status_forcelist=[429, 503])  # waits for Retry-After by itself
        session.mount(url, HTTPAdapter(max_retries=retries))
        session.trust_env = False  # REQUESTS_CA_BUNDLE of whoever runs this would count more than what follows
        session.verify = certificate[0] if certificate else True
        for line in Path(plan).read_text().splitlines():
            name, manner, path, body = line.split("\t")
            if manner == "expect":
                sys.stdout.write(f"{name}\t-\t\t\n")
                continue
            try:
                status, *contents = answer(session, url + path, manner, body)
                encoded = [base64.b64encode(content).decode() for content in contents]
                sys.stdout.write("\t".join([name, str(status), *encoded]) + "\n")
            except requests.RequestException as error:
                sys.stdout.write(f"{name}\terror\t{base64.b64encode(str(error).encode()).decode()}\t\n")


if __name__ == "__main__":
    main()
