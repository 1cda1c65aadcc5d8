"""The aws command line as it is: an endpoint, a CA file and an access key in its environment."""

import base64
import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import REGION

AWS = pathlib.Path(sys.executable).with_name("aws")


@pytest.fixture(scope="module")
def aws(kmsd):
    key, secret = kmsd.admin
    env = {
        "PATH": os.environ["PATH"], "HOME": str(kmsd.dir), "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION, "AWS_CA_BUNDLE": kmsd.ca, "AWS_ENDPOINT_URL_KMS": kmsd.endpoint,
        "AWS_MAX_ATTEMPTS": "1",
    }

    def run(*arguments, fails=None):
        done = subprocess.run([AWS, "kms", *arguments, "--output", "json"], env=env, capture_output=True, text=True,
                              timeout=60, check=False)
        if fails:
            assert done.returncode == 255 and fails in done.stderr, done.stderr
            return None
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout else None

    return run


@pytest.fixture
def key(aws):
    return aws("create-key", "--description", "by the command line")["KeyMetadata"]["KeyId"]


def test_the_life_of_a_key(aws, key):
    assert key in [listed["KeyId"] for listed in aws("list-keys")["Keys"]]
    aws("disable-key", "--key-id", key)
    assert aws("describe-key", "--key-id", key)["KeyMetadata"]["KeyState"] == "Disabled"
    aws("enable-key", "--key-id", key)
    assert aws("schedule-key-deletion", "--key-id", key, "--pending-window-in-days", "7")["KeyState"] == "PendingDeletion"
    aws("enable-key", "--key-id", key, fails="KMSInvalidStateException")
    aws("cancel-key-deletion", "--key-id", key)
    assert aws("describe-key", "--key-id", key)["KeyMetadata"]["KeyState"] == "Disabled"


def test_a_file_there_and_back(aws, key, tmp_path):
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(os.urandom(4096))
    blob = aws("encrypt", "--key-id", key, "--plaintext", f"fileb://{plain}", "--encryption-context", "file=1")
    sealed.write_bytes(base64.b64decode(blob["CiphertextBlob"]))
    opened = aws("decrypt", "--ciphertext-blob", f"fileb://{sealed}", "--encryption-context", "file=1")
    assert base64.b64decode(opened["Plaintext"]) == plain.read_bytes()
    aws("decrypt", "--ciphertext-blob", f"fileb://{sealed}", fails="InvalidCiphertextException")


def test_data_keys(aws, key, tmp_path):
    made = aws("generate-data-key", "--key-id", key, "--key-spec", "AES_256")
    assert len(base64.b64decode(made["Plaintext"])) == 32
    sealed = tmp_path / "sealed"
    sealed.write_bytes(base64.b64decode(made["CiphertextBlob"]))
    opened = aws("decrypt", "--ciphertext-blob", f"fileb://{sealed}")
    assert opened["Plaintext"] == made["Plaintext"]


def test_errors_are_named(aws):
    aws("describe-key", "--key-id", "alias/none", fails="NotFoundException")
