"""Requests that are not signed as they should be: refused in each protocol's own error shape, and nothing done."""

import datetime
import json

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
import requests
from botocore.exceptions import ClientError
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer
from huaweicloudsdkkms.v2 import ListKeysRequest, ListKeysRequestBody

from conftest import PROJECT, REGION

LIST_KEYS = f"/v1.0/{PROJECT}/kms/list-keys"


def aws_request(kmsd, access_key=None, at=None, monkeypatch=None, service="kms", headers=None):
    """ListKeys as botocore signs it, not yet sent."""
    key, secret = access_key or kmsd.admin
    request = botocore.awsrequest.AWSRequest(
        "POST", kmsd.endpoint + "/", data=b'{"Limit": 5}',
        headers={"X-Amz-Target": "TrentService.ListKeys", "Content-Type": "application/x-amz-json-1.1",
                 **(headers or {})})
    if at:
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: at)
    botocore.auth.SigV4Auth(botocore.credentials.Credentials(key, secret), service, REGION).add_auth(request)
    return request.prepare()


def send_aws(kmsd, request):
    return requests.request(request.method, request.url, data=request.body, headers=dict(request.headers),
                            verify=kmsd.ca, timeout=30)


def huawei_request(kmsd, access_key=None, at=None):
    """list-keys as the Huawei Cloud SDK signs it, not yet sent."""
    class Credentials:
        ak, sk = access_key or kmsd.admin

    headers = {"Content-Type": "application/json", "X-Project-Id": PROJECT}
    if at:
        headers["X-Sdk-Date"] = at.strftime("%Y%m%dT%H%M%SZ")
    request = SdkRequest(method="POST", schema="https", host=f"127.0.0.1:{kmsd.port}", resource_path=LIST_KEYS,
                         uri=None, query_params=[], header_params=headers, body='{"limit": "5"}', stream=False,
                         signing_algorithm=None)
    return Signer(Credentials).sign(request)


def send_huawei(kmsd, request, method="POST", path=LIST_KEYS):
    return requests.request(method, kmsd.endpoint + path, data=request.body, headers=request.header_params,
                            verify=kmsd.ca, timeout=30)


def assert_aws_refused(reply, kind):
    assert reply.status_code == 400
    assert reply.json()["__type"] == kind
    assert reply.json()["message"]
    assert reply.headers["x-amzn-requestid"]


def assert_huawei_refused(reply):
    assert reply.status_code == 401
    error = reply.json()["error"]
    assert error["error_code"] == "APIGW.0301"
    assert error["error_msg"].startswith("Incorrect IAM authentication information")


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


OFF = [datetime.timedelta(minutes=16), datetime.timedelta(days=365), datetime.timedelta(minutes=-16)]
WITHIN = [datetime.timedelta(minutes=14), datetime.timedelta(minutes=-14)]


class TestAws:
    def test_signed_well_it_is_answered(self, kmsd):
        reply = send_aws(kmsd, aws_request(kmsd))
        assert reply.status_code == 200 and "Keys" in reply.json()

    def test_wrong_secret(self, kmsd):
        with pytest.raises(ClientError) as refused:
            kmsd.boto((kmsd.admin[0], "x" * 40)).list_keys()
        assert refused.value.response["Error"]["Code"] == "InvalidSignatureException"
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400

    def test_unknown_access_key(self, kmsd):
        with pytest.raises(ClientError) as refused:
            kmsd.boto(("AKIDUNKNOWNUNKNOWN", "x" * 40)).list_keys()
        assert refused.value.response["Error"]["Code"] == "UnrecognizedClientException"

    def test_changed_body(self, kmsd):
        request = aws_request(kmsd)
        request.body = b'{"Limit": 6}'
        assert_aws_refused(send_aws(kmsd, request), "InvalidSignatureException")

    def test_changed_operation(self, kmsd):
        request = aws_request(kmsd)
        request.headers["X-Amz-Target"] = "TrentService.CreateKey"
        assert_aws_refused(send_aws(kmsd, request), "InvalidSignatureException")

    def test_unsigned_body(self, kmsd):
        request = aws_request(kmsd, headers={"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"})
        assert_aws_refused(send_aws(kmsd, request), "InvalidSignatureException")

    @pytest.mark.parametrize("off", OFF)
    def test_old_or_future_date(self, kmsd, monkeypatch, off):
        request = aws_request(kmsd, at=now() - off, monkeypatch=monkeypatch)
        assert_aws_refused(send_aws(kmsd, request), "InvalidSignatureException")

    @pytest.mark.parametrize("off", WITHIN)
    def test_clock_a_little_off(self, kmsd, monkeypatch, off):
        assert send_aws(kmsd, aws_request(kmsd, at=now() - off, monkeypatch=monkeypatch)).status_code == 200

    def test_other_service(self, kmsd):
        assert_aws_refused(send_aws(kmsd, aws_request(kmsd, service="s3")), "InvalidSignatureException")

    def test_no_signature(self, kmsd):
        request = aws_request(kmsd)
        del request.headers["Authorization"]
        assert_aws_refused(send_aws(kmsd, request), "MissingAuthenticationTokenException")

    def test_broken_signature(self, kmsd):
        request = aws_request(kmsd)
        request.headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=x"
        assert_aws_refused(send_aws(kmsd, request), "IncompleteSignatureException")


