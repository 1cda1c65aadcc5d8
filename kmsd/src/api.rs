//! What requests come in by.

mod auth;
mod aws;
pub(crate) mod gateway;
pub(crate) mod net;

mod answer;
mod control;
mod dispatch;
mod huawei;
#[cfg(test)]
pub(crate) mod traces;
pub(crate) mod unix;
