"""The native API, with the Huawei Cloud SDK as it is: one test for each verb and each documented error."""

import base64
import hashlib
import inspect
import os
import re
import time
import uuid

import huaweicloudsdkkms.v2 as sdk
import pytest
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException

from conftest import ROOT

MISSING = "0d0466b0-e727-4d9c-b35d-f84bb474a37f"
ENABLED, DISABLED, PENDING_DELETION = "2", "3", "4"


def call(client, method, **body):
    """A method of the SDK, with the request and body types that belong to it."""
    documented = inspect.getdoc(getattr(client, method))
    name = documented.split(":class:`huaweicloudsdkkms.v2.")[1].split("`")[0]
    request = getattr(sdk, name)()
    if "body" in request.openapi_types:
        request.body = getattr(sdk, request.openapi_types["body"])(**body)
    return getattr(client, method)(request)


def code(client, method, status=400, **body):
    """The error code of a call that has to be refused."""
    with pytest.raises(ClientRequestException) as refused:
        call(client, method, **body)
    assert refused.value.error_msg and refused.value.request_id
    assert refused.value.status_code == status, refused.value
    return refused.value.error_code


def fresh():
    return f"k-{uuid.uuid4()}"


@pytest.fixture
def key(huawei):
    """A new key's id."""
    return call(huawei, "create_key", key_alias=fresh()).key_info.key_id


def state(client, key):
    return call(client, "list_key_detail", key_id=key).key_info.key_state


class TestKeys:
    def test_create_and_describe(self, huawei):
        alias = fresh()
        made = call(huawei, "create_key", key_alias=alias, key_description="orders", key_spec="AES_256",
                    key_usage="ENCRYPT_DECRYPT", origin="kms").key_info
        assert made.domain_id
        info = call(huawei, "list_key_detail", key_id=made.key_id).key_info
        assert (info.key_id, info.key_alias, info.key_description) == (made.key_id, alias, "orders")
        assert (info.key_state, info.default_key_flag, info.origin) == (ENABLED, "0", "kms")
        assert (info.key_spec, info.key_usage) == ("AES_256", "ENCRYPT_DECRYPT")
        assert abs(int(info.creation_date) / 1000 - time.time()) < 60
        assert info.scheduled_deletion_date == ""
        assert call(huawei, "list_key_detail", key_id=f"alias/{alias}").key_info == info

    def test_an_alias_is_taken_once(self, huawei):
        alias = fresh()
        call(huawei, "create_key", key_alias=alias)
        assert code(huawei, "create_key", key_alias=alias) == "KMS.1104"

    @pytest.mark.parametrize("alias", ["mine/default", "", "a b", "a\n", "x" * 256])
    def test_aliases_that_are_refused(self, huawei, alias):
        """K3 among them"""
        assert code(huawei, "create_key", key_alias=alias) == "KMS.1101"

    def test_description_too_long(self, huawei):
        assert code(huawei, "create_key", key_alias=fresh(), key_description="x" * 256) == "KMS.1103"

    @pytest.mark.parametrize("options", [{"key_spec": "RSA_2048"}, {"key_usage": "SIGN_VERIFY"}])
    def test_what_is_not_supported_is_refused(self, huawei, options):
        assert code(huawei, "create_key", key_alias=fresh(), **options) == "KMS.0308"

    def test_no_such_key(self, huawei):
        assert code(huawei, "list_key_detail", 404, key_id=MISSING) == "KMS.0207"

    def test_list_keys_in_pages(self, kmsd):
        client = kmsd.huawei(kmsd.access_key("lister"))
        made = [call(client, "create_key", key_alias=fresh()).key_info.key_id for _ in range(5)]
        listed, marker = [], None
        while marker != "":
            page = call(client, "list_keys", limit="2", marker=marker)
            assert len(page.keys) <= 2 and [each.key_id for each in page.key_details] == page.keys
            assert page.truncated == ("true" if page.next_marker else "false")
            listed += page.keys
            marker = page.next_marker
        assert [each for each in listed if each in made] == made
        call(client, "disable_key", key_id=made[0])
        assert call(client, "list_keys", key_state=DISABLED).keys == [made[0]]
        assert code(client, "list_keys", limit="0") == "KMS.0308"

    def test_disable_and_enable(self, huawei, key):
        assert code(huawei, "enable_key", key_id=key) == "KMS.1201"
        assert call(huawei, "disable_key", key_id=key).key_info.key_state == DISABLED
        assert code(huawei, "disable_key", key_id=key) == "KMS.1301"
        assert call(huawei, "enable_key", key_id=key).key_info.key_state == ENABLED

    def test_schedule_and_cancel_deletion(self, huawei, key):
        """K4: it comes back disabled."""
        assert code(huawei, "cancel_key_deletion", key_id=key) == "KMS.1501"
        assert call(huawei, "delete_key", key_id=key, pending_days="7").key_state == PENDING_DELETION
        info = call(huawei, "list_key_detail", key_id=key).key_info
        assert abs(int(info.scheduled_deletion_date) / 1000 - time.time() - 7 * 86400) < 60
        assert code(huawei, "delete_key", key_id=key, pending_days="7") == "KMS.1402"
        assert call(huawei, "cancel_key_deletion", key_id=key).key_state == DISABLED

    @pytest.mark.parametrize("days", ["6", "1097", "x", "-7", ""])
    def test_the_deletion_period(self, huawei, key, days):
        assert code(huawei, "delete_key", key_id=key, pending_days=days) == "KMS.1401"
        assert state(huawei, key) == ENABLED

    def test_the_longest_deletion_period(self, huawei, key):
        assert call(huawei, "delete_key", key_id=key, pending_days="1096").key_state == PENDING_DELETION

    def test_default_keys_are_only_used_and_viewed(self, huawei):
        """K3"""
        call(huawei, "create_datakey", key_id="evs/default")
        info = call(huawei, "list_key_detail", key_id="alias/evs/default").key_info
        assert info.default_key_flag == "1"
        for method, more in [("disable_key", {}), ("delete_key", {"pending_days": "7"})]:
            assert code(huawei, method, key_id=info.key_id, **more) == "KMS.0211"

    def test_a_stranger_is_not_told_of_a_key(self, kmsd, key):
        """K7"""
        stranger = kmsd.huawei(kmsd.access_key("stranger"))
        for method in ("list_key_detail", "disable_key", "create_datakey"):
            assert code(stranger, method, 404, key_id=key) == "KMS.0207"

    def test_bodies_that_do_not_fit(self, huawei):
        assert code(huawei, "create_key", key_alias=5) == "KMS.0202"
        assert code(huawei, "delete_key", key_id=fresh()) == "KMS.0202"
        assert code(huawei, "list_key_detail", key_id="") == "KMS.0204"

    def test_verbs_that_do_not_exist(self, huawei, key):
        assert code(huawei, "create_pin", 404) == "KMS.0201"


