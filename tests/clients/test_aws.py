"""The AWS KMS protocol, with boto3 as it is: one test for each operation and each documented error."""

import datetime

import pytest
from botocore.exceptions import ClientError

from conftest import REGION

MISSING = "0d0466b0-e727-4d9c-b35d-f84bb474a37f"


def code(call, /, **parameters):
    """The error code of a call that has to be refused."""
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    assert refused.value.response["Error"]["Message"]
    return refused.value.response["Error"]["Code"]


def in_state(kms, state):
    """A new key in a state."""
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    if state == "Disabled":
        kms.disable_key(KeyId=key)
    elif state == "PendingDeletion":
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == state
    return key


class TestKeys:
    def test_create_and_describe(self, kms):
        made = kms.create_key(Description="orders", KeySpec="SYMMETRIC_DEFAULT", KeyUsage="ENCRYPT_DECRYPT",
                              Origin="AWS_KMS")["KeyMetadata"]
        assert made["Arn"] == f"arn:aws:kms:{REGION}:000000000000:key/{made['KeyId']}"
        assert made["Description"] == "orders" and made["Enabled"] and made["KeyState"] == "Enabled"
        assert made["KeyManager"] == "CUSTOMER" and made["Origin"] == "AWS_KMS" and not made["MultiRegion"]
        age = datetime.datetime.now(datetime.timezone.utc) - made["CreationDate"]
        assert abs(age) < datetime.timedelta(minutes=1)
        for name in (made["KeyId"], made["Arn"]):
            assert kms.describe_key(KeyId=name)["KeyMetadata"] == made

    @pytest.mark.parametrize("options", [
        {"KeySpec": "RSA_2048"}, {"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"}, {"MultiRegion": True},
        {"Origin": "AWS_CLOUDHSM"}, {"CustomKeyStoreId": "cks-1"},
        {"Policy": "{}", "BypassPolicyLockoutSafetyCheck": True}])
    def test_what_is_not_supported_is_refused(self, kms, options):
        assert code(kms.create_key, **options) == "UnsupportedOperationException"

    def test_description_too_long(self, kms):
        # Longer than the service's own bound, shorter than the client's.
        assert code(kms.create_key, Description="x" * 256) == "ValidationException"

    @pytest.mark.parametrize("name", [MISSING, f"arn:aws:kms:{REGION}:000000000000:key/{MISSING}", "alias/none", "x"])
    def test_no_such_key(self, kms, name):
        assert code(kms.describe_key, KeyId=name) == "NotFoundException"

    def test_malformed_arn(self, kms):
        assert code(kms.describe_key, KeyId="arn:aws:s3:::bucket") == "InvalidArnException"

    def test_list_keys_in_pages(self, kmsd):
        kms = kmsd.boto(kmsd.access_key("lister"))
        made = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)]
        assert [key["KeyId"] for key in kms.list_keys()["Keys"]][-5:] == made
        first = kms.list_keys(Limit=2)
        assert first["Truncated"] and len(first["Keys"]) == 2
        pages = kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2})
        assert [key["KeyId"] for page in pages for key in page["Keys"]][-5:] == made
        assert code(kms.list_keys, Marker="none") == "InvalidMarkerException"

    def test_a_stranger_is_not_told_of_a_key(self, kmsd, key_id):
        stranger = kmsd.boto(kmsd.access_key("stranger"))
        assert key_id not in [key["KeyId"] for key in stranger.list_keys()["Keys"]]
        assert code(stranger.describe_key, KeyId=key_id) == code(stranger.describe_key, KeyId=MISSING)
        assert code(stranger.disable_key, KeyId=key_id) == "NotFoundException"
        assert code(stranger.encrypt, KeyId=key_id, Plaintext=b"x") == "NotFoundException"

    def test_disable_and_enable_are_idempotent(self, kms, key_id):
        for change, state in [(kms.disable_key, "Disabled"), (kms.enable_key, "Enabled")]:
            for _ in range(2):
                change(KeyId=key_id)
                assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == state

    def test_schedule_and_cancel_deletion(self, kms, key_id):
        scheduled = kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
        assert scheduled["KeyState"] == "PendingDeletion" and scheduled["PendingWindowInDays"] == 7
        due = scheduled["DeletionDate"] - datetime.datetime.now(datetime.timezone.utc)
        assert abs(due - datetime.timedelta(days=7)) < datetime.timedelta(minutes=1)
        described = kms.describe_key(KeyId=key_id)["KeyMetadata"]
        assert abs(described["DeletionDate"] - scheduled["DeletionDate"]) < datetime.timedelta(seconds=1)
        assert not described["Enabled"]
        cancelled = kms.cancel_key_deletion(KeyId=key_id)
        assert cancelled["KeyId"] == described["Arn"]
        assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Disabled"

    def test_the_deletion_window(self, kms, key_id):
        for days in (1, 6, 31, 366):
            assert code(kms.schedule_key_deletion, KeyId=key_id, PendingWindowInDays=days) == "ValidationException"
        assert kms.schedule_key_deletion(KeyId=key_id)["PendingWindowInDays"] == 30

    def test_operations_on_a_key_take_no_alias(self, kms):
        assert code(kms.disable_key, KeyId="alias/evs/default") == "NotFoundException"

    def test_default_keys_are_managed_by_the_system(self, kms):
        """K3"""
        arn = kms.generate_data_key(KeyId="alias/evs/default", KeySpec="AES_256")["KeyId"]
        assert kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyManager"] == "AWS"
        assert code(kms.disable_key, KeyId=arn) == "AccessDeniedException"
        assert code(kms.schedule_key_deletion, KeyId=arn) == "AccessDeniedException"

    def test_unknown_operations_are_refused(self, kms, key_id):
        assert code(kms.sign, KeyId=key_id, Message=b"x", SigningAlgorithm="ECDSA_SHA_256") == "UnknownOperationException"


