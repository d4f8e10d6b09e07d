"""A client's way to the cluster: it finds a node, learns of the others from it, and asks the next when one dies."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from ..protocol.errors import CorruptPayload, EdgeCacheError, InvalidValue
from .client_urls import checked, urls_of
from .http_problems import PROBLEM_TYPE

DEFAULT_URL = "http://127.0.0.1:7440"

CONNECT_TIMEOUT_S = 1.0
# Who has not answered by then is asked whether it is alive, and again after as long: it may wait for a slow cloud, or
# for its encoder, or the link be slow. Who does not say so within CONNECT_TIMEOUT_S hangs.
LOOK_AFTER_S = 2.0
_LOOK_MIN_S = 0.02
# A node that hung is left alone for this long: nobody waits twice for it.
DOWN_S = 10.0
MDNS_TIMEOUT_S = 3.0
# After a search in vain, the next call does not search again, nor wait, for this long.
SEARCH_AGAIN_S = 30.0
LEARN_AGAIN_S = 30.0
NODES_MAX = 64
# Of each kind, so that a question never waits for encodes. What is beyond waits here: a node would have to refuse it.
QUESTIONS_MAX = 32
ENCODES_MAX = 32

CLUSTER_BYTES_MAX = 4 * 1024 * 1024
_HEALTH_BYTES_MAX = 4096
# aiohttp sends larger ones in pieces only when they come as a file.
_SEND_WHOLE_MAX = 512 * 1024
# A wait for other calls that is part of why there was no answer in time.
WORTH_TELLING_S = 0.1
# To aiohttp a time-out of 0 is none.
_SOON_S = 1e-6

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750, 2.1

_T = TypeVar("_T")


class NoNodeAnswers(EdgeCacheError):
    """No node could be reached, or none answered in time."""


class Refused(EdgeCacheError):
    """A node answered that it will not, or cannot: its problem's `status` and `detail`."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{detail} ({status})")
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said: status, headers and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; CorruptPayload when it is none, as from something that is no node."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise CorruptPayload("the answer is not JSON") from None

    def refusal(self) -> Refused:
        """This answer as the error that it tells; CorruptPayload when a node does not say no like this."""
        if self.headers.get("Content-Type", "").partition(";")[0].strip() != PROBLEM_TYPE:
            without = " without problem details" if self.status >= 300 else ""
            raise CorruptPayload(f"what answers there is no node (status {self.status}{without})")
        try:
            detail = str(self.json()["detail"])
        except (CorruptPayload, KeyError, TypeError):
            # As the answer to HEAD, which has no body.
            detail = "no details"
            if self.status == 401:
                is_wrong = "invalid_token" in self.headers.get("WWW-Authenticate", "")
                detail = f"the token of its cluster key is {'another' if is_wrong else 'needed'}"
        return Refused(self.status, detail)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of one node after the other."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes | None
    bytes_max: int
    is_question: bool