class TestRotation:
    """K5"""

    def test_on_demand(self, huawei, key):
        made = [call(huawei, "create_datakey", key_id=key)]
        for _ in range(2):
            assert call(huawei, "rotate_on_demand", key_id=key).key_id == key
            made.append(call(huawei, "create_datakey", key_id=key))
        for each in made:
            assert call(huawei, "decrypt_datakey", cipher_text=each.cipher_text).data_key == each.plain_text
        status = call(huawei, "show_key_rotation_status", key_id=key)
        assert (status.key_rotation_enabled, status.number_of_rotations) == (False, 2)
        assert abs(int(status.last_rotation_time) / 1000 - time.time()) < 60

    def test_on_demand_is_bounded(self, huawei, key):
        for _ in range(25):
            call(huawei, "rotate_on_demand", key_id=key)
        assert code(huawei, "rotate_on_demand", key_id=key) == "KMSD.0006"
        assert call(huawei, "show_key_rotation_status", key_id=key).number_of_rotations == 25

    def test_by_interval(self, huawei, key):
        status = call(huawei, "show_key_rotation_status", key_id=key)
        assert (status.key_rotation_enabled, status.rotation_interval, status.number_of_rotations) == (False, 365, 0)
        assert status.last_rotation_time == ""
        assert code(huawei, "disable_key_rotation", key_id=key) == "KMS.0313"
        assert code(huawei, "update_key_rotation_interval", key_id=key, rotation_interval=30) == "KMS.0313"
        call(huawei, "enable_key_rotation", key_id=key)
        assert code(huawei, "enable_key_rotation", key_id=key) == "KMS.2901"
        assert call(huawei, "list_key_detail", key_id=key).key_info.key_rotation_enabled == "true"
        for days in (30, 365):
            call(huawei, "update_key_rotation_interval", key_id=key, rotation_interval=days)
            status = call(huawei, "show_key_rotation_status", key_id=key)
            assert (status.key_rotation_enabled, status.rotation_interval) == (True, days)
        for days in (0, 29, 366):
            assert code(huawei, "update_key_rotation_interval", key_id=key, rotation_interval=days) == "KMS.3001"
        call(huawei, "disable_key_rotation", key_id=key)
        assert not call(huawei, "show_key_rotation_status", key_id=key).key_rotation_enabled

    @pytest.mark.parametrize("method", ["enable_key_rotation", "disable_key_rotation", "rotate_on_demand"])
    def test_a_key_out_of_service_is_not_rotated(self, huawei, key, method):
        """K4"""
        call(huawei, "disable_key", key_id=key)
        assert code(huawei, method, key_id=key) == "KMS.0209"
        call(huawei, "delete_key", key_id=key, pending_days="7")
        assert code(huawei, method, key_id=key) == "KMS.0210"
        assert call(huawei, "show_key_rotation_status", key_id=key).number_of_rotations == 0

    def test_default_keys_are_not_rotated(self, huawei):
        """K3"""
        key = call(huawei, "create_datakey", key_id="evs/default").key_id
        for method in ("enable_key_rotation", "rotate_on_demand"):
            assert code(huawei, method, key_id=key) == "KMS.0211"


