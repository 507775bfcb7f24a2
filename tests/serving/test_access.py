"""Who is let in: a real Triton behind TLS that asks for certificates and tokens, and clients that bring them or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from served.certificates import Authority, Pair
from stand_in import TEXT, Fault, Hear, StandIn, check
from waiting import HANG_S, eventually, held_back

from csm_model.errors import InputError
from csm_serving.client import NEVER, AccessError, AsyncSpeechClient, QuotaError, SpeechClient, SpeechRequest, calls
from csm_serving.client.access import Access
from csm_serving.client.load_report import scrape
from csm_serving.launcher.tls import RenewalWatch, encrypting
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server.callers import Caller, digest_of_token, write_tokens
from csm_serving.settings import load_settings
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import TextPart

LONG = "This is a long story that nobody has the patience to hear out to its very end. " * 10
SHOP, CLINIC = "csm_of-the-shop", "csm_of-the-clinic"
CSM = str(Path(sys.executable).with_name("csm"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="module")
def guest(authority: Authority) -> Pair:
    return authority.sign("guest")


def callers_of(path: Path, **shop: Any) -> None:
    write_tokens(
        path,
        [
            Caller(name="shop", sha256=digest_of_token(SHOP), **{"voices": ("heart",), "streams": 1} | shop),
            Caller(name="clinic", sha256=digest_of_token(CLINIC)),
        ],
    )


@pytest.fixture(scope="module")
def guarded(bundle: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A server with its own certificate, which asks for one and for a token."""
    folder = tmp_path_factory.mktemp("guarded")
    callers_of(folder / "tokens.json")
    server = authority.sign("server")
    settings = load_settings(
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        frame_budget=0,
        ready_timeout_s=HANG_S,
        text_timeout_s=HANG_S,
        token_file=folder / "tokens.json",
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=authority.ca,
        audit=str(folder / "audit.jsonl"),
    )
    with LocalTriton(bundle, settings=settings, folder=folder) as running:
        yield running


@pytest.fixture
def brought(authority: Authority, guest: Pair) -> dict[str, Any]:
    """All that a welcome client brings along."""
    return {"ca": authority.ca, "client_cert": (guest.certificate, guest.key), "token": CLINIC, "retry": NEVER}


def test_both_clients_speak_over_tls_with_certificate_and_token(
    guarded: LocalTriton, brought: dict[str, Any], hear: Hear
) -> None:
    heard = hear(guarded.url, "Good morning.", asked={"max_frames": 3}, **brought)
    assert [chunk.frame_index for chunk in heard.chunks] == [0, 1, 2]


@pytest.mark.parametrize(
    ("without", "kind", "message"),
    [
        (("token",), AccessError, "asks who calls"),
        (("client_cert",), UnavailableError, "asks for a client certificate"),
        (("ca", "client_cert"), UnavailableError, "speaks TLS alone"),
    ],
)
def test_who_brings_too_little_is_told_what_is_missing(
    guarded: LocalTriton,
    brought: dict[str, Any],
    hear: Hear,
    without: tuple[str, ...],
    kind: type[Exception],
    message: str,
) -> None:
    left = {name: value for name, value in brought.items() if name not in without}
    with pytest.raises(kind, match=message) as caught:
        hear(guarded.url, "Good morning.", **left)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", ["csm_of-nobody", SHOP[:-1], SHOP + "x", digest_of_token(SHOP), "Bearer", "0"])
def test_no_other_token_is_let_in(guarded: LocalTriton, brought: dict[str, Any], token: str) -> None:
    before = scrape(guarded.metrics_url)['csm_refusals_total{reason="denied"}']
    with (
        SpeechClient(guarded.url, **brought | {"token": token}) as client,
        pytest.raises(AccessError, match="not known to this server"),
    ):
        client.say("Good morning.")
    assert scrape(guarded.metrics_url)['csm_refusals_total{reason="denied"}'] == before + 1


