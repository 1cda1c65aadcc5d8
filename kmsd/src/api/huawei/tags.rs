//! What people write on keys: `update-key-description`, tags, and the questions about all of one's keys.

use std::collections::{BTreeMap, BTreeSet};

use http_body_util::Full;
use hyper::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::{aliases, details, key, page::number, versions};
use crate::{
    api::{
        answer::{self, Reply},
        auth::decode,
        dispatch::parse,
    },
    domain::{Caller, KeyRef, Refusal},
    service::{KeyView, Service, ServiceError},
    wire::{
        huawei::{KeyDetails, maybe_text_or_number},
        names::{KeyTags, Tag, TagsAction},
    },
};

/// Most keys in an answer to a question by tags.
const MAX_PAGE: usize = 1000;

#[derive(Deserialize)]
struct OneTag {
    tag: Tag,
}

#[derive(Serialize, Deserialize)]
struct TagValues {
    key: String,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Serialize)]
struct AllTags {
    tags: Vec<TagValues>,
}

#[derive(Deserialize)]
struct Question {
    action: String,
    #[serde(default)]
    tags: Vec<TagValues>,
    #[serde(default)]
    matches: Vec<Tag>,
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    limit: Option<String>,
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    offset: Option<String>,
}

#[derive(Serialize)]
struct Found {
    resources: Vec<Resource>,
    total_count: usize,
}

#[derive(Serialize)]
struct Resource {
    resource_id: String,
    resource_name: String,
    resource_detail: KeyDetails,
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Description {
    key_id: String,
    key_description: String,
}

#[derive(Serialize)]
struct DescriptionReply {
    key_info: DescribedKey,
}

#[derive(Serialize)]
struct DescribedKey {
    key_id: String,
    key_description: String,
}

#[derive(Serialize)]
struct Instances {
    instance_num: usize,
}

/// `update-key-description`
pub(super) async fn describe(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let Description { key_id, key_description } = parse(body)?;
    let view = service.update_description(caller, &key(&key_id)?, &key_description).await?;
    let key_info =
        DescribedKey { key_id: view.key.id.to_string(), key_description: view.key.description.clone() };
    Ok(answer::ok(&DescriptionReply { key_info }))
}

/// Answers a path below `kms/` that is not one verb.
pub(in crate::api) async fn answer(
    service: &Service,
    caller: &Caller,
    method: &Method,
    path: &[&str],
    query: &str,
    body: &[u8],
) -> Result<Reply, ServiceError> {
    match (method, path) {
        (&Method::GET, ["aliases"]) => aliases::list(service, caller, query).await,
        (&Method::DELETE, ["aliases"]) => aliases::delete(service, caller, body).await,
        (&Method::POST, ["alias", "associate"]) => aliases::associate(service, caller, body).await,
        (&Method::GET, ["user-quotas"]) => versions::quotas(service, caller).await,
        (&Method::GET, ["tags"]) => {
            let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for view in service.list_keys(caller, None).await? {
                for (name, value) in view.key.tags.iter() {
                    values.entry(name.to_owned()).or_default().insert(value.to_owned());
                }
            }
            let tags = values
                .into_iter()
                .map(|(key, values)| TagValues { key, values: values.into_iter().collect() })
                .collect();
            Ok(answer::ok(&AllTags { tags }))
        }
        (&Method::GET, ["user-instances"]) => {
            let all = service.list_keys(caller, None).await?;
            Ok(answer::ok(&Instances {
                instance_num: all.iter().filter(|view| !view.key.is_default).count(),
            }))
        }
        (&Method::POST, ["resource_instances", "action"]) => {
            let question = parse(body)?;
            find(&service.list_keys(caller, None).await?, &question)
        }
        (&Method::GET, [id, "tags"]) => {
            let view = service.describe_key(caller, &key(id)?).await?;
            let tags = tags_of(&view);
            Ok(answer::ok(&KeyTags { exist_tags_num: tags.len(), tags }))
        }
        (&Method::POST, [id, "tags"]) => {
            let OneTag { tag } = parse(body)?;
            service.tag_key(caller, &key(id)?, vec![(tag.key, tag.value)]).await?;
            Ok(no_content())
        }
        (&Method::POST, [id, "tags", "action"]) => {
            let TagsAction { action, tags } = parse(body)?;
            act(service, caller, &key(id)?, &action, tags).await?;
            Ok(no_content())
        }
        (&Method::DELETE, [id, "tags", name]) => {
            let name = String::from_utf8(decode(name)).map_err(|_| Refusal::TagInvalid)?;
            service.untag_key(caller, &key(id)?, vec![name]).await?;
            Ok(no_content())
        }
        _ => Err(Refusal::NoSuchVerb.into()),
    }
}

async fn act(
    service: &Service,
    caller: &Caller,
    key: &KeyRef,
    action: &str,
    tags: Vec<Tag>,
) -> Result<KeyView, ServiceError> {
    match action {
        "create" => {
            let tags = tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
            service.tag_key(caller, key, tags).await
        }
        "delete" => service.untag_key(caller, key, tags.into_iter().map(|tag| tag.key).collect()).await,
        _ => Err(Refusal::ParameterInvalid { name: "action", expected: "create or delete" }.into()),
    }
}

/// Keys that have all of the tags, each with one of its values (with any, if none is given), and whose name begins as asked.
fn find(all: &[KeyView], question: &Question) -> Result<Reply, ServiceError> {
    let limit = number(question.limit.as_deref(), "limit", "a number")?.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let offset = number(question.offset.as_deref(), "offset", "a number")?.unwrap_or(0);
    let has = |view: &KeyView, wanted: &TagValues| {
        view.key.tags.iter().any(|(name, value)| {
            name == wanted.key && (wanted.values.is_empty() || wanted.values.iter().any(|v| v == value))
        })
    };
    let begins = |view: &KeyView, wanted: &Tag| {
        wanted.key == "resource_name" && view.key.alias.as_str().starts_with(&wanted.value)
    };
    let found: Vec<&KeyView> = all
        .iter()
        .filter(|view| question.tags.iter().all(|wanted| has(view, wanted)))
        .filter(|view| question.matches.iter().all(|wanted| begins(view, wanted)))
        .collect();
    let resources = match question.action.as_str() {
        "filter" => found.iter().skip(offset).take(limit).map(|view| resource(view)).collect(),
        "count" => Vec::new(),
        _ => return Err(Refusal::ParameterInvalid { name: "action", expected: "filter or count" }.into()),
    };
    Ok(answer::ok(&Found { resources, total_count: found.len() }))
}

fn resource(view: &KeyView) -> Resource {
    Resource {
        resource_id: view.key.id.to_string(),
        resource_name: view.key.alias.to_string(),
        resource_detail: details(view),
        tags: tags_of(view),
    }
}

fn tags_of(view: &KeyView) -> Vec<Tag> {
    let tag = |(key, value): (&str, &str)| Tag { key: key.to_owned(), value: value.to_owned() };
    view.key.tags.iter().map(tag).collect()
}

fn no_content() -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}
