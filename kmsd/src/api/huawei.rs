//! The public key API (`/v1.0/{project_id}/kms/<verb>`): parse, call, print.

mod aliases;
mod data;
mod grants;
mod import;
mod page;
mod rotation;
pub(super) mod tags;
pub(super) mod versions;

use self::page::{Page, number};
use super::{
    answer::{self, Reply},
    dispatch::parse,
};
use crate::{
    domain::{
        Caller, EncryptionContext, KeyRef, Operation, Refusal,
        state::{KeyState, Origin},
        time::WallTime,
    },
    service::{DatakeyRequest, KeyView, NewDatakey, NewKey, Service, ServiceError},
    wire::huawei::{
        CreateDatakeyReply, CreateDatakeyRequest, CreateDatakeyWithoutPlaintextReply, CreateKeyReply,
        CreateKeyRequest, CreatedKey, DecryptDatakeyReply, DecryptDatakeyRequest, DescribeKeyReply,
        KeyDetails, KeyRequest, KeyStateReply, KeyStatusReply, ListKeysReply, ListKeysRequest,
        ScheduleDeletionRequest, SecretHex,
    },
};

/// Name that an `additional_authenticated_data` takes in the context.
const AAD_NAME: &str = "additional_authenticated_data";
/// Longest `additional_authenticated_data`, in bytes, as published.
const MAX_AAD: usize = 128;
/// Most keys on one page of `list-keys`.
const MAX_PAGE: usize = 1000;

/// Answers a verb.
pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    verb: &str,
    body: &[u8],
) -> Result<Reply, ServiceError> {
    match verb {
        "create-key" => {
            let request: CreateKeyRequest = parse(body)?;
            only(request.key_spec.as_deref(), "AES_256", "key_spec", "AES_256")?;
            only(request.key_usage.as_deref(), "ENCRYPT_DECRYPT", "key_usage", "ENCRYPT_DECRYPT")?;
            let description = request.key_description.unwrap_or_default();
            let origin = match request.origin.as_deref() {
                None | Some("kms") => Origin::Kms,
                Some("external") => Origin::External,
                Some(_) => {
                    return Err(
                        Refusal::ParameterInvalid { name: "origin", expected: "kms or external" }.into()
                    );
                }
            };
            let new = NewKey { description: &description, origin, ..NewKey::named(&request.key_alias) };
            let view = service.create_key(caller, new).await?;
            let key_info = CreatedKey { key_id: view.key.id.to_string(), domain_id: DOMAIN.to_owned() };
            Ok(answer::ok(&CreateKeyReply { key_info }))
        }
        "describe-key" => {
            let request: KeyRequest = parse(body)?;
            let view = service.describe_key(caller, &key(&request.key_id)?).await?;
            Ok(answer::ok(&DescribeKeyReply { key_info: details(&view) }))
        }
        "list-keys" => Ok(answer::ok(&list(service, caller, &parse(body)?).await?)),
        "create-datakey" => {
            let new = create_datakey(service, caller, body, Operation::CreateDatakey).await?;
            let NewDatakey { key, mut plaintext, wrapped } = new;
            Ok(answer::ok(&CreateDatakeyReply {
                key_id: key.to_string(),
                plain_text: SecretHex::new(std::mem::take(&mut *plaintext)),
                cipher_text: hex::encode(wrapped),
            }))
        }
        "create-datakey-without-plaintext" => {
            let new = create_datakey(service, caller, body, Operation::CreateDatakeyWithoutPlaintext).await?;
            Ok(answer::ok(&CreateDatakeyWithoutPlaintextReply {
                key_id: new.key.to_string(),
                cipher_text: hex::encode(new.wrapped),
            }))
        }
        "decrypt-datakey" => decrypt_datakey(service, caller, parse(body)?).await,
        "enable-key" => {
            let request: KeyRequest = parse(body)?;
            let view = service.enable_key(caller, &key(&request.key_id)?).await?;
            Ok(answer::ok(&KeyStatusReply { key_info: state(&view) }))
        }
        "disable-key" => {
            let request: KeyRequest = parse(body)?;
            let view = service.disable_key(caller, &key(&request.key_id)?).await?;
            Ok(answer::ok(&KeyStatusReply { key_info: state(&view) }))
        }
        "schedule-key-deletion" => {
            let request: ScheduleDeletionRequest = parse(body)?;
            let key = key(&request.key_id)?;
            let view = service.schedule_deletion(caller, &key, &request.pending_days).await?;
            Ok(answer::ok(&state(&view)))
        }
        "cancel-key-deletion" => {
            let request: KeyRequest = parse(body)?;
            let view = service.cancel_deletion(caller, &key(&request.key_id)?).await?;
            Ok(answer::ok(&state(&view)))
        }
        "update-key-description" => tags::describe(service, caller, body).await,
        "update-key-alias" => aliases::rename(service, caller, body).await,
        "aliases" => aliases::create(service, caller, body).await,
        _ => {
            if let Some(answered) = rotation::answer(service, caller, verb, body).await {
                return answered;
            }
            if let Some(answered) = import::answer(service, caller, verb, body).await {
                return answered;
            }
            match grants::answer(service, caller, verb, body).await {
                Some(answered) => answered,
                None => data::answer(service, caller, verb, body).await,
            }
        }
    }
}

/// There is one domain and one region here: this installation.
const DOMAIN: &str = "default";
const REALM: &str = "local";