class TestNames:
    def test_rename(self, huawei, key):
        alias = fresh()
        changed = call(huawei, "update_key_alias", key_id=key, key_alias=alias).key_info
        assert (changed.key_id, changed.key_alias) == (key, alias)
        assert call(huawei, "list_key_detail", key_id=f"alias/{alias}").key_info.key_id == key
        other = fresh()
        call(huawei, "create_key", key_alias=other)
        assert code(huawei, "update_key_alias", key_id=key, key_alias=other) == "KMS.1104"
        for refused in ("mine/default", "", "a b"):
            assert code(huawei, "update_key_alias", key_id=key, key_alias=refused) == "KMS.1101"
        default = call(huawei, "create_datakey", key_id="evs/default").key_id
        assert code(huawei, "update_key_alias", key_id=default, key_alias=fresh()) == "KMS.0211"

    def test_aliases(self, huawei, key):
        own = call(huawei, "list_key_detail", key_id=key).key_info.key_alias
        alias, target = fresh(), call(huawei, "create_key", key_alias=fresh()).key_info.key_id
        made = call(huawei, "create_alias", key_id=key, alias=f"alias/{alias}")
        assert (made.key_id, made.alias) == (key, f"alias/{alias}") and made.alias_urn.endswith(f":alias:{alias}")
        assert call(huawei, "list_key_detail", key_id=alias).key_info.key_id == key
        assert code(huawei, "create_alias", key_id=key, alias=alias) == "KMS.1104"

        def names(of):
            page, = huawei.list_aliases(sdk.ListAliasesRequest(key_id=of)).body
            assert page.page_info.current_count == len(page.aliases)
            return [each.alias for each in page.aliases]

        assert names(key) == sorted([f"alias/{own}", f"alias/{alias}"])
        first, = huawei.list_aliases(sdk.ListAliasesRequest(key_id=key, limit="1")).body
        rest, = huawei.list_aliases(sdk.ListAliasesRequest(key_id=key, limit="1", marker=first.page_info.next_marker)).body
        assert [first.aliases[0].alias, rest.aliases[0].alias] == names(key) and rest.page_info.next_marker is None
        moved = call(huawei, "associate_alias", alias=alias, target_key_id=target)
        assert moved.key_id == target and f"alias/{alias}" in names(target)
        assert code(huawei, "associate_alias", 404, alias=fresh(), target_key_id=target) == "KMSD.0008"
        assert code(huawei, "associate_alias", alias=own, target_key_id=target) == "KMSD.0009"
        assert code(huawei, "delete_alias", 404, key_id=key, aliases=[f"alias/{alias}"]) == "KMSD.0008"
        call(huawei, "delete_alias", key_id=target, aliases=[f"alias/{alias}"])
        assert f"alias/{alias}" not in names(target)

    def test_aliases_are_bounded(self, huawei, key):
        for number in range(50):
            call(huawei, "create_alias", key_id=key, alias=f"b{number}-{key}x")
        assert code(huawei, "create_alias", key_id=key, alias=fresh()) == "KMSD.0010"
        call(huawei, "delete_alias", key_id=key)
        call(huawei, "create_alias", key_id=key, alias=fresh())


