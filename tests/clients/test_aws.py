"""The AWS KMS protocol, with boto3 as it is: one test for each operation and each documented error."""

import concurrent.futures
import datetime
import json
import re

import pytest
from botocore.exceptions import ClientError

from conftest import REGION, ROOT

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
        {"Origin": "AWS_CLOUDHSM"}, {"CustomKeyStoreId": "cks-1"}])
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

    def test_bodies_that_do_not_fit(self, kmsd, key_id):
        kms = kmsd.boto(parameter_validation=False)
        assert code(kms.describe_key, KeyId=5) == "SerializationException"
        assert code(kms.describe_key) == "SerializationException"
        assert code(kms.encrypt, KeyId=key_id, Plaintext=b"x" * 70000) == "RequestEntityTooLargeException"

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

    def test_one_at_a_time(self, kms):
        """Of those who rotate a key at once each made a version, or was told that another one was at it."""
        codes = []
        for _ in range(10):
            key = kms.create_key()["KeyMetadata"]["KeyId"]

            def rotate(_, key=key):
                try:
                    kms.rotate_key_on_demand(KeyId=key)
                    return "ok"
                except ClientError as refused:
                    return refused.response["Error"]["Code"]

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                outcomes = list(pool.map(rotate, range(16)))
            assert set(outcomes) <= {"ok", "ConflictException"} and "ok" in outcomes
            assert len(kms.list_key_rotations(KeyId=key)["Rotations"]) == outcomes.count("ok")
            codes += outcomes
            if "ConflictException" in codes:
                break
        assert "ConflictException" in codes

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
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
        status = kms.get_key_rotation_status(KeyId=key_id)
        assert not status["KeyRotationEnabled"] and "NextRotationDate" not in status
        kms.cancel_key_deletion(KeyId=key_id)
        assert kms.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"]
        kms.enable_key(KeyId=key_id)
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


class TestAliases:
    def test_create_update_and_delete(self, kms, key_id):
        name, other = f"alias/a-{key_id[:8]}", kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName=name, TargetKeyId=key_id)
        arn = f"arn:aws:kms:{REGION}:000000000000:{name}"
        listed, = kms.list_aliases(KeyId=key_id)["Aliases"]
        assert (listed["AliasName"], listed["AliasArn"], listed["TargetKeyId"]) == (name, arn, key_id)
        sealed = kms.encrypt(KeyId=name, Plaintext=b"x")
        assert sealed["KeyId"].endswith(key_id)
        kms.update_alias(AliasName=name, TargetKeyId=other)
        assert kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyId"] == other
        assert kms.list_aliases(KeyId=key_id)["Aliases"] == []
        assert kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"])["Plaintext"] == b"x"
        assert code(kms.create_alias, AliasName=name, TargetKeyId=key_id) == "AlreadyExistsException"
        kms.delete_alias(AliasName=name)
        assert code(kms.describe_key, KeyId=name) == "NotFoundException"
        assert code(kms.delete_alias, AliasName=name) == "NotFoundException"
        assert code(kms.update_alias, AliasName=name, TargetKeyId=key_id) == "NotFoundException"

    @pytest.mark.parametrize("name,expected", [
        ("alias/mine/default", "InvalidAliasNameException"), ("alias/", "InvalidAliasNameException"),
        ("mine", "ValidationException")])
    def test_names_that_are_refused(self, kms, key_id, name, expected):
        """K3 among them"""
        assert code(kms.create_alias, AliasName=name, TargetKeyId=key_id) == expected

    def test_aliases_of_missing_keys_and_default_keys(self, kms, key_id):
        """K3"""
        assert code(kms.create_alias, AliasName="alias/x", TargetKeyId=MISSING) == "NotFoundException"
        kms.generate_data_key(KeyId="alias/evs/default", KeySpec="AES_256")
        assert code(kms.delete_alias, AliasName="alias/evs/default") == "AccessDeniedException"
        assert code(kms.update_alias, AliasName="alias/evs/default", TargetKeyId=key_id) == "AccessDeniedException"

    def test_pages_and_bound(self, kmsd):
        kms = kmsd.boto(kmsd.access_key("namer"))
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        names = sorted(f"alias/p{number:02}-{key[:8]}" for number in range(50))
        for name in names:
            kms.create_alias(AliasName=name, TargetKeyId=key)
        assert code(kms.create_alias, AliasName="alias/more", TargetKeyId=key) == "LimitExceededException"
        pages = kms.get_paginator("list_aliases").paginate(KeyId=key, PaginationConfig={"PageSize": 7})
        assert [each["AliasName"] for page in pages for each in page["Aliases"]] == names
        assert code(kms.list_aliases, KeyId=key, Marker="none") == "InvalidMarkerException"

    def test_a_name_from_the_native_api(self, kmsd, kms):
        status, made = kmsd.local("POST", "/v1.0/p/kms/create-key", {"key_alias": "native-name"})
        assert status == 200
        key = made["key_info"]["key_id"]
        other = kms.create_key()["KeyMetadata"]["KeyId"]
        assert [each["AliasName"] for each in kms.list_aliases(KeyId=key)["Aliases"]] == ["alias/native-name"]
        assert code(kms.update_alias, AliasName="alias/native-name", TargetKeyId=other) == "KMSInvalidStateException"
        kms.delete_alias(AliasName="alias/native-name")
        assert kms.list_aliases(KeyId=key)["Aliases"] == []


