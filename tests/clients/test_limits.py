"""What the public clients are told when the service has no room, or its token is away."""

import time

import huaweicloudsdkkms.v2 as sdk
import pytest
from botocore.exceptions import ClientError
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException, ServerResponseException

MAX_KEYS = 3
# Of one principal that is no administrator.
MAX_KEYS_EACH = 1


@pytest.fixture(scope="module", autouse=True)
def few_keys(kmsd):
    """The same installation with room for few keys."""
    kmsd.stop()
    kmsd.set_limit("max_keys", MAX_KEYS)
    kmsd.set_limit("max_keys_each", MAX_KEYS_EACH)
    kmsd.start()


def create(huawei, alias):
    body = sdk.CreateKeyRequestBody(key_alias=alias)
    return huawei.create_key(sdk.CreateKeyRequest(body=body)).key_info.key_id


def test_as_many_keys_as_one_may_have(kmsd):
    own = kmsd.access_key("own")
    mine = kmsd.huawei(own)
    create(mine, "own")
    with pytest.raises(ClientRequestException) as refused:
        create(mine, "another")
    assert (refused.value.status_code, refused.value.error_code) == (400, "KMS.1105")
    with pytest.raises(ClientError) as refused:
        kmsd.boto(own).create_key()
    assert refused.value.response["Error"]["Code"] == "LimitExceededException"
    quotas = mine.show_user_quotas(sdk.ShowUserQuotasRequest()).quotas.resources
    assert [(each.used, each.quota) for each in quotas if each.type == "CMK"] == [(MAX_KEYS_EACH, MAX_KEYS_EACH)]


def test_as_many_keys_as_there_may_be(kmsd, kms, huawei):
    for number in range(MAX_KEYS - MAX_KEYS_EACH):
        create(huawei, f"k{number}")
    with pytest.raises(ClientRequestException) as refused:
        create(huawei, "more")
    assert (refused.value.status_code, refused.value.error_code) == (400, "KMS.1105")
    with pytest.raises(ClientError) as refused:
        kms.create_key()
    assert refused.value.response["Error"]["Code"] == "LimitExceededException"
    quotas = huawei.show_user_quotas(sdk.ShowUserQuotasRequest()).quotas.resources
    assert [(each.used, each.quota) for each in quotas if each.type == "CMK"] == [(MAX_KEYS, MAX_KEYS)]
    # Default keys are outside the bound.
    kms.generate_data_key(KeyId="alias/evs/default", KeySpec="AES_256")
    status, health = kmsd.local("GET", "/kmsd/v1/health")
    assert status == 200 and health["store"]["keys"] == MAX_KEYS + 1


def test_a_token_that_is_away(kmsd, kms, huawei):
    """Requests that need it are refused as ones to try again; when it is back, so is the service, without a restart."""
    def use(client):
        body = sdk.CreateDatakeyRequestBody(key_id="evs/default")
        return client.create_datakey(sdk.CreateDatakeyRequest(body=body))

    use(huawei)
    tokens, away = kmsd.dir / "token/tokens", kmsd.dir / "away"
    tokens.rename(away)
    tokens.mkdir()
    try:
        with pytest.raises(ServerResponseException) as refused:
            # Generating writes to the token's directory; what is in memory already may go on for a moment.
            for _ in range(20):
                huawei.rotate_on_demand(sdk.RotateOnDemandRequest(body=sdk.RotateOnDemandRequestBody(key_id="alias/k0")))
        assert (refused.value.status_code, refused.value.error_code) == (503, "KMS.0104")
        with pytest.raises(ClientError) as refused:
            kms.generate_data_key(KeyId="alias/evs/default", KeySpec="AES_256")
        assert refused.value.response["Error"]["Code"] == "KeyUnavailableException"
        # State changes need no token.
        kms.disable_key(KeyId=kms.describe_key(KeyId="alias/k1")["KeyMetadata"]["KeyId"])
    finally:
        tokens.rmdir()
        away.rename(tokens)
    ends = time.monotonic() + 30

    def again(work):
        """As a client does with what it is told to try again: the token may not be seen to be back yet, or what was cut short is being cleared away."""
        while True:
            try:
                return work()
            except ServerResponseException as refused:
                assert refused.status_code == 503 and time.monotonic() < ends, kmsd.log()
            except ClientRequestException as refused:
                assert refused.error_code == "KMSD.0005" and time.monotonic() < ends, kmsd.log()

    again(lambda: use(huawei))
    # What was cut short in the midst is cleared away: the key is rotated as if nothing had been.
    rotate = sdk.RotateOnDemandRequest(body=sdk.RotateOnDemandRequestBody(key_id="alias/k0"))
    again(lambda: huawei.rotate_on_demand(rotate))