class TestGrants:
    """K7"""

    def test_a_grant_gives_what_it_lists(self, kmsd, huawei, key):
        access_key = kmsd.access_key("grantee")
        grantee = kmsd.huawei(access_key)
        made = call(huawei, "create_datakey", key_id=key)
        assert code(grantee, "decrypt_datakey", 404, cipher_text=made.cipher_text) == "KMS.0207"
        grant = call(huawei, "create_grant", key_id=key, grantee_principal=access_key[0],
                     operations=["decrypt-datakey", "describe-key"], name="backup", grantee_principal_type="user").grant_id
        assert call(grantee, "decrypt_datakey", cipher_text=made.cipher_text).data_key == made.plain_text
        listed = call(grantee, "list_keys").key_details
        assert [each.key_id for each in listed if each.default_key_flag == "0"] == [key]
        for method, more in [("create_datakey", {}), ("disable_key", {}), ("list_grants", {})]:
            assert code(grantee, method, 403, key_id=key, **more) == "KMS.0307"
        listed = call(huawei, "list_grants", key_id=key)
        assert (listed.total, listed.truncated, listed.next_marker) == (1, "false", "")
        shown = listed.grants[0]
        assert (shown.grant_id, shown.key_id, shown.name) == (grant, key, "backup") and len(grant) == 64
        assert shown.grantee_principal == f"key:{access_key[0]}"
        assert shown.operations == ["describe-key", "decrypt-datakey"]
        assert abs(int(shown.creation_date) / 1000 - time.time()) < 60
        call(huawei, "cancel_grant", key_id=key, grant_id=grant)
        assert code(grantee, "decrypt_datakey", 404, cipher_text=made.cipher_text) == "KMS.0207"
        assert code(huawei, "cancel_grant", key_id=key, grant_id=grant) == "KMS.2502"
        assert code(huawei, "cancel_grant", key_id=key, grant_id="x") == "KMS.2501"

    def test_retiring(self, kmsd, huawei, key):
        holder, retirer = kmsd.access_key("holder"), kmsd.access_key("retirer")
        grants = [call(huawei, "create_grant", key_id=key, grantee_principal=holder[0], operations=operations,
                       retiring_principal=retirer[0]).grant_id
                  for operations in (["encrypt-data"], ["retire-grant", "describe-key"])]
        listed = call(kmsd.huawei(retirer), "list_retirable_grants", limit="1")
        assert [each.grant_id for each in listed.grants] == grants[:1] and listed.total == 2
        rest = call(kmsd.huawei(retirer), "list_retirable_grants", limit="1", marker=listed.next_marker)
        assert [each.grant_id for each in rest.grants] == grants[1:] and rest.truncated == "false"
        assert code(kmsd.huawei(holder), "cancel_self_grant", 403, key_id=key, grant_id=grants[0]) == "KMS.0307"
        call(kmsd.huawei(holder), "cancel_self_grant", key_id=key, grant_id=grants[1])
        call(kmsd.huawei(retirer), "cancel_self_grant", key_id=key, grant_id=grants[0])
        assert call(huawei, "list_grants", key_id=key).total == 0

    @pytest.mark.parametrize("options,expected", [
        ({"operations": ["create-grant"]}, "KMS.2401"), ({"operations": []}, "KMS.2401"),
        ({"operations": ["disable-key"]}, "KMS.0308"), ({"operations": ["x"]}, "KMS.0308"),
        ({"grantee_principal": "a b"}, "KMS.2402"), ({"grantee_principal_type": "domain"}, "KMS.0308"),
        ({"name": "a b"}, "KMS.0308")])
    def test_what_is_refused(self, huawei, key, options, expected):
        body = {"grantee_principal": "uid:5", "operations": ["describe-key"], **options}
        assert code(huawei, "create_grant", key_id=key, **body) == expected
        assert call(huawei, "list_grants", key_id=key).grants == []

    def test_passed_on_no_wider(self, kmsd, huawei, key):
        holder = kmsd.access_key("delegate")
        call(huawei, "create_grant", key_id=key, grantee_principal=holder[0], operations=["create-grant", "encrypt-data"])
        client = kmsd.huawei(holder)
        call(client, "create_grant", key_id=key, grantee_principal="uid:5", operations=["encrypt-data"])
        assert code(client, "create_grant", 403, key_id=key, grantee_principal="uid:5",
                    operations=["decrypt-data"]) == "KMS.0307"

    def test_states_default_keys_and_bound(self, huawei, key):
        """K3, K4"""
        grant = {"grantee_principal": "uid:5", "operations": ["describe-key"]}
        made = [call(huawei, "create_grant", key_id=key, **grant).grant_id for _ in range(100)]
        assert code(huawei, "create_grant", key_id=key, **grant) == "KMS.2404"
        quotas = {each.type: each for each in huawei.show_user_quotas(sdk.ShowUserQuotasRequest()).quotas.resources}
        assert (quotas["grant_per_CMK"].used, quotas["grant_per_CMK"].quota) == (100, 100)
        assert 0 < quotas["CMK"].used <= quotas["CMK"].quota
        call(huawei, "disable_key", key_id=key)
        assert code(huawei, "create_grant", key_id=key, **grant) == "KMS.0209"
        call(huawei, "cancel_grant", key_id=key, grant_id=made[0])
        call(huawei, "delete_key", key_id=key, pending_days="7")
        assert code(huawei, "create_grant", key_id=key, **grant) == "KMS.0210"
        call(huawei, "cancel_grant", key_id=key, grant_id=made[1])
        default = call(huawei, "create_datakey", key_id="evs/default").key_id
        assert code(huawei, "create_grant", key_id=default, **grant) == "KMS.0211"


