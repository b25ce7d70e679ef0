"""An address of a service is one, or is refused as a whole."""

from __future__ import annotations

import pytest

from recommendation_service.core.service_address import service_address
from recommendation_service.demo.loading import DemoError
from recommendation_service.demo.visits import Api

NO_ADDRESSES = ["http://h:abc", "http://h:70000", "http://h:0", "http://[::1", "ftp://h", "http://", "h", ""]


@pytest.mark.parametrize("written", NO_ADDRESSES)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whoever asks says what is wrong
        service_address(written)


def test_an_address_has_its_parts() -> None:
    found = service_address("https://feeds.example:8443/api/")
    assert (found.scheme, found.hostname, found.port, found.path) == ("https", "feeds.example", 8443, "/api/")
    assert service_address("http://[::1]:5005").hostname == "::1"


@pytest.mark.parametrize("written", ["http://h:abc", "localhost:abc", "http://[::1"])
def test_visitors_of_the_demo_are_told(written: str) -> None:
    with pytest.raises(DemoError, match="is no address of a service"):
        Api(written, "/api", None, anywhere=True)
