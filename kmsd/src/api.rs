//! What requests come in by.

#[allow(dead_code)]
pub(crate) mod auth;
#[allow(dead_code, unused_imports)]
pub(crate) mod net;

mod answer;
mod control;
mod dispatch;
mod huawei;
pub(crate) mod unix;