class TestThePage:
    TABLE = (ROOT / "docs/kms-api.md").read_text().split("### The SDK's methods")[1].split("\n## ")[0]

    def test_every_method_of_the_sdk_is_on_the_page(self):
        methods = {name for name, _ in inspect.getmembers(sdk.KmsClient, inspect.isfunction)
                   if "request" in inspect.signature(getattr(sdk.KmsClient, name)).parameters}
        methods = {name for name in methods if not name.startswith("_") and not name.endswith("_invoker")}
        assert len(methods) > 60
        named = re.findall(r"`([a-z_]+)`", self.TABLE)
        assert sorted(set(named) - {"huaweicloudsdkkms"}) == sorted(methods)

    @pytest.mark.parametrize("method", ["sign", "validate_signature", "show_public_key", "create_rsa_datakey_pair",
                                        "create_ec_datakey_pair", "derive_shared_secret", "generate_mac", "verify_mac",
                                        "create_pin"])
    def test_what_is_not_served_says_so(self, huawei, method):
        assert f"`{method}`" in self.TABLE
        assert code(huawei, method, 404) == "KMS.0201"


class TestVersions:
    def test_all_and_one(self, huawei):
        version, = huawei.show_versions(sdk.ShowVersionsRequest()).versions
        assert (version.id, version.status) == ("v1.0", "CURRENT") and version.links[0].rel == "self"
        assert huawei.show_version(sdk.ShowVersionRequest(version_id="v1.0")).version["id"] == "v1.0"
        with pytest.raises(ClientRequestException) as refused:
            huawei.show_version(sdk.ShowVersionRequest(version_id="v9"))
        assert refused.value.status_code == 404