class TestRotation:
    """K5"""

    def test_on_demand(self, kms, key_id):
        sealed = [kms.encrypt(KeyId=key_id, Plaintext=b"0")["CiphertextBlob"]]
        for number in (1, 2):
            arn = kms.describe_key(KeyId=key_id)["KeyMetadata"]["Arn"]
            assert kms.rotate_key_on_demand(KeyId=key_id)["KeyId"] == arn
            sealed.append(kms.encrypt(KeyId=key_id, Plaintext=str(number).encode())["CiphertextBlob"])
        for number, blob in enumerate(sealed):
            assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == str(number).encode()
        listed = kms.list_key_rotations(KeyId=key_id)
        assert [each["RotationType"] for each in listed["Rotations"]] == ["ON_DEMAND"] * 2
        assert listed["Rotations"][0]["RotationDate"] >= listed["Rotations"][1]["RotationDate"]
        first = kms.list_key_rotations(KeyId=key_id, Limit=1)
        assert first["Truncated"] and len(first["Rotations"]) == 1
        rest = kms.list_key_rotations(KeyId=key_id, Limit=1, Marker=first["NextMarker"])
        assert not rest["Truncated"] and rest["Rotations"] == listed["Rotations"][1:]
        assert code(kms.list_key_rotations, KeyId=key_id, Marker="none") == "InvalidMarkerException"
        assert code(kms.list_key_rotations, KeyId=key_id,
                    IncludeKeyMaterial="ALL_KEY_MATERIAL") == "UnsupportedOperationException"

    def test_on_demand_is_bounded(self, kms, key_id):
        for _ in range(25):
            kms.rotate_key_on_demand(KeyId=key_id)
        assert code(kms.rotate_key_on_demand, KeyId=key_id) == "LimitExceededException"

    def test_by_interval(self, kms, key_id):
        assert not kms.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"]
        kms.disable_key_rotation(KeyId=key_id)
        for days, shown in [(None, 365), (90, 90), (None, 90), (2560, 2560)]:
            kms.enable_key_rotation(KeyId=key_id, **({"RotationPeriodInDays": days} if days else {}))
            status = kms.get_key_rotation_status(KeyId=key_id)
            assert status["KeyRotationEnabled"] and status["RotationPeriodInDays"] == shown
            due = status["NextRotationDate"] - datetime.datetime.now(datetime.timezone.utc)
            assert abs(due - datetime.timedelta(days=shown)) < datetime.timedelta(minutes=1)
        kms.disable_key_rotation(KeyId=key_id)
        status = kms.get_key_rotation_status(KeyId=key_id)
        assert not status["KeyRotationEnabled"] and "NextRotationDate" not in status

    def test_default_keys_are_not_rotated(self, kms):
        """K3"""
        arn = kms.generate_data_key(KeyId="alias/evs/default", KeySpec="AES_256")["KeyId"]
        assert code(kms.rotate_key_on_demand, KeyId=arn) == "AccessDeniedException"
        assert code(kms.enable_key_rotation, KeyId=arn) == "AccessDeniedException"
        assert not kms.get_key_rotation_status(KeyId=arn)["KeyRotationEnabled"]

    @pytest.mark.parametrize("days", [0, 89, 2561])
    def test_a_period_out_of_bounds(self, kmsd, key_id, days):
        kms = kmsd.boto(parameter_validation=False)
        assert code(kms.enable_key_rotation, KeyId=key_id, RotationPeriodInDays=days) == "ValidationException"