class TestHuawei:
    def test_signed_well_it_is_answered(self, kmsd):
        reply = send_huawei(kmsd, huawei_request(kmsd))
        assert reply.status_code == 200 and "keys" in reply.json()

    def test_wrong_secret(self, kmsd):
        with pytest.raises(ClientRequestException) as refused:
            kmsd.huawei((kmsd.admin[0], "x" * 40)).list_keys(ListKeysRequest(body=ListKeysRequestBody()))
        assert refused.value.status_code == 401
        assert refused.value.error_code == "APIGW.0301"
        assert "verify aksk signature fail" in refused.value.error_msg
        assert refused.value.request_id

    def test_unknown_access_key(self, kmsd):
        assert_huawei_refused(send_huawei(kmsd, huawei_request(kmsd, ("AKIDUNKNOWN", "x" * 40))))

    def test_changed_body(self, kmsd):
        request = huawei_request(kmsd)
        request.body = b'{"limit": "6"}'
        assert_huawei_refused(send_huawei(kmsd, request))

    def test_changed_path(self, kmsd):
        path = LIST_KEYS.replace("list-keys", "list-key")
        assert_huawei_refused(send_huawei(kmsd, huawei_request(kmsd), path=path))

    def test_changed_method(self, kmsd):
        assert_huawei_refused(send_huawei(kmsd, huawei_request(kmsd), method="GET"))

    @pytest.mark.parametrize("header", ["X-Project-Id", "X-Sdk-Date", "Content-Type"])
    def test_changed_header(self, kmsd, header):
        request = huawei_request(kmsd)
        changed = "20200101T000000Z" if header == "X-Sdk-Date" else "other"
        request.header_params[header] = changed
        assert_huawei_refused(send_huawei(kmsd, request))

    @pytest.mark.parametrize("off", OFF)
    def test_old_or_future_date(self, kmsd, off):
        assert_huawei_refused(send_huawei(kmsd, huawei_request(kmsd, at=now() - off)))

    @pytest.mark.parametrize("off", WITHIN)
    def test_clock_a_little_off(self, kmsd, off):
        assert send_huawei(kmsd, huawei_request(kmsd, at=now() - off)).status_code == 200

    def test_no_signature(self, kmsd):
        request = huawei_request(kmsd)
        del request.header_params["Authorization"]
        assert_huawei_refused(send_huawei(kmsd, request))


class TestAccessKeys:
    def test_a_deleted_access_key_is_refused_at_once(self, kmsd):
        pair = kmsd.access_key("short-lived")
        kmsd.boto(pair).list_keys()
        assert kmsd.local("DELETE", f"/kmsd/v1/access-keys/{pair[0]}")[0] == 200
        with pytest.raises(ClientError) as refused:
            kmsd.boto(pair).list_keys()
        assert refused.value.response["Error"]["Code"] == "UnrecognizedClientException"

    def test_secrets_are_shown_once(self, kmsd):
        key, secret = kmsd.access_key("shown once")
        status, listed = kmsd.local("GET", "/kmsd/v1/access-keys")
        assert status == 200
        assert key in [entry["access_key_id"] for entry in listed["access_keys"]]
        assert secret not in json.dumps(listed)

    def test_the_store_and_the_log_hold_no_secret(self, kmsd):
        _, secret = kmsd.access_key("stored")
        files = [path for path in kmsd.home.rglob("*") if path.is_file()] + [kmsd.dir / "kmsd.log"]
        assert any(path.name == "kmsd.db" for path in files)
        for path in files:
            content = path.read_bytes()
            for form in (secret.encode(), secret.encode().hex().encode()):
                assert form not in content, path

    def test_it_works_on_after_a_restart(self, kmsd):
        pair = kmsd.access_key("lasting")
        kmsd.stop()
        kmsd.start()
        assert kmsd.boto(pair).list_keys()["ResponseMetadata"]["HTTPStatusCode"] == 200

    def test_only_administrators_manage_them(self, kmsd):
        # Over the network, with an access key that is none.
        class Credentials:
            ak, sk = kmsd.access_key("ordinary")

        for method, path in [("GET", "/kmsd/v1/access-keys"), ("POST", "/kmsd/v1/access-keys"),
                             ("DELETE", f"/kmsd/v1/access-keys/{kmsd.admin[0]}")]:
            request = SdkRequest(method=method, schema="https", host=f"127.0.0.1:{kmsd.port}", resource_path=path,
                                 uri=None, query_params=[], header_params={}, body="{}", stream=False,
                                 signing_algorithm=None)
            reply = send_huawei(kmsd, Signer(Credentials).sign(request), method, path)
            assert reply.status_code == 403, reply.text
            assert reply.json()["error"]["error_code"] == "KMS.0330"
        assert kmsd.boto().list_keys()