class TestDetails:
    def test_description(self, huawei, key):
        changed = call(huawei, "update_key_description", key_id=key, key_description="orders").key_info
        assert (changed.key_id, changed.key_description) == (key, "orders")
        assert call(huawei, "list_key_detail", key_id=key).key_info.key_description == "orders"
        assert code(huawei, "update_key_description", key_id=key, key_description="x" * 256) == "KMS.1103"

    def test_tags(self, huawei, key):
        tag = sdk.TagItem
        add = sdk.CreateKmsTagRequest(key, sdk.CreateKmsTagRequestBody(tag=tag("team", "a")))
        huawei.create_kms_tag(add)
        batch = [tag("env", "prod"), tag("a b/c", "ü"), tag("team", "b")]
        huawei.batch_create_kms_tags(
            sdk.BatchCreateKmsTagsRequest(key, sdk.BatchCreateKmsTagsRequestBody(tags=batch, action="create")))
        shown = huawei.show_kms_tags(sdk.ShowKmsTagsRequest(key))
        assert {each.key: each.value for each in shown.tags} == {"team": "b", "env": "prod", "a b/c": "ü"}
        assert shown.exist_tags_num == 3
        huawei.delete_tag(sdk.DeleteTagRequest(key, "env"))
        huawei.batch_create_kms_tags(
            sdk.BatchCreateKmsTagsRequest(key, sdk.BatchCreateKmsTagsRequestBody(tags=[tag("a b/c")], action="delete")))
        assert [each.key for each in huawei.show_kms_tags(sdk.ShowKmsTagsRequest(key)).tags] == ["team"]

    def test_tags_that_are_refused(self, huawei, key):
        for name, value in (("", "x"), ("x" * 129, ""), ("a", "x" * 257)):
            with pytest.raises(ClientRequestException) as refused:
                huawei.create_kms_tag(sdk.CreateKmsTagRequest(
                    key, sdk.CreateKmsTagRequestBody(tag=sdk.TagItem(name, value))))
            assert refused.value.error_code == "KMS.0308"
        assert huawei.show_kms_tags(sdk.ShowKmsTagsRequest(key)).tags == []

    def test_questions_about_all_keys(self, kmsd):
        client = kmsd.huawei(kmsd.access_key("asker"))
        assert client.show_user_instances(sdk.ShowUserInstancesRequest()).instance_num == 0
        made = {}
        for env in ("prod", "test", "prod"):
            key = call(client, "create_key", key_alias=fresh()).key_info.key_id
            client.create_kms_tag(sdk.CreateKmsTagRequest(
                key, sdk.CreateKmsTagRequestBody(tag=sdk.TagItem("env", env))))
            made.setdefault(env, []).append(key)
        assert client.show_user_instances(sdk.ShowUserInstancesRequest()).instance_num == 3
        tags = client.list_kms_tags(sdk.ListKmsTagsRequest()).tags
        assert [(each.key, each.values) for each in tags] == [("env", ["prod", "test"])]

        def find(**body):
            return client.list_kms_by_tags(sdk.ListKmsByTagsRequest(
                "resource_instances", sdk.ListKmsByTagsRequestBody(**body)))

        found = find(action="filter", tags=[sdk.Tag("env", ["prod"])])
        assert found.total_count == 2 and [each.resource_id for each in found.resources] == made["prod"]
        assert find(action="filter", tags=[sdk.Tag("env", ["prod"])], limit="1", offset="1").resources[0].resource_id \
            == made["prod"][1]
        assert find(action="count", tags=[sdk.Tag("env", ["test", "prod"])]).total_count == 3
        assert find(action="count", tags=[sdk.Tag("none", [])]).total_count == 0