def test_a_caller_has_its_own_voices(guarded: LocalTriton, brought: dict[str, Any]) -> None:
    with SpeechClient(guarded.url, **brought | {"token": SHOP}) as client:
        assert client.say("Good morning.", 0, max_frames=2).frames == 2
        assert client.say("Good morning.", voice="heart", max_frames=2).frames == 2
        for asked in ({"speaker": 1}, {"voice": "kumo"}):
            with pytest.raises(AccessError, match="shop may not speak as 'kumo'; its voices are: heart"):
                client.say("Good morning.", **asked)  # type: ignore[arg-type]


def test_a_caller_has_so_many_streams_at_once_and_they_come_back(
    guarded: LocalTriton, brought: dict[str, Any], gate: threading.Event
) -> None:
    with (
        SpeechClient(guarded.url, **brought | {"token": SHOP}) as client,
        SpeechClient(guarded.url, **brought) as other,
    ):
        for _ in range(3):
            live = client.stream(held_back("Good morning.", gate, LONG))
            next(live)
            with pytest.raises(QuotaError, match="1 streams, as many as it may have") as caught:
                client.say("Good morning.")
            assert caught.value.retry_after_s == 1.0
            assert other.say("Good morning.", max_frames=2).frames == 2
            live.close()
            eventually(lambda: scrape(guarded.metrics_url)["csm_live_streams"] == 0)
    gate.set()