async fn create_datakey(
    service: &Service,
    caller: &Caller,
    body: &[u8],
    operation: Operation,
) -> Result<NewDatakey, ServiceError> {
    let request: CreateDatakeyRequest = parse(body)?;
    let len = match (request.key_spec.as_deref(), request.datakey_length.as_deref()) {
        (Some("AES_256") | None, None) => 32,
        (Some("AES_128"), None) => 16,
        (Some(_), None) => {
            return Err(Refusal::ParameterInvalid { name: "key_spec", expected: "AES_256 or AES_128" }.into());
        }
        (_, Some(bits)) => bits
            .trim()
            .parse::<usize>()
            .ok()
            .filter(|bits| bits.is_multiple_of(8))
            .map(|bits| bits / 8)
            .ok_or(Refusal::DatakeyLength)?,
    };
    let context = context(request.encryption_context, request.additional_authenticated_data)?;
    let request = DatakeyRequest { key: key(&request.key_id)?, context, len };
    service.create_datakey(caller, request, operation).await
}

async fn decrypt_datakey(
    service: &Service,
    caller: &Caller,
    request: DecryptDatakeyRequest,
) -> Result<Reply, ServiceError> {
    let wrapped = hex::decode(&request.cipher_text)
        .map_err(|_| Refusal::ParameterInvalid { name: "cipher_text", expected: "hexadecimal digits" })?;
    let expected = request.key_id.as_deref().map(key).transpose()?;
    let context = context(request.encryption_context, request.additional_authenticated_data)?;
    let mut plaintext = service.decrypt_datakey(caller, expected.as_ref(), &wrapped, &context).await?;
    if let Some(length) = request.datakey_cipher_length
        && length.trim().parse() != Ok(plaintext.len())
    {
        return Err(Refusal::ParameterInvalid {
            name: "datakey_cipher_length",
            expected: "the number of bytes of the data key",
        }
        .into());
    }
    let digest = {
        use sha2::{Digest, Sha256};
        hex::encode(Sha256::digest(&*plaintext))
    };
    Ok(answer::ok(&DecryptDatakeyReply {
        datakey_length: plaintext.len().to_string(),
        data_key: SecretHex::new(std::mem::take(&mut *plaintext)),
        datakey_dgst: digest,
    }))
}

async fn list(
    service: &Service,
    caller: &Caller,
    request: &ListKeysRequest,
) -> Result<ListKeysReply, ServiceError> {
    let page = Page::parse(request.limit.as_deref(), request.marker.as_deref(), MAX_PAGE, "1 to 1000")?;
    let state = number(request.key_state.as_deref(), "key_state", "2, 3, 4 or 5")?
        .map(|n| u8::try_from(n).ok().and_then(KeyState::from_number))
        .map(|state| state.ok_or(Refusal::ParameterInvalid { name: "key_state", expected: "2, 3, 4 or 5" }))
        .transpose()?;
    let all = service.list_keys(caller, state).await?;
    let (part, next) = page.of(&all);
    let part: Vec<KeyDetails> = part.iter().map(details).collect();
    Ok(ListKeysReply {
        keys: part.iter().map(|key| key.key_id.clone()).collect(),
        key_details: part,
        truncated: next.is_some().to_string(),
        next_marker: next.unwrap_or_default(),
        total: u64::try_from(all.len()).unwrap_or(u64::MAX),
    })
}

fn details(view: &KeyView) -> KeyDetails {
    let time = |time: Option<WallTime>| time.map(|t| t.0.to_string()).unwrap_or_default();
    let key = &view.key;
    KeyDetails {
        key_id: key.id.to_string(),
        domain_id: DOMAIN.to_owned(),
        key_alias: key.alias.to_string(),
        realm: REALM.to_owned(),
        key_description: key.description.clone(),
        key_spec: "AES_256".to_owned(),
        key_usage: "ENCRYPT_DECRYPT".to_owned(),
        creation_date: time(Some(key.created_at)),
        scheduled_deletion_date: time(view.deletion_date),
        key_state: key.state.number().to_string(),
        default_key_flag: u8::from(key.is_default).to_string(),
        key_type: "1".to_owned(),
        expiration_time: time(view.material_expires),
        origin: key.origin.as_str().to_owned(),
        key_rotation_enabled: key.rotation.is_some().to_string(),
        key_version: key.current().map_or(0, |version| version.number()),
    }
}

fn state(view: &KeyView) -> KeyStateReply {
    KeyStateReply { key_id: view.key.id.to_string(), key_state: view.key.state.number().to_string() }
}

fn key(text: &str) -> Result<KeyRef, Refusal> {
    if text.is_empty() {
        return Err(Refusal::ParameterMissing { name: "key_id" });
    }
    text.parse().map_err(|_| Refusal::NoSuchKey { key: text.chars().take(64).collect() })
}

fn context(mut context: EncryptionContext, aad: Option<String>) -> Result<EncryptionContext, Refusal> {
    if let Some(aad) = aad.filter(|aad| !aad.is_empty()) {
        if aad.len() > MAX_AAD {
            return Err(Refusal::ParameterInvalid { name: AAD_NAME, expected: "at most 128 bytes" });
        }
        context.insert(AAD_NAME, &aad);
    }
    Ok(context)
}

fn only(
    value: Option<&str>,
    allowed: &str,
    name: &'static str,
    expected: &'static str,
) -> Result<(), Refusal> {
    match value {
        Some(value) if value != allowed => Err(Refusal::ParameterInvalid { name, expected }),
        _ => Ok(()),
    }
}
