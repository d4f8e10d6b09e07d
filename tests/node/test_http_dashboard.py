"""The dashboard in a real browser: what other machines call themselves is text there, never markup."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode, Serve

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MARKUP = "<img src=x onerror=alert(1)>"


async def page_of(url: str, profile: Path) -> str:
    """The document as it stands two seconds (of the browser's own, virtual time) after it was opened."""
    assert BROWSER is not None
    browser = await asyncio.create_subprocess_exec(
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--dump-dom", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        output, _ = await browser.communicate()
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    return output.decode()


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
async def test_markup_in_a_nodes_name_is_shown_as_text(node: FakeNode, serve: Serve, tmp_path: Path) -> None:
    member: dict[str, Any] = {**node.cluster()["node"], "id": "f" * 32, "name": MARKUP, "http": f"{MARKUP}\r\n"}
    node.other_members = [member, {**member, "id": MARKUP, "name": "plain", "state": f"alive {MARKUP}"}]
    client = await serve(node)
    await client.post("/v1/features", data=b"\xff\xd8\xff a photograph")
    page = await page_of(str(client.make_url("/")), tmp_path)
    assert "<strong>camera-1</strong>" in page
    assert "<strong>&lt;img src=x onerror=alert(1)&gt;</strong>" in page
    assert "<img" not in page
    assert "● live" in page
    assert "Members: 2 of 3 alive" in page
