"""Material from elsewhere (K6), by both SDKs. It is wrapped by openssl, as anybody would."""

import base64
import datetime
import os
import subprocess
import tempfile
import time
import uuid

import botocore.exceptions
import pytest
from test_huawei import call, code

SHA1 = "RSAES_OAEP_SHA_1"


def wrap(public_key, material, digest="sha1"):
    """The material, wrapped for the public key (DER) by RSA-OAEP."""
    with tempfile.TemporaryDirectory() as directory:
        key = os.path.join(directory, "key.der")
        with open(key, "wb") as file:
            file.write(public_key)
        done = subprocess.run(
            ["openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", key, "-pkeyopt", "rsa_padding_mode:oaep",
             "-pkeyopt", f"rsa_oaep_md:{digest}", "-pkeyopt", f"rsa_mgf1_md:{digest}"],
            input=material, capture_output=True, check=True)
        return done.stdout


def aws_code(method, **parameters):
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        method(**parameters)
    return refused.value.response["Error"]["Code"]


class TestAws:
    @pytest.fixture
    def key(self, kms):
        made = kms.create_key(Origin="EXTERNAL", Description="brought along")["KeyMetadata"]
        assert (made["KeyState"], made["Origin"], made["Enabled"]) == ("PendingImport", "EXTERNAL", False)
        assert "ExpirationModel" not in made and "ValidTo" not in made
        return made["KeyId"]

    def parameters(self, kms, key, **options):
        options = {"WrappingAlgorithm": SHA1, "WrappingKeySpec": "RSA_2048", **options}
        return kms.get_parameters_for_import(KeyId=key, **options)

    def import_(self, kms, key, material, **options):
        made = self.parameters(kms, key)
        options = options or {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
        return kms.import_key_material(KeyId=key, ImportToken=made["ImportToken"],
                                       EncryptedKeyMaterial=wrap(made["PublicKey"], material), **options)

    def metadata(self, kms, key):
        return kms.describe_key(KeyId=key)["KeyMetadata"]

    def test_k6_the_life_of_imported_material(self, kms, key):
        material = os.urandom(32)
        assert aws_code(kms.encrypt, KeyId=key, Plaintext=b"x") == "KMSInvalidStateException"
        self.import_(kms, key, material)
        shown = self.metadata(kms, key)
        assert (shown["KeyState"], shown["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
        sealed = kms.encrypt(KeyId=key, Plaintext=b"text", EncryptionContext={"a": "b"})["CiphertextBlob"]
        kms.delete_imported_key_material(KeyId=key)
        assert self.metadata(kms, key)["KeyState"] == "PendingImport"
        assert aws_code(kms.decrypt, CiphertextBlob=sealed, EncryptionContext={"a": "b"}) == "KMSInvalidStateException"
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            self.import_(kms, key, os.urandom(32))
        assert refused.value.response["Error"]["Code"] == "IncorrectKeyMaterialException"
        self.import_(kms, key, material)
        assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext={"a": "b"})["Plaintext"] == b"text"

    def test_k6_material_expires(self, kms, key):
        material = os.urandom(32)
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=3)
        self.import_(kms, key, material, ValidTo=end)
        shown = self.metadata(kms, key)
        assert shown["ExpirationModel"] == "KEY_MATERIAL_EXPIRES" and abs((shown["ValidTo"] - end).total_seconds()) < 2
        sealed = kms.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"]
        patience = time.monotonic() + 20
        while self.metadata(kms, key)["KeyState"] != "PendingImport":
            assert time.monotonic() < patience, "it does not expire"
        assert datetime.datetime.now(datetime.timezone.utc) >= end - datetime.timedelta(seconds=1), "too early"
        self.import_(kms, key, material)
        assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"text"

    @pytest.mark.parametrize("spec,length", [("RSA_2048", 256), ("RSA_3072", 384), ("RSA_4096", 512)])
    def test_lengths_of_the_wrapping_key(self, kms, key, spec, length):
        made = self.parameters(kms, key, WrappingKeySpec=spec)
        wrapped = wrap(made["PublicKey"], os.urandom(32))
        assert len(wrapped) == length
        left = made["ParametersValidTo"] - datetime.datetime.now(datetime.timezone.utc)
        assert datetime.timedelta(hours=23) < left <= datetime.timedelta(hours=24, minutes=1)
        kms.import_key_material(KeyId=key, ImportToken=made["ImportToken"], EncryptedKeyMaterial=wrapped,
                                ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")

    def test_k6_what_is_refused(self, kms, key):
        made = self.parameters(kms, key)
        good = {"KeyId": key, "ImportToken": made["ImportToken"], "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
                "EncryptedKeyMaterial": wrap(made["PublicKey"], os.urandom(32))}

        def refused(**changes):
            return aws_code(kms.import_key_material, **{**good, **changes})

        for length in (0, 16, 24, 31, 33, 64):
            wrapped = wrap(made["PublicKey"], os.urandom(length))
            assert refused(EncryptedKeyMaterial=wrapped) == "InvalidCiphertextException", length
        assert refused(EncryptedKeyMaterial=os.urandom(256)) == "InvalidCiphertextException"
        assert refused(EncryptedKeyMaterial=good["EncryptedKeyMaterial"][:-1]) == "InvalidCiphertextException"
        assert refused(ImportToken=made["ImportToken"][:-1] + b"x") == "InvalidImportTokenException"
        past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        assert refused(ExpirationModel="KEY_MATERIAL_EXPIRES") == "ValidationException"
        assert refused(ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=past) == "ValidationException"
        assert refused(ValidTo=past) == "ValidationException"
        # SoftHSM has RSA-OAEP with SHA-1 alone, and kmsd finds that out before anybody wraps anything.
        assert aws_code(kms.get_parameters_for_import, KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256",
                        WrappingKeySpec="RSA_2048") == "ValidationException"
        assert aws_code(kms.get_parameters_for_import, KeyId=key, WrappingAlgorithm="RSAES_PKCS1_V1_5",
                        WrappingKeySpec="RSA_2048") == "UnsupportedOperationException"
        # After the trial of another hash the first offer is closed.
        assert refused() == "InvalidImportTokenException"
        self.import_(kms, key, os.urandom(32))
        assert aws_code(kms.get_parameters_for_import, KeyId=key, WrappingAlgorithm=SHA1,
                        WrappingKeySpec="RSA_2048") == "KMSInvalidStateException"

    def test_k6_material_of_the_token_stays(self, kms, key_id):
        assert aws_code(kms.delete_imported_key_material, KeyId=key_id) == "UnsupportedOperationException"
        assert aws_code(kms.get_parameters_for_import, KeyId=key_id, WrappingAlgorithm=SHA1,
                        WrappingKeySpec="RSA_2048") == "KMSInvalidStateException"
        kms.encrypt(KeyId=key_id, Plaintext=b"x")

    def test_k4_what_a_key_without_material_allows(self, kms, key):
        """The column "Pending import" of the published table of key states."""
        state, other = "KMSInvalidStateException", "UnsupportedOperationException"
        sealing = {"Plaintext": b"x"}
        alias = f"alias/pending-{key}"
        table = [
            ("describe_key", {}, None), ("update_key_description", {"Description": "x"}, None),
            ("get_key_policy", {}, None), ("list_key_policies", {}, None), ("put_key_policy", {"Policy": '{"Statement": []}'}, None),
            ("tag_resource", {"Tags": [{"TagKey": "a", "TagValue": "b"}]}, None), ("untag_resource", {"TagKeys": ["a"]}, None),
            ("list_resource_tags", {}, None), ("list_grants", {}, None), ("list_aliases", {}, None),
            ("create_grant", {"GranteePrincipal": "uid:5", "Operations": ["Encrypt"]}, state),
            ("enable_key", {}, state), ("disable_key", {}, state), ("cancel_key_deletion", {}, state),
            ("encrypt", sealing, state), ("generate_data_key", {"KeySpec": "AES_256"}, state),
            ("generate_data_key_without_plaintext", {"KeySpec": "AES_256"}, state),
            ("enable_key_rotation", {}, other), ("disable_key_rotation", {}, other), ("rotate_key_on_demand", {}, other),
            ("delete_imported_key_material", {}, None),  # no effect
            ("get_parameters_for_import", {"WrappingAlgorithm": SHA1, "WrappingKeySpec": "RSA_2048"}, None),
        ]
        for operation, parameters, expected in table:
            method = getattr(kms, operation)
            if expected is None:
                method(KeyId=key, **parameters)
            else:
                assert aws_code(method, KeyId=key, **parameters) == expected, operation
            assert self.metadata(kms, key)["KeyState"] == "PendingImport", operation
        kms.create_alias(AliasName=alias, TargetKeyId=key)
        kms.update_alias(AliasName=alias, TargetKeyId=key)
        kms.delete_alias(AliasName=alias)
        # What was encrypted before its material went does not open, nor can be made anew under it.
        self.import_(kms, key, os.urandom(32))
        grant = kms.create_grant(KeyId=key, GranteePrincipal="uid:5", Operations=["Encrypt"])["GrantId"]
        retired = kms.create_grant(KeyId=key, GranteePrincipal="uid:6", Operations=["Encrypt"])["GrantId"]
        sealed = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
        mine = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.delete_imported_key_material(KeyId=key)
        assert aws_code(kms.decrypt, CiphertextBlob=sealed) == state
        assert aws_code(kms.re_encrypt, CiphertextBlob=sealed, DestinationKeyId=mine) == state
        back = kms.encrypt(KeyId=mine, Plaintext=b"x")["CiphertextBlob"]
        assert aws_code(kms.re_encrypt, CiphertextBlob=back, DestinationKeyId=key) == state
        kms.revoke_grant(KeyId=key, GrantId=grant)
        kms.retire_grant(KeyId=self.metadata(kms, key)["Arn"], GrantId=retired)
        kms.schedule_key_deletion(KeyId=key)

    def test_k5_imported_material_is_not_rotated(self, kms, key):
        self.import_(kms, key, os.urandom(32))
        for operation in ("rotate_key_on_demand", "enable_key_rotation", "disable_key_rotation"):
            assert aws_code(getattr(kms, operation), KeyId=key) == "UnsupportedOperationException", operation

    def test_k4_cancelled_without_material_it_waits_for_it(self, kms, key):
        kms.schedule_key_deletion(KeyId=key)
        kms.cancel_key_deletion(KeyId=key)
        assert self.metadata(kms, key)["KeyState"] == "PendingImport"


class TestHuawei:
    @pytest.fixture
    def key(self, huawei):
        made = call(huawei, "create_key", key_alias=f"k-{uuid.uuid4()}", origin="external").key_info.key_id
        info = call(huawei, "list_key_detail", key_id=made).key_info
        assert (info.key_state, info.origin, info.expiration_time) == ("5", "external", "")
        return made

    def import_(self, huawei, key, material, **options):
        made = call(huawei, "create_parameters_for_import", key_id=key, wrapping_algorithm=SHA1)
        assert made.key_id == key and 23 * 3600 < made.expiration_time - time.time() < 25 * 3600
        wrapped = base64.b64encode(wrap(base64.b64decode(made.public_key), material)).decode()
        return call(huawei, "import_key_material", key_id=key, import_token=made.import_token,
                    encrypted_key_material=wrapped, **options)

    def state(self, huawei, key):
        return call(huawei, "list_key_detail", key_id=key).key_info.key_state

    def test_k6_the_life_of_imported_material(self, huawei, key):
        material = os.urandom(32)
        assert code(huawei, "create_datakey", key_id=key, datakey_length="256") == "KMS.0308"
        end = int(time.time()) + 3600
        self.import_(huawei, key, material, expiration_time=end)
        info = call(huawei, "list_key_detail", key_id=key).key_info
        assert info.key_state == "2" and abs(int(info.expiration_time) / 1000 - end) < 2
        made = call(huawei, "create_datakey", key_id=key, datakey_length="256")
        call(huawei, "delete_imported_key_material", key_id=key)
        assert self.state(huawei, key) == "5"
        wrong = call(huawei, "create_parameters_for_import", key_id=key, wrapping_algorithm=SHA1)
        wrapped = base64.b64encode(wrap(base64.b64decode(wrong.public_key), os.urandom(32))).decode()
        assert code(huawei, "import_key_material", key_id=key, import_token=wrong.import_token,
                    encrypted_key_material=wrapped) == "KMS.0308"
        self.import_(huawei, key, material)
        opened = call(huawei, "decrypt_datakey", key_id=key, cipher_text=made.cipher_text, datakey_cipher_length="32")
        assert opened.data_key == made.plain_text

    @pytest.mark.parametrize("has_material", [False, True])
    def test_k5_imported_material_is_not_rotated(self, huawei, key, has_material):
        if has_material:
            self.import_(huawei, key, os.urandom(32))
        for method, more in [("rotate_on_demand", {}), ("enable_key_rotation", {}), ("disable_key_rotation", {}),
                             ("update_key_rotation_interval", {"rotation_interval": 90})]:
            assert code(huawei, method, key_id=key, **more) == "KMS.0312", method
        assert self.state(huawei, key) == ("2" if has_material else "5")

    def test_k6_what_is_refused(self, huawei, key):
        for algorithm in ("RSAES_OAEP_SHA_256", "RSAES_PKCS1_V1_5", ""):
            assert code(huawei, "create_parameters_for_import", key_id=key, wrapping_algorithm=algorithm) == "KMS.0308"
        assert code(huawei, "import_key_material", key_id=key, import_token="not base64!",
                    encrypted_key_material="AAAA") == "KMS.0308"
        assert code(huawei, "delete_imported_key_material", key_id=key) == "KMS.2701"
        mine = call(huawei, "create_key", key_alias=f"k-{uuid.uuid4()}").key_info.key_id
        assert code(huawei, "delete_imported_key_material", key_id=mine) == "KMS.0309"
        assert code(huawei, "create_parameters_for_import", key_id=mine, wrapping_algorithm=SHA1) == "KMS.0310"
        assert code(huawei, "create_key", key_alias=f"k-{uuid.uuid4()}", origin="elsewhere") == "KMS.0308"
