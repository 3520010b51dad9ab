"""The console in a real browser: what it shows, what it asks for, and what it makes of hostile records."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest
from chromium import Page
from conftest import Node

PHONE = (390, 844)
DESKTOP = (1280, 900)
# Markup, a script, an attribute's end, a right-to-left override: text everywhere.
HOSTILE = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>\"'&amp;\u202e"


def view(page: Page, node: Node, path: str, **parameters: str) -> None:
    query = urllib.parse.urlencode(parameters)
    page.go(f"{node.url}#/{path}" + (f"?{query}" if query else ""))


def fill(node: Node) -> None:
    node.run("topic", "create", "orders", "--partitions", "4", "--config", "segment.bytes=67108864")
    node.run("topic", "create", "clicks", "--partitions", "1", "--config", "corelog.durability=write")
    orders = "".join(
        f'c{number % 50}|{{"id": 1234567890123456789{number % 10}, "customer": "Grüße {number}", "lines": [{{"sku": "A-{number}", "price": 12.50}}], "paid": true, "note": null}}\n'
        for number in range(2000)
    )
    node.run("produce", "orders", "--key-separator", "|", "--compression", "zstd", given=orders.encode())
    node.run("produce", "clicks", given=b"plain text\n" * 500)
    node.run("consume", "orders", "--group", "billing", "--count", "500")
    node.run("consume", "clicks", "--group", "audit", "--count", "500")


def test_it_shows_the_node_and_asks_nobody_else(node: Node, page: Page) -> None:
    fill(node)
    for path, expected in [
        ("overview", "Where time goes"),
        ("topics", "orders"),
        ("topic?name=orders", "segment.bytes"),
        ("groups", "billing"),
        ("group?name=billing", "orders"),
        ("records?topic=orders&from=beginning", "Grüße"),
    ]:
        page.go(f"{node.url}#/{path}")
        page.until(f"document.body.innerText.includes({json.dumps(expected)})")
    page.until("document.querySelector('#health').textContent === 'healthy'")
    page.look()
    assert page.complaints == []
    origin = f"http://{node.http}/"
    assert page.requests and all(url.startswith(origin) for url in page.requests), page.requests


def test_numbers_are_live(node: Node, page: Page) -> None:
    node.run("topic", "create", "orders", "--partitions", "2")
    view(page, node, "topics")
    cell = "[...document.querySelectorAll('tbody tr')].find((row) => row.innerText.startsWith('orders'))?.cells"
    page.until(f"{cell}?.[4].innerText === '0'")
    node.run("produce", "orders", given=b"x\n" * 1234)
    page.until(f"{cell}?.[4].innerText === '1,234'")
    view(page, node, "overview")
    shown = "[...document.querySelectorAll('.tile')].find((it) => it.innerText.startsWith('Records written')).innerText"
    page.until(f"{shown}.includes('1,234 records since')")
    # What is a rate needs something that goes on.
    load = subprocess.Popen(
        [node.binary, "produce", "orders", "--bootstrap", node.bootstrap], stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while not page.do(f"/\\n[1-9][0-9,.]*\\/s/.test({shown})"):
        assert time.monotonic() < deadline, page.text()
        load.stdin.write(b"x\n" * 200)
        load.stdin.flush()
        time.sleep(0.1)
    load.stdin.close()
    assert load.wait(30) == 0
    stage = "[...document.querySelectorAll('tr')].find((row) => row.innerText.startsWith('journal sync'))"
    page.until(f"{stage}.querySelectorAll('rect').length > 0")
    assert page.do("document.querySelectorAll('.flow').length") == 2
    # Paused, nothing is asked.
    page.do("document.querySelector('#pause').click()")
    time.sleep(0.5)
    page.look()
    before = len(page.requests)
    time.sleep(2.5)
    page.look()
    assert len(page.requests) == before


def test_groups_show_their_lag_and_members(node: Node, page: Page) -> None:
    node.run("topic", "create", "orders", "--partitions", "1")
    node.run("produce", "orders", given=b"x\n" * 100)
    node.run("consume", "orders", "--group", "billing", "--count", "40")
    view(page, node, "groups")
    page.until("document.querySelector('tbody tr')?.innerText.includes('60')")
    member = subprocess.Popen(
        [node.binary, "consume", "orders", "--group", "billing", "--bootstrap", node.bootstrap],
        stdout=subprocess.DEVNULL,
    )
    view(page, node, "group", name="billing")
    page.until("document.body.innerText.includes('Stable')")
    page.until("[...document.querySelectorAll('tbody tr')].some((row) => /orders\\s+0\\s+100\\s+100\\s+0/.test(row.innerText))")
    member.terminate()
    assert member.wait(30) == 0
    page.until("document.body.innerText.includes('Nobody is in the group.')")


def test_records_are_browsed(node: Node, page: Page) -> None:
    fill(node)
    view(page, node, "records", topic="clicks", partition="0", limit="20")
    count = "document.querySelectorAll('.record').length"
    page.until(f"{count} === 20")
    offsets = "[...document.querySelectorAll('.record .offset')].map((it) => Number(it.innerText.replaceAll(',', '')))"
    newest = page.do(offsets)
    page.do("[...document.querySelectorAll('button')].find((it) => it.innerText === 'Older').click()")
    page.until(f"{offsets}.at(-1) === {newest[0] - 1}")
    page.do("[...document.querySelectorAll('button')].find((it) => it.innerText === 'Oldest').click()")
    page.until(f"{offsets}[0] === 0")
    view(page, node, "records", topic="orders", partition="0", limit="20")
    # Until then they are the other topic's.
    page.until("document.querySelector('.record summary')?.innerText.includes('1234567890123456789')")
    page.until(f"{count} === 20")
    page.do("document.querySelector('.record summary').click()")
    # Numbers that JavaScript cannot hold are as they were produced.
    page.until("/\"id\": 1234567890123456789[0-9],\\n/.test(document.querySelector('.record .opened')?.innerText)")
    body = page.do("document.querySelector('.record .opened').innerText")
    assert '"price": 12.50' in body and '"lines": [\n' in body, body
    view(page, node, "records", topic="orders", **{"from": "@0", "limit": "20"})
    page.until(f"{offsets}[0] === 0")


def test_what_is_in_records_and_names_is_only_text(node: Node, page: Page) -> None:
    node.run("topic", "create", "t", "--partitions", "1")
    node.run("produce", "t", "--key-separator", "\t", given=f"{HOSTILE}\t{HOSTILE}\n".encode())
    node.run("produce", "t", given=json.dumps({HOSTILE: HOSTILE}).encode() + b"\n")
    node.run("produce", "t", given=bytes(range(1, 10)) + b"\xff\xfe\n")
    node.run("consume", "t", "--group", HOSTILE, "--count", "1")
    view(page, node, "records", topic="t", **{"from": "beginning"})
    page.until("document.querySelectorAll('.record').length === 3")
    page.do("document.querySelectorAll('.record summary').forEach((it) => it.click())")
    page.until("document.querySelectorAll('.opened').length === 3")
    texts = page.do("[...document.querySelectorAll('.opened')].map((it) => it.textContent)")
    assert HOSTILE in texts[0]
    assert json.dumps(HOSTILE) in texts[1]
    assert "01 02 03 04 05 06 07 08 09 ff fe" in texts[2], texts[2]
    for path, parameters in [
        ("groups", {}),
        ("group", {"name": HOSTILE}),
        ("topic", {"name": HOSTILE}),
        ("records", {"topic": HOSTILE, "from": HOSTILE}),
    ]:
        view(page, node, path, **parameters)
        page.until("document.querySelector('#view').innerText.length > 0")
        page.until(f"document.body.textContent.includes('onerror') || {json.dumps(path)} === 'records'")
    assert page.do("window.hit") is None
    assert page.do("document.querySelectorAll('main img, main script').length") == 0
    # And if it were markup after all, the page's policy would not let it run.
    page.do("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit=1\">')")
    time.sleep(0.5)
    assert page.do("window.hit") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_view_fits_the_window(
    node: Node, page: Page, scheme: str, size: tuple[int, int], pictures: Path | None
) -> None:
    fill(node)
    page.resize(*size)
    page.set_scheme(scheme)
    views = {
        "overview": {}, "topics": {}, "topic": {"name": "orders"}, "groups": {}, "group": {"name": "billing"},
        "records": {"topic": "orders", "partition": "1", "from": "beginning"},
    }
    for path, parameters in views.items():
        view(page, node, path, **parameters)
        page.until("document.querySelector('#view').innerText.length > 60")
        page.until("document.querySelector('#health').textContent !== ''")
        if path == "records":
            page.until("document.querySelectorAll('.record').length > 1")
            page.do("document.querySelectorAll('.record summary')[1].click()")
        wide = page.do("document.documentElement.scrollWidth")
        assert wide <= size[0], f"{path} is {wide} wide"
        if pictures:
            page.picture(pictures / f"{path}-{size[0]}-{scheme}.png")
    ground = page.do("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light"), ground
    page.do("document.querySelector('#theme').click()")
    page.do("document.querySelector('#theme').click()")
    assert page.do("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert page.do("document.querySelector('#theme').innerText") == "Dark"
    page.do("document.querySelector('#theme').click()")


def test_it_says_when_the_node_is_gone_and_finds_it_again(binary: str, folder: Path, page: Page) -> None:
    node = Node(binary, folder)
    node.run("topic", "create", "orders", "--partitions", "1")
    view(page, node, "overview")
    page.until("document.querySelector('#health').textContent === 'healthy'")
    node.stop()
    page.until("document.querySelector('#notice').innerText.includes('cannot be reached')")
    node = Node(binary, folder, node.bootstrap, node.http)
    page.until("document.querySelector('#notice').hidden && document.querySelector('#health').textContent === 'healthy'")
    node.stop()


def test_what_is_missing_is_said(node: Node, page: Page) -> None:
    view(page, node, "topic", name="no")
    page.until("document.querySelector('#notice').innerText.includes(\"there is no topic 'no'\")")
    view(page, node, "records", topic="no")
    page.until("document.querySelector('#notice').innerText.includes(\"there is no topic 'no'\")")
    view(page, node, "groups")
    page.until("document.querySelector('#notice').hidden")
    assert "There are no such groups." in page.text()