def test_nobody_adds_text_to_the_stream_of_another(
    guarded: LocalTriton, brought: dict[str, Any], gate: threading.Event
) -> None:
    with SpeechClient(guarded.url, **brought) as client:
        request = SpeechRequest(text="Good morning. A", stream_id="stream-of-the-clinic", text_more=True)
        stream = client.open(request, held_back(" and so", gate, "on."))
        next(stream)
        access = Access(ca=brought["ca"], client_cert=brought["client_cert"], token=SHOP)
        credentials = access.credentials()
        assert credentials is not None
        names = [row["stream"] for row in lines_of(guarded)]
        part = calls.message_of(TextPart(stream_id="stream-of-the-clinic", text="evil", more=False), "0")
        with grpc.secure_channel(guarded.url, credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
            (answer,) = calls.infer_stream(channel)(iter([part]), metadata=access.metadata)
        assert isinstance(calls.error_in(answer, guarded.url), InputError)
        assert "is not live here" in answer.error_message
        assert names == [row["stream"] for row in lines_of(guarded)], "the stream goes on"
        stream.close()
    gate.set()


def lines_of(triton: LocalTriton) -> list[dict[str, Any]]:
    path = triton.folder / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_audit_names_the_caller(guarded: LocalTriton, brought: dict[str, Any]) -> None:
    with (
        SpeechClient(guarded.url, **brought | {"token": SHOP}) as shop,
        SpeechClient(guarded.url, **brought) as clinic,
    ):
        shop.say("Good morning.", max_frames=2)
        clinic.say("Good morning.", max_frames=3)
    assert [(row["caller"], row["frames"]) for row in lines_of(guarded)[-2:]] == [("shop", 2), ("clinic", 3)]
    said = (guarded.folder / "audit.jsonl").read_text() + (guarded.folder / "triton.log").read_text()
    assert not any(secret in said for secret in (SHOP, CLINIC, digest_of_token(SHOP)))


def test_a_changed_token_file_counts_from_the_next_request_on(guarded: LocalTriton, brought: dict[str, Any]) -> None:
    path = guarded.folder / "tokens.json"
    with SpeechClient(guarded.url, **brought | {"token": SHOP}) as client:
        try:
            callers_of(path, voices=("kumo",))
            assert client.say("Good morning.", 1, max_frames=2).frames == 2
            with pytest.raises(AccessError, match="its voices are: kumo"):
                client.say("Good morning.", 0)
            path.write_text("{")  # by hand, and half done
            assert client.say("Good morning.", 1, max_frames=2).frames == 2
            write_tokens(path, [])
            with pytest.raises(AccessError, match="not known"):
                client.say("Good morning.", 1)
            callers_of(path, characters_a_minute=20)
            assert client.say("Good morning.", max_frames=2).frames == 2
            with pytest.raises(QuotaError, match="20 characters a minute") as caught:
                client.say("Good morning.")
            assert caught.value.retry_after_s is not None
            assert 0 < caught.value.retry_after_s <= 60
            with pytest.raises(AccessError, match="a text of 26 characters: shop may say 20 a minute"):
                client.say("Good morning to all of you")
        finally:
            callers_of(path)
    assert "stay in force" in (guarded.folder / "triton.log").read_text()


def test_the_command_line_brings_the_same(
    guarded: LocalTriton, authority: Authority, guest: Pair, tmp_path: Path
) -> None:
    files = ["--ca", str(authority.ca), "--client-cert", str(guest.certificate), "--client-key", str(guest.key)]
    with_token = os.environ | {"CSM_SERVING_TOKEN": CLINIC, "COLUMNS": "200"}

    def run(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([CSM, *command], capture_output=True, text=True, check=False, env=env, cwd=tmp_path)

    said = run("say", "Good morning.", "--url", guarded.url, "--out", "a.wav", *files, env=with_token)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "a.wav").stat().st_size > 1000
    load = ["bench-serve", "--url", guarded.url, "--count", "2", "--streams", "1", "--max-frames", "3"]
    measured = run(*load, "--max-errors", "0", "--max-refused", "0", *files, "--token", CLINIC, env=dict(os.environ))
    assert measured.returncode == 0, measured.stdout + measured.stderr
    refused = run("say", "Good morning.", "--url", guarded.url, *files, "--retries", "0", env=dict(os.environ))
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("give a token, token= or CSM_SERVING_TOKEN")
    alone = run("say", "Good morning.", "--client-cert", str(guest.certificate), env=dict(os.environ))
    assert (alone.returncode, "go together" in alone.stderr) == (2, True)


@pytest.fixture
def sealed(authority: Authority) -> Iterator[StandIn]:
    """A listener with a certificate, which asks for none."""
    pair = authority.sign("stand-in", hosts=("127.0.0.1",))
    stand_in = StandIn(certificate=(pair.certificate.read_bytes(), pair.key.read_bytes())).start()
    yield stand_in
    stand_in.stop()


def test_a_server_is_believed_by_its_authority_and_name(
    sealed: StandIn, server: StandIn, authority: Authority, tmp_path: Path, hear: Hear
) -> None:
    check(hear(sealed.url, TEXT, ca=authority.ca), TEXT)
    stranger = Authority(tmp_path / "stranger")
    for url, asked, message in (
        (sealed.url, {"ca": stranger.ca}, "shows a certificate that is not believed"),
        (sealed.url, {"tls": True}, "shows a certificate that is not believed"),
        (sealed.url.replace("127.0.0.1", "localhost"), {"ca": authority.ca}, "certificate of another name"),
        (sealed.url, {}, "speaks TLS alone"),
        (server.url, {"ca": authority.ca}, "speaks without TLS"),
    ):
        with pytest.raises(UnavailableError, match=message) as caught:
            hear(url, TEXT, retry=NEVER, **asked)
        assert "\n" not in str(caught.value)


def test_a_stream_goes_on_over_tls_where_a_connection_breaks(sealed: StandIn, authority: Authority, hear: Hear) -> None:
    sealed.faults = [Fault(break_before=4)]
    check(hear(sealed.url, TEXT, ca=authority.ca, token="mine"), TEXT, retries=1)
    assert sealed.authorizations == ["Bearer mine", "Bearer mine"]


def test_a_client_reads_its_files_anew_for_every_connection(
    sealed: StandIn, authority: Authority, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(Authority(tmp_path / "stranger").ca.read_bytes())
    with SpeechClient(sealed.url, ca=ca, retry=NEVER) as client:
        with pytest.raises(UnavailableError, match="not believed"):
            client.say(TEXT)
        ca.write_bytes(authority.ca.read_bytes())
        assert client.say(TEXT).frames == len(TEXT.split())


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "é", "x" * 513])
def test_what_cannot_be_a_token_is_refused_before_it_is_sent(token: str) -> None:
    with pytest.raises(InputError, match="the token is none") as caught:
        SpeechClient(token=token)
    assert token == "" or token not in str(caught.value)
    assert "secret" not in repr(Access(token="secret"))