class TestGrants:
    """K7"""

    @pytest.fixture
    def grantee(self, kmsd):
        access_key = kmsd.access_key("grantee")
        return kmsd.boto(access_key), access_key[0]

    def test_a_grant_gives_what_it_lists(self, kms, key_id, grantee):
        client, principal = grantee
        assert code(client.encrypt, KeyId=key_id, Plaintext=b"x") == "NotFoundException"
        made = kms.create_grant(KeyId=key_id, GranteePrincipal=principal, Operations=["Encrypt", "DescribeKey"], Name="n")
        again = kms.create_grant(KeyId=key_id, GranteePrincipal=principal, Operations=["Encrypt", "DescribeKey"], Name="n")
        assert again == {**made, "ResponseMetadata": again["ResponseMetadata"]}
        sealed = client.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
        assert client.describe_key(KeyId=key_id)["KeyMetadata"]["KeyId"] == key_id
        assert key_id in [key["KeyId"] for key in client.list_keys()["Keys"]]
        for refused, more in [(client.decrypt, {"CiphertextBlob": sealed}), (client.disable_key, {"KeyId": key_id}),
                              (client.generate_data_key, {"KeyId": key_id, "KeySpec": "AES_256"}),
                              (client.list_grants, {"KeyId": key_id}),
                              (client.revoke_grant, {"KeyId": key_id, "GrantId": made["GrantId"]})]:
            assert code(refused, **more) == "AccessDeniedException"
        listed, = kms.list_grants(KeyId=key_id)["Grants"]
        assert listed["GranteePrincipal"] == f"key:{principal}" and listed["Name"] == "n"
        assert listed["Operations"] == ["DescribeKey", "Encrypt"] and listed["GrantId"] == made["GrantId"]
        assert kms.list_grants(KeyId=key_id, GranteePrincipal="uid:5")["Grants"] == []
        kms.revoke_grant(KeyId=key_id, GrantId=made["GrantId"])
        assert code(client.encrypt, KeyId=key_id, Plaintext=b"x") == "NotFoundException"
        assert code(kms.revoke_grant, KeyId=key_id, GrantId=made["GrantId"]) == "NotFoundException"
        assert code(kms.revoke_grant, KeyId=key_id, GrantId="zz") == "InvalidGrantIdException"

    @pytest.mark.parametrize("constraint,fits,misses", [
        ("EncryptionContextEquals", [{"a": "1"}], [{}, {"a": "2"}, {"a": "1", "b": "2"}]),
        ("EncryptionContextSubset", [{"a": "1"}, {"a": "1", "b": "2"}], [{}, {"a": "2"}, {"b": "2"}])])
    def test_constraints(self, kms, key_id, grantee, constraint, fits, misses):
        client, principal = grantee
        kms.create_grant(KeyId=key_id, GranteePrincipal=principal, Operations=["Encrypt", "Decrypt"],
                         Constraints={constraint: {"a": "1"}})
        assert kms.list_grants(KeyId=key_id)["Grants"][0]["Constraints"] == {constraint: {"a": "1"}}
        for context in fits:
            sealed = client.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
            assert client.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == b"x"
        for context in misses:
            assert code(client.encrypt, KeyId=key_id, Plaintext=b"x",
                        EncryptionContext=context) == "AccessDeniedException"

    def test_retiring(self, kmsd, kms, key_id, grantee):
        client, principal = grantee
        retirer = kmsd.access_key("retirer")
        other = kmsd.boto(retirer)
        grants = [kms.create_grant(KeyId=key_id, GranteePrincipal=principal, RetiringPrincipal=retirer[0],
                                   Operations=operations)
                  for operations in (["Encrypt"], ["Decrypt"], ["DescribeKey", "RetireGrant"])]
        listed = other.list_retirable_grants(RetiringPrincipal=retirer[0])["Grants"]
        assert [each["GrantId"] for each in listed] == [each["GrantId"] for each in grants]
        assert code(client.list_retirable_grants, RetiringPrincipal=retirer[0]) == "AccessDeniedException"
        arn = kms.describe_key(KeyId=key_id)["KeyMetadata"]["Arn"]
        assert code(client.retire_grant, KeyId=arn, GrantId=grants[0]["GrantId"]) == "AccessDeniedException"
        other.retire_grant(GrantToken=grants[0]["GrantToken"])
        other.retire_grant(KeyId=arn, GrantId=grants[1]["GrantId"])
        client.retire_grant(KeyId=arn, GrantId=grants[2]["GrantId"])
        assert kms.list_grants(KeyId=key_id)["Grants"] == []
        assert code(kms.retire_grant, GrantToken="x") == "InvalidGrantTokenException"
        assert code(kms.retire_grant, KeyId=arn) == "ValidationException"

    def test_what_is_refused(self, kms, key_id):
        for options, expected in [
                ({"Operations": ["CreateGrant"]}, "ValidationException"),
                ({"Operations": ["Sign"]}, "ValidationException"),
                ({"Operations": ["Encrypt"], "GranteePrincipal": "system"}, "ValidationException"),
                ({"Operations": ["Encrypt"], "DryRun": True}, "UnsupportedOperationException"),
                ({"Operations": ["Encrypt"], "Constraints": {"EncryptionContextEquals": {"a": "x" * 384}}},
                 "ValidationException")]:
            options = {"GranteePrincipal": "uid:5", **options}
            assert code(kms.create_grant, KeyId=key_id, **options) == expected, options
        assert kms.list_grants(KeyId=key_id)["Grants"] == []
        arn = kms.generate_data_key(KeyId="alias/evs/default", KeySpec="AES_256")["KeyId"]
        assert code(kms.create_grant, KeyId=arn, GranteePrincipal="uid:5",
                    Operations=["Encrypt"]) == "AccessDeniedException"

    def test_pages_and_bound(self, kms, key_id):
        made = [kms.create_grant(KeyId=key_id, GranteePrincipal="uid:5", Operations=["Encrypt"])["GrantId"]
                for _ in range(100)]
        assert code(kms.create_grant, KeyId=key_id, GranteePrincipal="uid:5",
                    Operations=["Encrypt"]) == "LimitExceededException"
        pages = kms.get_paginator("list_grants").paginate(KeyId=key_id, PaginationConfig={"PageSize": 30})
        assert [each["GrantId"] for page in pages for each in page["Grants"]] == made
        assert code(kms.list_grants, KeyId=key_id, Marker="none") == "InvalidMarkerException"