class TestDatakeys:
    @pytest.mark.parametrize("options,length", [({}, 32), ({"key_spec": "AES_128"}, 16), ({"datakey_length": "512"}, 64),
                                                ({"datakey_length": "8192"}, 1024), ({"datakey_length": "8"}, 1)])
    def test_create_and_decrypt(self, huawei, key, options, length):
        made = call(huawei, "create_datakey", key_id=key, additional_authenticated_data="volume 1", **options)
        datakey = bytes.fromhex(made.plain_text)
        assert made.key_id == key and len(datakey) == length
        opened = call(huawei, "decrypt_datakey", cipher_text=made.cipher_text, datakey_cipher_length=str(length),
                      additional_authenticated_data="volume 1")
        assert opened.data_key == made.plain_text and opened.datakey_length == str(length)
        assert opened.datakey_dgst == hashlib.sha256(datakey).hexdigest()

    def test_create_without_plaintext(self, huawei, key):
        made = call(huawei, "create_datakey_without_plaintext", key_id=key)
        assert "plain_text" not in made.to_json_object()
        assert len(call(huawei, "decrypt_datakey", cipher_text=made.cipher_text).data_key) == 64

    @pytest.mark.parametrize("bits", ["0", "7", "8200", "x"])
    def test_lengths(self, huawei, key, bits):
        assert code(huawei, "create_datakey", key_id=key, datakey_length=bits) == "KMS.1901"

    def test_the_context_has_to_be_the_same(self, huawei, key):
        """K2"""
        made = call(huawei, "create_datakey", key_id=key, additional_authenticated_data="volume 1")
        for other in ("volume 2", None):
            assert code(huawei, "decrypt_datakey", cipher_text=made.cipher_text,
                        additional_authenticated_data=other) == "KMS.2201"

    def test_a_changed_wrapped_form_does_not_open(self, huawei, key):
        wrapped = call(huawei, "create_datakey", key_id=key).cipher_text
        changed = wrapped[:-1] + ("0" if wrapped[-1] != "0" else "1")
        assert code(huawei, "decrypt_datakey", cipher_text=changed) == "KMS.2201"
        assert code(huawei, "decrypt_datakey", cipher_text="00ff") == "KMS.2201"
        assert code(huawei, "decrypt_datakey", cipher_text="zz") == "KMS.0308"

    def test_encrypt(self, huawei, key):
        datakey = os.urandom(32)
        plain = (datakey + hashlib.sha256(datakey).digest()).hex()
        wrapped = call(huawei, "encrypt_datakey", key_id=key, plain_text=plain, datakey_plain_length="32")
        assert wrapped.key_id == key and wrapped.datakey_length == "32"
        assert call(huawei, "decrypt_datakey", cipher_text=wrapped.cipher_text).data_key == datakey.hex()

    @pytest.mark.parametrize("plain,length", [("00" * 64, "32"), ("00" * 8, "8"), ("zz", "1"), (None, "31")])
    def test_encrypt_what_is_not_a_datakey(self, huawei, key, plain, length):
        plain = plain or (bytes(32) + hashlib.sha256(bytes(32)).digest()).hex()
        refused = code(huawei, "encrypt_datakey", key_id=key, plain_text=plain, datakey_plain_length=length)
        assert refused == "KMS.0308"


class TestData:
    def test_encrypt_and_decrypt(self, huawei, key):
        for text in ("x", "grüße", "x" * 4096):
            sealed = call(huawei, "encrypt_data", key_id=key, plain_text=text, additional_authenticated_data="a")
            opened = call(huawei, "decrypt_data", cipher_text=sealed.cipher_text, additional_authenticated_data="a")
            assert (opened.key_id, opened.plain_text) == (key, text)
            assert base64.b64decode(opened.plain_text_base64).decode() == text
        assert code(huawei, "decrypt_data", cipher_text=sealed.cipher_text) == "KMS.2201"

    @pytest.mark.parametrize("text", ["", "x" * 4097])
    def test_lengths(self, huawei, key, text):
        assert code(huawei, "encrypt_data", key_id=key, plain_text=text) == "KMS.0308"

    def test_re_encrypt(self, huawei, key):
        """K5"""
        other = call(huawei, "create_key", key_alias=fresh()).key_info.key_id
        sealed = call(huawei, "encrypt_data", key_id=key, plain_text="x", additional_authenticated_data="1")
        moved = call(huawei, "re_encrypt", source_key_id=key, source_additional_authenticated_data="1",
                     destination_key_id=other, destination_additional_authenticated_data="2",
                     cipher_text=sealed.cipher_text)
        assert (moved.source_key_id, moved.key_id) == (key, other)
        opened = call(huawei, "decrypt_data", cipher_text=moved.cipher_text, additional_authenticated_data="2")
        assert (opened.key_id, opened.plain_text) == (other, "x")
        made = call(huawei, "create_datakey", key_id=key)
        moved = call(huawei, "re_encrypt", destination_key_id=other, cipher_text=made.cipher_text)
        assert call(huawei, "decrypt_datakey", cipher_text=moved.cipher_text).data_key == made.plain_text

    def test_gen_random(self, huawei):
        assert len(call(huawei, "create_random").random_data) == 128
        drawn = [call(huawei, "create_random", random_data_length="256").random_data for _ in range(2)]
        assert [len(each) for each in drawn] == [64, 64] and drawn[0] != drawn[1]
        for bits in ("0", "12", "8200", "x"):
            assert code(huawei, "create_random", random_data_length=bits) == "KMS.0308"


# Method, and what it says of a disabled key and of one that waits for its deletion.
STATES = [
    ("create_datakey", {}), ("create_datakey_without_plaintext", {}), ("encrypt_data", {"plain_text": "x"}),
    ("encrypt_datakey", {"plain_text": (bytes(32) + hashlib.sha256(bytes(32)).digest()).hex()}),
]


