"""What the public clients are told when the token refuses or hangs, or there is no room for the audit log."""

import os
import shutil
import subprocess
import tempfile
import threading
import time

import huaweicloudsdkkms.v2 as sdk
import pytest
from botocore.exceptions import ClientError
from conftest import Installation
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException, ServerResponseException

# CKR_FUNCTION_REJECTED: an answer, after which session and token are as good as before.
REJECTED = 0x200
SECONDS = 2


@pytest.fixture(scope="module")
def kmsd():
    """One of its own, the home on a small file system, the proxy before the token."""
    directory = tempfile.mkdtemp(prefix="kmsd-faults.", dir=os.environ.get("ECS_TEST_RUN_DIR"))
    home = os.path.join(directory, "kmsd")
    os.mkdir(home)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", home], check=True)
    installation = None
    try:
        installation = Installation(directory, proxied=True)
        installation.stop()
        installation.set_limit("request_seconds", SECONDS)
        installation.start()
        yield installation
        installation.stop()
    finally:
        if installation:
            installation.kill()
        subprocess.run(["umount", "-l", home], check=True)
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def kms(kmsd):
    return kmsd.boto()


@pytest.fixture(scope="module")
def huawei(kmsd):
    return kmsd.huawei()


@pytest.fixture(scope="module")
def key(kms):
    return kms.create_key()["KeyMetadata"]["KeyId"]


def create_datakey(huawei, key):
    body = sdk.CreateDatakeyRequestBody(key_id=key, datakey_length="256")
    return huawei.create_datakey(sdk.CreateDatakeyRequest(body=body))


def refused_by_huawei(huawei, key):
    with pytest.raises(ServerResponseException) as refused:
        create_datakey(huawei, key)
    return refused.value.status_code, refused.value.error_code


def refused_by_aws(kms, key):
    with pytest.raises(ClientError) as refused:
        kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    answer = refused.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_a_token_that_refuses(kmsd, kms, huawei, key):
    """KMS.0101, KMSInternalException: trying again does not help, and as soon as the token answers all is well."""
    create_datakey(huawei, key)
    kmsd.order("".join(f"fail {call} {REJECTED:#x}\n" for call in range(200)))
    try:
        assert refused_by_huawei(huawei, key) == (500, "KMS.0101")
        assert refused_by_aws(kms, key) == (500, "KMSInternalException")
    finally:
        kmsd.order("")
    create_datakey(huawei, key)
    kms.generate_data_key(KeyId=key, KeySpec="AES_256")


def test_a_token_that_hangs(kmsd, kms, huawei, key):
    """KMS.0104, DependencyTimeoutException: after the time that a request may take, and not later."""
    kmsd.order(f"delay C_Encrypt {(SECONDS + 1) * 1000000}\n")
    try:
        for refused, expected in [(refused_by_aws, (503, "DependencyTimeoutException")), (refused_by_huawei, (504, "KMS.0104"))]:
            began = time.monotonic()
            assert refused(kms if refused is refused_by_aws else huawei, key) == expected
            assert SECONDS <= time.monotonic() - began < SECONDS + 10
    finally:
        kmsd.order("")
    create_datakey(huawei, key)


def test_no_room_for_the_audit_log(kmsd, kms, huawei, key):
    """KMS.0102: nothing is given out without its record. The AWS protocol has KeyUnavailableException for what may be tried again."""
    ballast = kmsd.home / "ballast"
    with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    try:
        with pytest.raises(ServerResponseException) as refused:
            # What is left of the log's last page is used up first.
            for _ in range(200):
                create_datakey(huawei, key)
        assert (refused.value.status_code, refused.value.error_code) == (503, "KMS.0102")
        assert refused_by_huawei(huawei, key) == (503, "KMS.0102")
        assert refused_by_aws(kms, key) == (500, "KeyUnavailableException")
    finally:
        ballast.unlink()
    create_datakey(huawei, key)
    kms.generate_data_key(KeyId=key, KeySpec="AES_256")


def test_a_key_that_is_being_rotated(kmsd, kms, huawei, key):
    """KMSD.0005, ConflictException: one rotation of a key at a time."""
    def rotate():
        return huawei.rotate_on_demand(sdk.RotateOnDemandRequest(body=sdk.RotateOnDemandRequestBody(key_id=key)))

    kmsd.order(f"trace\ndelay C_GenerateKey {SECONDS * 1000000 // 2}\n")
    first = threading.Thread(target=rotate)
    first.start()
    try:
        # The token is at work on the first one, and takes its time.
        trace = kmsd.control.with_suffix(".trace")
        while not (trace.exists() and "C_GenerateKey" in trace.read_text()):
            assert first.is_alive()
        with pytest.raises(ClientRequestException) as refused:
            rotate()
        assert (refused.value.status_code, refused.value.error_code) == (409, "KMSD.0005")
        with pytest.raises(ClientError) as refused:
            kms.rotate_key_on_demand(KeyId=key)
        assert refused.value.response["Error"]["Code"] == "ConflictException"
    finally:
        first.join()
        kmsd.order("")
    create_datakey(huawei, key)


def test_a_key_that_is_not_in_the_token(kmsd, kms, huawei, key):
    """KMS.0103, KeyUnavailableException: its material was destroyed behind the service's back. Other keys go on."""
    lost = kms.create_key()["KeyMetadata"]["KeyId"]
    token = kmsd.dir / "token"
    tool = ["pkcs11-tool", "--module", kmsd.env["PKCS11_PROXY_MODULE"], "--token-label", "clients", "--login",
            "--pin", (token / "pin").read_text().strip()]
    identity = lost.replace("-", "") + "00000001"
    subprocess.run([*tool, "--delete-object", "--type", "secrkey", "--id", identity], env=kmsd.env, check=True)
    assert refused_by_huawei(huawei, lost) == (500, "KMS.0103")
    assert refused_by_aws(kms, lost) == (500, "KeyUnavailableException")
    create_datakey(huawei, key)