class TestPolicies:
    """K7"""

    @staticmethod
    def policy(principal, actions, effect="Allow", **more):
        return json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": effect, "Principal": {"AWS": principal}, "Action": actions, "Resource": "*", **more}]})

    def test_put_get_list(self, kmsd, kms, key_id):
        access_key = kmsd.access_key("user")
        client = kmsd.boto(access_key)
        assert kms.list_key_policies(KeyId=key_id)["PolicyNames"] == ["default"]
        assert "kms:*" in kms.get_key_policy(KeyId=key_id)["Policy"]
        condition = {"StringEquals": {"kms:EncryptionContext:tenant": ["a", "b"]}}
        text = self.policy(access_key[0], ["kms:Encrypt", "kms:Describe*"], Condition=condition)
        kms.put_key_policy(KeyId=key_id, PolicyName="default", Policy=text)
        assert kms.get_key_policy(KeyId=key_id, PolicyName="default")["Policy"] == text
        client.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={"tenant": "b"})
        for context in ({}, {"tenant": "c"}):
            assert code(client.encrypt, KeyId=key_id, Plaintext=b"x",
                        EncryptionContext=context) == "AccessDeniedException"
        assert code(client.put_key_policy, KeyId=key_id, Policy=text) == "AccessDeniedException"
        made = kms.create_key(Policy=self.policy(access_key[0], "kms:*"))["KeyMetadata"]["KeyId"]
        client.schedule_key_deletion(KeyId=made)

    def test_deny(self, kmsd):
        access_key = kmsd.access_key("owner")
        owner = kmsd.boto(access_key)
        key = owner.create_key()["KeyMetadata"]["KeyId"]
        owner.put_key_policy(KeyId=key, Policy=self.policy("*", "kms:*", effect="Deny"))
        assert code(owner.encrypt, KeyId=key, Plaintext=b"x") == "AccessDeniedException"
        owner.put_key_policy(KeyId=key, Policy=self.policy(access_key[0], "kms:*"))
        owner.encrypt(KeyId=key, Plaintext=b"x")

    @pytest.mark.parametrize("text", [
        "{}", "x", '{"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:Encrypt", "NotPrincipal": "x"}]}',
        '{"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:Encrypt", '
        '"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}]}'])
    def test_what_is_not_understood_is_refused(self, kms, key_id, text):
        before = kms.get_key_policy(KeyId=key_id)["Policy"]
        assert code(kms.put_key_policy, KeyId=key_id, Policy=text) == "MalformedPolicyDocumentException"
        assert code(kms.create_key, Policy=text) == "MalformedPolicyDocumentException"
        assert kms.get_key_policy(KeyId=key_id)["Policy"] == before
        assert code(kms.get_key_policy, KeyId=key_id, PolicyName="other") == "ValidationException"


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
# Source: "Key states of AWS KMS keys" in the developer guide: every row for symmetric keys that this service has; ReEncrypt, Decrypt,
# UpdateAlias, DeleteAlias, RetireGrant and RevokeGrant, which need something made before, are tried below.
STATES = [
    ("create_alias", {"AliasName": "alias/state"}, None, "KMSInvalidStateException"),
    ("create_grant", {"GranteePrincipal": "uid:5", "Operations": ["Encrypt"]}, "DisabledException",
     "KMSInvalidStateException"),
    ("list_grants", {}, None, None),
    ("list_aliases", {}, None, None),
    ("get_key_policy", {}, None, None),
    ("list_key_policies", {}, None, None),
    ("put_key_policy", {"Policy": '{"Statement": []}'}, None, None),
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
        named = {"TargetKeyId" if operation == "create_alias" else "KeyId": key}
        if operation == "create_alias":
            parameters = {"AliasName": f"alias/state-{key}"}
        if expected is None:
            call(**named, **parameters)
        else:
            assert code(call, **named, **parameters) == expected, state


@pytest.mark.parametrize("state", ["Enabled", "Disabled", "PendingDeletion"])
def test_k4_what_may_be_taken_away_in_every_state(kms, key_id, state):
    """The rows of UpdateAlias (away from the key), DeleteAlias, RetireGrant and RevokeGrant."""
    key, grants = kms.create_key()["KeyMetadata"], []
    for number in range(2):
        kms.create_alias(AliasName=f"alias/t{number}-{key['KeyId']}", TargetKeyId=key["KeyId"])
        grants.append(kms.create_grant(KeyId=key["KeyId"], GranteePrincipal="uid:5", Operations=["Encrypt"])["GrantId"])
    if state == "Disabled":
        kms.disable_key(KeyId=key["KeyId"])
    elif state == "PendingDeletion":
        kms.schedule_key_deletion(KeyId=key["KeyId"])
    kms.revoke_grant(KeyId=key["KeyId"], GrantId=grants[0])
    kms.retire_grant(KeyId=key["Arn"], GrantId=grants[1])
    kms.delete_alias(AliasName=f"alias/t0-{key['KeyId']}")
    moving = f"alias/t1-{key['KeyId']}"
    kms.update_alias(AliasName=moving, TargetKeyId=key_id)
    if state == "PendingDeletion":
        assert code(kms.update_alias, AliasName=moving, TargetKeyId=key["KeyId"]) == "KMSInvalidStateException"
    else:
        kms.update_alias(AliasName=moving, TargetKeyId=key["KeyId"])


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


# Every operation on one key, and what it is tried with.
ON_ONE_KEY = {
    "describe_key": {}, "enable_key": {}, "disable_key": {}, "schedule_key_deletion": {}, "cancel_key_deletion": {},
    "update_key_description": {"Description": "x"}, "tag_resource": {"Tags": [{"TagKey": "a", "TagValue": "b"}]},
    "untag_resource": {"TagKeys": ["a"]}, "list_resource_tags": {}, "enable_key_rotation": {},
    "disable_key_rotation": {}, "get_key_rotation_status": {}, "rotate_key_on_demand": {}, "list_key_rotations": {},
    "create_grant": {"GranteePrincipal": "uid:5", "Operations": ["DescribeKey"]}, "list_grants": {},
    "revoke_grant": {"GrantId": "00" * 32}, "get_key_policy": {}, "list_key_policies": {},
    "put_key_policy": {"Policy": '{"Statement": []}'}, "encrypt": {"Plaintext": b"x"},
    "generate_data_key": {"KeySpec": "AES_256"}, "generate_data_key_without_plaintext": {"KeySpec": "AES_256"},
    "list_aliases": {},
}
# What `kms:DescribeKey` gives.
DESCRIBING = {"describe_key", "list_resource_tags", "get_key_rotation_status", "list_key_rotations", "list_aliases"}


def test_k7_every_operation_by_a_stranger_and_by_who_may_only_describe(kmsd, kms, key_id):
    """K7: to a stranger the key does not exist, in the same words as one that does not."""
    access_key = kmsd.access_key("describer")
    describer, stranger = kmsd.boto(access_key), kmsd.boto(kmsd.access_key("stranger"))
    kms.create_grant(KeyId=key_id, GranteePrincipal=access_key[0], Operations=["DescribeKey"])
    before = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    for operation, parameters in ON_ONE_KEY.items():
        messages = []
        for key in (key_id, MISSING):
            with pytest.raises(ClientError) as refused:
                getattr(stranger, operation)(KeyId=key, **parameters)
            assert refused.value.response["Error"]["Code"] == "NotFoundException", operation
            messages.append(refused.value.response["Error"]["Message"].replace(key, "-"))
        assert messages[0] == messages[1]
        if operation in DESCRIBING:
            getattr(describer, operation)(KeyId=key_id, **parameters)
        else:
            assert code(getattr(describer, operation), KeyId=key_id, **parameters) == "AccessDeniedException", operation
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"] == before
    assert len(kms.list_grants(KeyId=key_id)["Grants"]) == 1


# What AWS answers in every service, so that no operation of the published model lists it.
COMMON = {
    "AccessDeniedException", "IncompleteSignatureException", "InvalidSignatureException", "MissingAuthenticationTokenException",
    "RequestEntityTooLargeException", "SerializationException", "UnknownOperationException", "UnrecognizedClientException",
    "ValidationException",
}


def test_errors_against_the_published_model(kms):
    """Which errors there are for which operations is published with the SDK: docs/kms-api.md accounts for each, and knows no others."""
    page = (ROOT / "docs/kms-api.md").read_text().split("## AWS KMS")[1]
    operations, errors = page.split("| operation |")[1].split("| error |")
    table = "".join(line for line in errors.splitlines() if line.startswith("|"))
    name = r"`([A-Z][A-Za-z]+Exception)`"
    answered, never = set(re.findall(name, table)), set(re.findall(name, errors)) - set(re.findall(name, table))
    model = kms.meta.service_model
    served = [each for each in re.findall(r"`([A-Z][A-Za-z]+)`", operations) if each in model.operation_names]
    published = {shape.name for each in served for shape in model.operation_model(each).error_shapes}
    assert len(served) > 30
    assert answered - COMMON <= {shape.name for shape in model.error_shapes}
    assert published - answered == never