def test_files_that_will_not_do_are_one_line(authority: Authority, guest: Pair, tmp_path: Path) -> None:
    other = authority.sign("other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    folder, missing = tmp_path, tmp_path / "missing"
    for given, message in (
        ({"tls_cert": guest.certificate}, "go together"),
        ({"tls_key": guest.key}, "go together"),
        ({"tls_client_ca": authority.ca}, "go together"),
        ({"tls_cert": guest.certificate, "tls_key": other.key}, "the key is not that of the certificate"),
        ({"tls_cert": guest.key, "tls_key": guest.certificate}, "are no PEM certificate and key"),
        ({"tls_cert": nonsense, "tls_key": guest.key}, "are no PEM certificate and key"),
        ({"tls_cert": guest.certificate, "tls_key": missing}, "cannot be read"),
        ({"tls_cert": folder, "tls_key": guest.key}, "cannot be read"),
        ({"tls_cert": guest.certificate, "tls_key": guest.key, "tls_client_ca": nonsense}, "no PEM certificate"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            encrypting(load_settings(**given))
        assert "\n" not in str(caught.value)
    for ca in (nonsense, missing, folder):
        with pytest.raises(InputError, match=str(ca)):
            SpeechClient(ca=ca)
    assert encrypting(load_settings()) == []


def test_a_renewed_certificate_is_told_once(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Authority(tmp_path / "renewing")
    pair = ours.sign("server")
    watch = RenewalWatch(load_settings(tls_cert=pair.certificate, tls_key=pair.key))
    watch.look()
    pair.certificate.write_bytes(pair.certificate.read_bytes())  # touched, and the same
    watch.look()
    assert not caplog.messages
    ours.sign("server")
    for _ in range(3):
        watch.look()
    assert [message.partition(";")[0] for message in caplog.messages] == [
        f"{path} was renewed" for path in (pair.certificate, pair.key)
    ]
    assert all("start the server again" in message for message in caplog.messages)
    pair.certificate.unlink()
    watch.look()
    assert len(caplog.messages) == 2


def test_tls_only_where_it_was_asked_for(bundle: Path) -> None:
    given = {"tls_cert": Path("a"), "tls_key": Path("b"), "tls_client_ca": Path("c"), "token_file": Path("d")}
    assert load_settings(**given).unguarded() == load_settings(frame_budget=0.0)
    assert not given.keys() - {"token_file"} & load_settings(**given).of_model().keys()


@pytest.mark.parametrize(
    ("url", "right"),
    [
        *[(url, True) for url in ("127.0.0.1:8001", "[::1]:8001", "[fe80::1%eth0]:8001", "gpu-1:8001")],
        *[(url, True) for url in ("speech.example.org:443", "dns:///speech:8001", "unix:/run/csm.sock", "münchen:1")],
        *[(url, False) for url in ("127.0.0.1", "http://127.0.0.1:8001", "https://a:1", "grpc://a:1", "a:", ":8001")],
        *[(url, False) for url in ("::1:8001", "[::1]", "a b:1", "a:1/path", "user@a:1", "a:123456", "", "a:1,b:1")],
    ],
)
def test_an_address_that_cannot_be_right_is_refused_before_anything_is_asked(url: str, right: bool) -> None:
    for client in (SpeechClient, AsyncSpeechClient):
        if right:
            assert client(["localhost:1", url]).urls == ("localhost:1", url)
        else:
            with pytest.raises(InputError, match=r"must be host:port, such as 127\.0\.0\.1:8001"):
                client(["localhost:1", url])