class Nodes:
    """The nodes that a client knows. The one that answered last is asked first."""

    def __init__(self, url: str | None, timeout_s: float, tokens: Sequence[str] = ()) -> None:
        if url is None and tokens:
            url = DEFAULT_URL  # no search by mDNS: whoever answers that would be given the token
        self._given = None if url is None else checked(url)
        # More than one while the cluster's key is being changed; the one that was good last is shown first.
        self._authorizations = [_authorization(token) for token in tokens] or [{}]
        self._timeout_s = timeout_s
        self._known: list[str] = [] if self._given is None else [self._given]
        self._down_until: dict[str, float] = {}
        self._learn_at = 0.0
        self._search_at = 0.0
        self._is_lost = self._given is None
        self._search = asyncio.Lock()
        self._searched_at = 0.0
        self._questions = asyncio.Semaphore(QUESTIONS_MAX)
        self._encodes = asyncio.Semaphore(ENCODES_MAX)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """The urls of the nodes that would be asked, in this order."""
        return tuple(self._known)

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], _T],
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        bytes_max: int = CLUSTER_BYTES_MAX,
        is_question: bool = True,
    ) -> _T:
        """What `read` makes of the first good answer.

        The next node is asked when one is dead, hangs, is out of service, or answers what `read` finds CorruptPayload.
        A question is one that needs no encoding. NoNodeAnswers when none is left or the time is over; Refused with the
        last node's reason when they are all out of service.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        deadline = begun + self._timeout_s
        turns = self._questions if is_question else self._encodes
        request = _Request(method, path, query or {}, headers or {}, body, bytes_max, is_question)
        try:
            async with asyncio.timeout_at(deadline):
                await turns.acquire()
        except TimeoutError:
            raise NoNodeAnswers(f"no answer within {self._timeout_s:g} s, all behind others of this client") from None
        waited_s = loop.time() - begun
        try:
            return await self._ask_in_turn(request, read, deadline)
        except NoNodeAnswers as error:
            if waited_s < WORTH_TELLING_S:
                raise
            told = f"{error}; {waited_s:.1f} of its {self._timeout_s:g} s the call waited for others of this client"
            raise NoNodeAnswers(told) from None
        finally:
            turns.release()

    async def _ask_in_turn(self, request: _Request, read: Callable[[Answer], _T], deadline: float) -> _T:
        loop = asyncio.get_running_loop()
        refusal: Refused | None = None
        failures: list[str] = []
        if self._is_lost:
            await self._find(deadline)
        urls = self._candidates(loop.time())
        for url in urls:
            asked_at = loop.time()
            left_s = deadline - asked_at
            if not request.is_question and url != urls[-1]:  # an encoder may take long, but leaves time for another
                left_s = min(self._timeout_s / 2, left_s)
            if left_s <= 0:
                break
            target = URL(f"{url}{request.path}", encoded=True).update_query(request.query)
            try:
                sending = self._send(request.method, target, request.headers, request.body, left_s, request.bytes_max)
                answer = await self._watched(url, sending, left_s)
                if answer.status in (429, 503):  # another node may have an encoder, or room
                    refusal = answer.refusal()
                    continue
                made = read(answer)
            except TimeoutError:
                failures.append(f"{url} did not answer within {loop.time() - asked_at:.1f} s")
                continue
            except (aiohttp.ClientError, OSError, CorruptPayload) as error:
                failures.append(f"{url}: {in_words(error)}")
                continue
            await self._answered(url, deadline)
            return made
        if refusal is not None:
            raise refusal
        self._is_lost = self._given is None  # then the next call looks for others
        if urls and not failures:
            failures.append(f"no answer within {self._timeout_s:g} s")
        raise NoNodeAnswers("; ".join(failures) or "every known node hung a moment ago")

    async def _watched(self, url: str, sending: Coroutine[Any, Any, Answer], timeout_s: float) -> Answer:
        """What `sending` gets; TimeoutError as soon as the node at `url` turns out to hang, or after `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        asking = asyncio.ensure_future(sending)
        try:
            while (look_s := min(LOOK_AFTER_S, (deadline - loop.time()) / 2)) > _LOOK_MIN_S:
                done, _ = await asyncio.wait({asking}, timeout=look_s)
                if done:
                    break
                if not await self._is_node(url, deadline - loop.time()) and not asking.done():
                    raise TimeoutError
            return await asking
        finally:
            asking.cancel()

    async def ask_each(self, urls: Collection[str], path: str, read: Callable[[Answer], _T]) -> dict[str, _T]:
        """What `read` makes of the answer of each of `urls`, asked all at once; without those that have no good one."""

        async def ask(url: str) -> _T:
            target = URL(f"{url}{path}", encoded=True)
            async with self._questions:
                return read(await self._send("GET", target, {}, None, CONNECT_TIMEOUT_S, CLUSTER_BYTES_MAX))

        answers = await asyncio.gather(*map(ask, urls), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(
                answer, TimeoutError | aiohttp.ClientError | OSError | EdgeCacheError
            ):
                raise answer
        return {url: answer for url, answer in zip(urls, answers, strict=True) if not isinstance(answer, BaseException)}

    def _candidates(self, now: float) -> list[str]:
        return [url for url in self._known if self._down_until.get(url, now) <= now]

    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, timeout_s: float, bytes_max: int
    ) -> Answer:
        if self._session is None:
            # What nodes send is not compressed, and proxies know nothing of a LAN: both would only be in the way.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # it would take the wait for a connection for the node's,
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            )
            self._loop = asyncio.get_running_loop()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            raise RuntimeError(
                "a Client belongs to the event loop that it was first used in: make one in each, or use SyncClient"
            )
        session, deadline = self._session, loop.time() + timeout_s

        async def send(authorization: Mapping[str, str]) -> Answer:
            left_s = max(deadline - loop.time(), _SOON_S)
            everything = {**headers, **authorization}
            return await self._send_once(session, method, url, everything, body, left_s, bytes_max)

        for authorization in tuple(self._authorizations):
            try:
                answer = await send(authorization)
            except aiohttp.ServerDisconnectedError:
                # A connection kept from before the node's restart; aiohttp tries again by itself what is no POST. None
                # of ours does harm twice.
                if method != "POST":
                    raise
                answer = await send(authorization)
            if answer.status != 401:
                if authorization is not self._authorizations[0]:
                    self._authorizations.remove(authorization)
                    self._authorizations.insert(0, authorization)
                break
        return answer

    async def _send_once(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        bytes_max: int,
    ) -> Answer:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s))
        data = io.BytesIO(body) if body is not None and len(body) > _SEND_WHOLE_MAX else body
        async with session.request(
            method, url, headers=headers, data=data, timeout=timeout, allow_redirects=False
        ) as response:
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > bytes_max:
                    raise CorruptPayload(f"an answer of more than {bytes_max} bytes")
            return Answer(response.status, response.headers, bytes(received))

    async def _answered(self, url: str, deadline: float) -> None:
        """`url` lives: ask it first from now on, and now and then, whom else it knows."""
        self._is_lost = False
        if self._known[:1] != [url]:
            self._known = [url, *(other for other in self._known if other != url)]
        now = asyncio.get_running_loop().time()
        if now < self._learn_at or now >= deadline:
            return
        self._learn_at = now + LEARN_AGAIN_S
        patience_s = min(CONNECT_TIMEOUT_S, deadline - now)
        try:
            answer = await self._send("GET", URL(f"{url}/v1/cluster"), {}, None, patience_s, CLUSTER_BYTES_MAX)
            others = urls_of(answer.json(), url)
        except (aiohttp.ClientError, OSError, CorruptPayload):
            return
        given = [] if self._given is None else [self._given]
        self._known = list(dict.fromkeys([url, *others, *given]))[:NODES_MAX]

    async def _find(self, deadline: float) -> None:
        """Add the node on this machine to those that are known, or else the ones that mDNS brings."""
        asked_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(deadline), self._search:
                # Another call may have found one while this one waited for it, or not: then it need not search again.
                if self._is_lost and self._searched_at <= asked_at:
                    await self._search_nodes(deadline)
                    self._searched_at = asyncio.get_running_loop().time()
        except TimeoutError:
            raise NoNodeAnswers(f"no node found within {self._timeout_s:g} s") from None
        if not self._known:
            raise NoNodeAnswers(f"no node answers at {DEFAULT_URL}, and none was found by mDNS")

    async def _search_nodes(self, deadline: float) -> None:
        now = asyncio.get_running_loop().time()
        found: list[str] = []
        if self._down_until.get(DEFAULT_URL, now) <= now and await self._is_node(DEFAULT_URL, deadline - now):
            found = [DEFAULT_URL]
        elif now >= self._search_at:
            from .discovery import find_nodes  # zeroconf takes 60 ms to import, and most clients need none

            self._search_at = now + SEARCH_AGAIN_S
            left_s = max(deadline - asyncio.get_running_loop().time(), 0.0)
            with suppress(OSError):  # this machine may have no network at all
                found = [url for _, url in await find_nodes(min(MDNS_TIMEOUT_S, left_s))]
        self._known = list(dict.fromkeys([*found, *self._known]))[:NODES_MAX]

    async def _is_node(self, url: str, patience_s: float) -> bool:
        patience_s = min(CONNECT_TIMEOUT_S, patience_s)
        try:
            answer = await self._send("GET", URL(f"{url}/healthz"), {}, None, patience_s, _HEALTH_BYTES_MAX)
            return bool(answer.json()["status"] == "alive")
        except TimeoutError:
            # Who is in a hurry has looked for less long, and comes back the sooner.
            self._down_until[url] = asyncio.get_running_loop().time() + DOWN_S * patience_s / CONNECT_TIMEOUT_S
            return False
        except (aiohttp.ClientError, OSError, CorruptPayload, LookupError, TypeError):
            return False


def in_words(error: Exception) -> str:
    """`error` in words for a person: aiohttp's are for who wrote the program."""
    if isinstance(error, aiohttp.ClientResponseError):
        return "what answers there does not speak HTTP; is it a node's peer port?"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "what answers there does not speak TLS"
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error
        # Those of getaddrinfo are negative, and only their own text tells them.
        number = reason.errno or 0
        return os.strerror(number) if number > 0 else reason.strerror or str(reason)
    if isinstance(error, aiohttp.ClientOSError):
        return os.strerror(error.errno) if error.errno else "it closed the connection before it had the whole request"
    return str(error) or type(error).__name__


def _authorization(token: str) -> dict[str, str]:
    if not _TOKEN.fullmatch(token):
        raise InvalidValue("token: expected what edgecache key token FILE prints")  # and not shown: it may be one
    return {"Authorization": f"Bearer {token}"}
