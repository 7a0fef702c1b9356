"""A Chromium of this machine, for tests of pages."""

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Its path. Without one a test is skipped, or fails where CI says that there must be one."""
    for name in _NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    missing = "no Chromium found: apt-get install chromium"
    if os.environ.get("DISTILL_MTL_REQUIRE_CHROMIUM") == "1":
        pytest.fail(missing)
    pytest.skip(missing)