class TestDetails:
    def test_description(self, kms, key_id):
        kms.update_key_description(KeyId=key_id, Description="orders")
        assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["Description"] == "orders"

    def test_tags(self, kms):
        key = kms.create_key(Tags=[{"TagKey": "team", "TagValue": "a"}])["KeyMetadata"]["KeyId"]
        kms.tag_resource(KeyId=key, Tags=[{"TagKey": "env", "TagValue": "prod"}, {"TagKey": "team", "TagValue": "b"}])
        assert kms.list_resource_tags(KeyId=key)["Tags"] == [
            {"TagKey": "env", "TagValue": "prod"}, {"TagKey": "team", "TagValue": "b"}]
        first = kms.list_resource_tags(KeyId=key, Limit=1)
        assert first["Truncated"]
        rest = kms.list_resource_tags(KeyId=key, Limit=1, Marker=first["NextMarker"])
        assert [tag["TagKey"] for tag in rest["Tags"]] == ["team"] and not rest["Truncated"]
        kms.untag_resource(KeyId=key, TagKeys=["env", "absent"])
        assert [tag["TagKey"] for tag in kms.list_resource_tags(KeyId=key)["Tags"]] == ["team"]

    def test_tags_that_are_refused(self, kms, key_id):
        before = len(kms.list_keys(Limit=1000)["Keys"])
        assert code(kms.create_key, Tags=[{"TagKey": "a\n", "TagValue": ""}]) == "TagException"
        assert len(kms.list_keys(Limit=1000)["Keys"]) == before
        many = [{"TagKey": str(number), "TagValue": ""} for number in range(51)]
        assert code(kms.tag_resource, KeyId=key_id, Tags=many) == "LimitExceededException"
        assert kms.list_resource_tags(KeyId=key_id)["Tags"] == []


class TestUse:
    CONTEXT = {"tenant": "a", "purpose": "backup"}

    @pytest.mark.parametrize("options,length", [
        ({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1}, 1),
        ({"NumberOfBytes": 1024}, 1024)])
    def test_generate_data_key(self, kms, key_id, options, length):
        made = kms.generate_data_key(KeyId=key_id, EncryptionContext=self.CONTEXT, **options)
        assert len(made["Plaintext"]) == length
        opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=self.CONTEXT)
        assert opened["Plaintext"] == made["Plaintext"] and opened["KeyId"] == made["KeyId"]

    def test_generate_data_key_without_plaintext(self, kms, key_id):
        made = kms.generate_data_key_without_plaintext(KeyId=key_id, KeySpec="AES_256")
        assert "Plaintext" not in made
        assert len(kms.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"]) == 32

    @pytest.mark.parametrize("options", [{}, {"KeySpec": "AES_512"}, {"NumberOfBytes": 1025},
                                         {"KeySpec": "AES_256", "NumberOfBytes": 32}])
    def test_lengths_of_data_keys(self, kms, key_id, options):
        assert code(kms.generate_data_key, KeyId=key_id, **options) == "ValidationException"

    @pytest.mark.parametrize("length", [1, 100, 4096])
    def test_encrypt_and_decrypt(self, kms, key_id, length):
        plaintext = bytes(range(256)) * 16
        sealed = kms.encrypt(KeyId=key_id, Plaintext=plaintext[:length], EncryptionContext=self.CONTEXT)
        assert sealed["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
        opened = kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=self.CONTEXT, KeyId=key_id)
        assert opened["Plaintext"] == plaintext[:length]

    def test_plaintext_too_long(self, kms, key_id):
        with pytest.raises(Exception) as refused:
            kms.encrypt(KeyId=key_id, Plaintext=b"x" * 4097)
        assert "ValidationException" in str(refused.value) or "Invalid length" in str(refused.value)

    def test_the_context_has_to_be_the_same(self, kms, key_id):
        """K2"""
        sealed = kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext=self.CONTEXT)["CiphertextBlob"]
        for other in ({}, {"tenant": "a"}, {**self.CONTEXT, "more": "1"}, {**self.CONTEXT, "tenant": "A"}):
            assert code(kms.decrypt, CiphertextBlob=sealed, EncryptionContext=other) == "InvalidCiphertextException"
        reordered = dict(reversed(self.CONTEXT.items()))
        assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=reordered)["Plaintext"] == b"x"

    def test_a_changed_ciphertext_does_not_open(self, kms, key_id):
        sealed = bytearray(kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"])
        sealed[-1] ^= 1
        assert code(kms.decrypt, CiphertextBlob=bytes(sealed)) == "InvalidCiphertextException"
        assert code(kms.decrypt, CiphertextBlob=b"not one") == "InvalidCiphertextException"

    def test_another_key_than_named(self, kms, key_id):
        other = kms.create_key()["KeyMetadata"]["KeyId"]
        sealed = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
        assert code(kms.decrypt, CiphertextBlob=sealed, KeyId=other) == "IncorrectKeyException"

    def test_re_encrypt(self, kms, key_id):
        """K5"""
        other = kms.create_key()["KeyMetadata"]
        sealed = kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={"v": "1"})
        moved = kms.re_encrypt(CiphertextBlob=sealed["CiphertextBlob"], SourceEncryptionContext={"v": "1"},
                               DestinationKeyId=other["KeyId"], DestinationEncryptionContext={"v": "2"})
        assert moved["SourceKeyId"] == sealed["KeyId"] and moved["KeyId"] == other["Arn"]
        opened = kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"v": "2"})
        assert opened["Plaintext"] == b"x" and opened["KeyId"] == other["Arn"]
        assert code(kms.re_encrypt, CiphertextBlob=sealed["CiphertextBlob"], DestinationKeyId=key_id,
                    SourceEncryptionContext={"v": "2"}) == "InvalidCiphertextException"

    def test_generate_random(self, kms):
        drawn = [kms.generate_random(NumberOfBytes=length)["Plaintext"] for length in (1, 32, 32, 1024)]
        assert [len(each) for each in drawn] == [1, 32, 32, 1024] and drawn[1] != drawn[2]
        assert code(kms.generate_random) == "ValidationException"

    def test_dry_run_is_not_supported(self, kms, key_id):
        assert code(kms.encrypt, KeyId=key_id, Plaintext=b"x", DryRun=True) == "UnsupportedOperationException"


