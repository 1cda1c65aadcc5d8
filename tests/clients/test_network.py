"""TLS, client certificates and bounds."""

import socket
import ssl
import subprocess

import botocore.exceptions
import pytest
import requests

from conftest import CONNECTIONS, PROJECT


def post(kmsd, path, body, **options):
    return requests.post(kmsd.endpoint + path, json=body, verify=kmsd.ca, timeout=30, **options)


def list_keys(kmsd, **options):
    return post(kmsd, f"/v1.0/{PROJECT}/kms/list-keys", {}, **options)


@pytest.fixture(scope="module")
def client_pem(kmsd):
    path = kmsd.dir / "client.pem"
    principal = kmsd.run("tls", "client", "host-1", "--out", path, "--home", kmsd.home).strip()
    assert principal.startswith("cert:") and len(principal) == 5 + 64
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def test_a_client_certificate_is_a_principal(kmsd, client_pem):
    reply = post(kmsd, f"/v1.0/{PROJECT}/kms/create-key", {"key_alias": "by-certificate"}, cert=str(client_pem))
    assert reply.status_code == 200, reply.text
    # Its own keys are all that it sees.
    listed = list_keys(kmsd, cert=str(client_pem)).json()["key_details"]
    assert [key["key_alias"] for key in listed if key["default_key_flag"] == "0"] == ["by-certificate"]


def test_without_signature_or_certificate_nothing_is_told(kmsd):
    reply = list_keys(kmsd)
    assert reply.status_code == 401
    for path in ("/", "/kmsd/v1/health", "/metrics", "/none"):
        for reply in (post(kmsd, path, {}), requests.get(kmsd.endpoint + path, verify=kmsd.ca, timeout=30)):
            assert reply.status_code in (400, 401), (path, reply.text)
            assert "error" in reply.text or "__type" in reply.text


def test_a_bad_signature_is_not_passed_over_for_a_certificate(kmsd, client_pem):
    headers = {"Authorization": "SDK-HMAC-SHA256 Access=A, SignedHeaders=host;x-sdk-date, Signature=" + "0" * 64,
               "X-Sdk-Date": "20200101T000000Z"}
    assert list_keys(kmsd, cert=str(client_pem)).status_code == 200
    assert list_keys(kmsd, cert=str(client_pem), headers=headers).status_code == 401


def test_who_is_not_let_in_leaves_a_line(kmsd):
    assert list_keys(kmsd).status_code == 401
    status, log = kmsd.local("GET", "/kmsd/v1/audit")
    lines = [record for record in log["records"] if record["operation"] == "not-admitted"]
    assert status == 200 and lines, log
    assert lines[0]["outcome"] == "APIGW.0301" and "127.0.0.1" in lines[0]["note"]
    # The tests before this one sent more requests of that kind than there were minutes.
    assert len(lines) < 4, lines


def test_a_certificate_of_another_authority_is_refused(kmsd, tmp_path):
    pem = tmp_path / "other.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-subj", "/CN=host-1", "-keyout", pem, "-out", tmp_path / "cert.pem"],
                   check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with pytest.raises((requests.exceptions.SSLError, requests.exceptions.ConnectionError)):
        list_keys(kmsd, cert=str(pem))


def test_clients_that_do_not_know_the_authority_do_not_connect(kmsd):
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(kmsd.endpoint, timeout=30)


def test_plain_http_gets_no_http_answer(kmsd):
    with socket.create_connection(("127.0.0.1", kmsd.port), timeout=30) as plain:
        plain.sendall(b"GET /kmsd/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            answer = plain.recv(4096)
        except ConnectionResetError:
            answer = b""
    assert b"HTTP" not in answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_current_versions_of_tls_are_spoken(kmsd, version):
    context = ssl.create_default_context(cafile=kmsd.ca)
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", kmsd.port), timeout=30) as tcp:
        with context.wrap_socket(tcp, server_hostname="localhost") as tls:
            assert tls.version() == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_not(kmsd):
    context = ssl.create_default_context(cafile=kmsd.ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", kmsd.port), timeout=30) as tcp:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(tcp, server_hostname="localhost")


def test_a_body_beyond_the_bound_is_refused(kmsd, client_pem):
    reply = post(kmsd, f"/v1.0/{PROJECT}/kms/list-keys", {"marker": "x" * 70000}, cert=str(client_pem))
    assert reply.status_code == 400 and reply.json()["error"]["error_code"] == "KMS.0203"
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        kmsd.boto().create_key(Description="x" * 70000)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def test_many_silent_connections_keep_nobody_out(kmsd):
    silent = []
    try:
        for _ in range(3 * CONNECTIONS):
            silent.append(socket.create_connection(("127.0.0.1", kmsd.port), timeout=30))
        assert kmsd.boto().list_keys()["ResponseMetadata"]["HTTPStatusCode"] == 200
    finally:
        for connection in silent:
            connection.close()


def test_renewing_keeps_clients_going(kmsd):
    kmsd.run("tls", "renew", "--home", kmsd.home)
    kmsd.stop()
    kmsd.start()
    assert kmsd.boto().list_keys()["ResponseMetadata"]["HTTPStatusCode"] == 200