@pytest.mark.parametrize("method,more", STATES, ids=[row[0] for row in STATES])
def test_k4_a_key_out_of_service_is_not_used(huawei, key, method, more):
    call(huawei, "disable_key", key_id=key)
    assert code(huawei, method, key_id=key, **more) == "KMS.0209"
    call(huawei, "delete_key", key_id=key, pending_days="7")
    assert code(huawei, method, key_id=key, **more) == "KMS.0210"


def test_k4_what_was_wrapped_does_not_open_then(huawei, key):
    made = call(huawei, "create_datakey", key_id=key)
    sealed = call(huawei, "encrypt_data", key_id=key, plain_text="x")
    for change, more, expected in [("disable_key", {}, "KMS.0209"), ("delete_key", {"pending_days": "7"}, "KMS.0210")]:
        call(huawei, change, key_id=key, **more)
        assert code(huawei, "decrypt_datakey", cipher_text=made.cipher_text) == expected
        assert code(huawei, "decrypt_data", cipher_text=sealed.cipher_text) == expected


def test_a_policy_that_is_none(kmsd, key):
    """Key policies have no verb here; on the socket they have."""
    for text in ("{}", "x", '{"Statement": [{"Effect": "Perhaps", "Principal": "*", "Action": "kms:*"}]}'):
        status, answer = kmsd.local("PUT", f"/kmsd/v1/keys/{key}/policy", {"policy": text})
        assert (status, answer["error"]["error_code"]) == (400, "KMSD.0007"), text


def test_what_has_no_method(kmsd, key):
    """The older form of the context, volume anchors and access keys, on the socket."""
    def refused(method, path, body=None):
        status, answer = kmsd.local(method, path, body)
        return status, answer["error"]["error_code"]

    context = {"c": "x" * 8192}
    assert refused("POST", "/v1.0/p/kms/create-datakey", {"key_id": key, "encryption_context": context}) == (400, "KMS.0208")
    volume = f"/kmsd/v1/anchors/{uuid.uuid4()}"
    mac = "00" * 32
    assert kmsd.local("POST", volume, {"generation": 2, "chain_mac": mac})[0] == 200
    assert refused("POST", volume, {"generation": 1, "chain_mac": mac}) == (409, "KMSD.0001")
    accepted = {"generation": 1, "chain_mac": mac, "reason": "a test"}
    assert kmsd.local("POST", f"{volume}/accept-rollback", accepted)[0] == 200
    assert kmsd.local("GET", volume)[1]["anchor"]["generation"] == 1
    holder = {"host": "a", "boot": "a1", "machine": "a", "process": 1, "device": 2, "inode": 3}
    take = {"session": str(uuid.uuid4()), "holder": holder}
    status, taken = kmsd.local("POST", f"{volume}/lease", take)
    assert (status, taken["seconds"], taken["anchor"]["generation"]) == (200, 45, 1)
    other = {"session": str(uuid.uuid4()), "holder": {**holder, "boot": "b1", "machine": "b"}}
    assert refused("POST", f"{volume}/lease", other) == (409, "KMSD.0013")
    assert refused("POST", volume, {"generation": 2, "chain_mac": mac}) == (409, "KMSD.0013")
    other["holder"]["machine"] = "a"
    assert refused("POST", f"{volume}/lease", other) == (409, "KMSD.0015")
    renew = {"lease": taken["lease"], "holder": holder}
    assert kmsd.local("POST", f"{volume}/lease/renew", renew)[0] == 200
    # The same file under the same kernel: that one is gone.
    other["holder"] = {**holder, "process": 2}
    status, taken = kmsd.local("POST", f"{volume}/lease", other)
    assert status == 200
    assert refused("POST", f"{volume}/lease/renew", renew) == (409, "KMSD.0014")
    assert kmsd.local("POST", f"{volume}/lease/release", {"lease": taken["lease"]})[0] == 200
    assert kmsd.local("DELETE", volume)[0] == 200
    assert refused("DELETE", volume) == (404, "KMSD.0011")
    assert refused("DELETE", "/kmsd/v1/access-keys/AAAAAAAAAAAAAAAAAAAA") == (404, "KMSD.0002")