# Operation, and what it says of a disabled key and of one that waits for its deletion; None: it is done.
# Source: "Key states of AWS KMS keys" in the developer guide.
STATES = [
    ("describe_key", {}, None, None),
    ("encrypt", {"Plaintext": b"x"}, "DisabledException", "KMSInvalidStateException"),
    ("generate_data_key", {"KeySpec": "AES_256"}, "DisabledException", "KMSInvalidStateException"),
    ("generate_data_key_without_plaintext", {"KeySpec": "AES_256"}, "DisabledException", "KMSInvalidStateException"),
    ("enable_key", {}, None, "KMSInvalidStateException"),
    ("disable_key", {}, None, "KMSInvalidStateException"),
    ("schedule_key_deletion", {}, None, "KMSInvalidStateException"),
    ("cancel_key_deletion", {}, "KMSInvalidStateException", None),
    ("update_key_description", {"Description": "x"}, None, "KMSInvalidStateException"),
    ("tag_resource", {"Tags": [{"TagKey": "a", "TagValue": "b"}]}, None, "KMSInvalidStateException"),
    ("untag_resource", {"TagKeys": ["a"]}, None, "KMSInvalidStateException"),
    ("list_resource_tags", {}, None, None),
    ("enable_key_rotation", {}, "DisabledException", "KMSInvalidStateException"),
    ("disable_key_rotation", {}, "DisabledException", "KMSInvalidStateException"),
    ("get_key_rotation_status", {}, None, None),
    ("rotate_key_on_demand", {}, "DisabledException", "KMSInvalidStateException"),
    ("list_key_rotations", {}, None, None),
]


@pytest.mark.parametrize("operation,parameters,disabled,deletion", STATES, ids=[row[0] for row in STATES])
def test_k4_what_each_state_allows(kms, operation, parameters, disabled, deletion):
    for state, expected in [("Enabled", None), ("Disabled", disabled), ("PendingDeletion", deletion)]:
        if (operation, state) == ("cancel_key_deletion", "Enabled"):
            expected = "KMSInvalidStateException"
        key = in_state(kms, state)
        call = getattr(kms, operation)
        if expected is None:
            call(KeyId=key, **parameters)
        else:
            assert code(call, KeyId=key, **parameters) == expected, state


@pytest.mark.parametrize("state,expected", [("Disabled", "DisabledException"),
                                            ("PendingDeletion", "KMSInvalidStateException")])
def test_k4_what_was_encrypted_does_not_open_then(kms, key_id, state, expected):
    sealed = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    if state == "Disabled":
        kms.disable_key(KeyId=key_id)
    else:
        kms.schedule_key_deletion(KeyId=key_id)
    assert code(kms.decrypt, CiphertextBlob=sealed) == expected
    assert code(kms.re_encrypt, CiphertextBlob=sealed, DestinationKeyId=other) == expected
    back = kms.encrypt(KeyId=other, Plaintext=b"x")["CiphertextBlob"]
    assert code(kms.re_encrypt, CiphertextBlob=back, DestinationKeyId=key_id) == expected
