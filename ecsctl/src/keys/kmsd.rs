//! The real key service: kmsd, by its own client.

use std::path::Path;

use kmsd::{
    client::{Client, ClientError, KeyInfo},
    domain::{self, KeyId, grant::GrantSpec},
};

use crate::{
    keys::{Health, KeyError, KeyService, NewKey},
    model::key::{Grant, Key, KeyState},
