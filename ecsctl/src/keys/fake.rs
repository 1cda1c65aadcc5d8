//! A key service in memory, whose keys can be put into any state.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use ::kmsd::domain::grant::GrantSpec;

use crate::{
    keys::{Health, KeyError, KeyService, NewKey},
    model::key::{Grant, Key, KeyState},
